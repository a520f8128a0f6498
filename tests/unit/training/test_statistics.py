"""Which widths have their statistics stored, and what is made for all others."""

import dataclasses
import warnings

import numpy as np
import pytest
from transformers import ResNetConfig

from neumeta_hf.family_sizes import SizeWarning
from neumeta_hf.targets import CifarResNetConfig, LeNetConfig, find_target
from neumeta_hf.tasks import build_task
from neumeta_hf.training import Recipe
from neumeta_hf.training.checks import meta_family
from neumeta_hf.training.recipe import CalibrationRecipe
from neumeta_hf.training.sampling import training_widths
from neumeta_hf.training.statistics import resolve_calibration, statistics_widths
from neumeta_hf.widths import parse_widths

DENSE = "0.25:1.0:0.015625"
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic", "image_size": 32}
TARGETS = {
    "lenet": lambda: LeNetConfig(hidden_channels=[4, 6, 8]),
    "lenet_batch_norm": lambda: LeNetConfig(hidden_channels=[4, 6, 8], batch_norm=True),
    "cifar_resnet": lambda: CifarResNetConfig(num_blocks=[1, 1, 1], stage_channels=[4, 6, 8]),
    "resnet": lambda: ResNetConfig(**RESNET),
}


def make_family(name, widths, **fields):
    recipe = Recipe(**fields)
    config = TARGETS[name]()
    recipe.target.family = find_target(config).name
    recipe.preparation.normalization = "keep"
    recipe.sizes.widths = widths
    return recipe, meta_family(recipe, build_task(find_target(config).task), config)


def covers(model, width):
    return model._empty_statistics().covers(model.size_at(width))


def unread(recipe, model, **options):
    """Uniform widths of the trained range whose statistics are neither stored nor read between two stored ones."""
    model.config.statistics_widths = statistics_widths(recipe, model, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SizeWarning)
        low, high = min(model.config.trained_widths), max(model.config.trained_widths)
        widths = [float(width) for width in np.linspace(low, high, 30)]
        return [width for width in widths if not covers(model, width)]


@pytest.mark.parametrize("name", ["lenet_batch_norm", "resnet"])
@pytest.mark.parametrize("widths", [DENSE, "0.25:1.0:0.0625", [0.5, 1.0], "0.15:1.0:0.05"])
def test_every_uniform_width_has_statistics_or_images(name, widths):
    recipe, model = make_family(name, widths)
    assert not unread(recipe, model) or resolve_calibration(recipe, model).images
    assert set(statistics_widths(recipe, model)) <= set(parse_widths(widths) if isinstance(widths, str) else widths)


@pytest.mark.parametrize("name", ["lenet_batch_norm", "cifar_resnet"])
@pytest.mark.parametrize("widths", [DENSE, "0.5:1.0:0.02"])
def test_of_many_near_widths_fewer_are_stored_and_none_is_lost(name, widths):
    recipe, model = make_family(name, widths)
    stored, trained = statistics_widths(recipe, model), parse_widths(widths)
    assert len(stored) < 0.7 * len(trained)
    assert (stored[0], stored[-1]) == (trained[0], trained[-1])
    assert unread(recipe, model) == []


@pytest.mark.parametrize("name", ["lenet_batch_norm", "resnet"])
@pytest.mark.parametrize("widths", ["0.25:1.0:0.125", [0.2, 1.0], [0.5], "0.15:1.0:0.05"])
def test_without_images_every_uniform_width_has_statistics(name, widths):
    recipe, model = make_family(name, widths)
    stored = statistics_widths(recipe, model, has_images=False)
    assert stored == sorted(set(stored))
    assert set(training_widths(recipe)) <= set(stored)
    assert unread(recipe, model, has_images=False) == []


def test_widths_that_are_named_or_few_are_all_stored():
    recipe, model = make_family("lenet_batch_norm", "0.25:1.0:0.046875")
    assert len(statistics_widths(recipe, model)) == 17
    recipe, model = make_family("lenet_batch_norm", [0.5, 1.0], statistics_widths=DENSE)
    assert statistics_widths(recipe, model) == parse_widths(DENSE)


def test_wide_gaps_between_many_widths_stay_as_they_are():
    recipe, model = make_family("lenet_batch_norm", "0.15:1.0:0.05")
    assert statistics_widths(recipe, model)[:3] == [0.15, 0.2, 0.25]


def numbers(calibration):
    return calibration.images, calibration.networks, calibration.steps


def test_images_are_made_unless_no_size_could_need_one_or_none_are_wanted():
    assert numbers(resolve_calibration(*make_family("resnet", [0.5, 1.0]))) == (64, 8, 200)
    assert resolve_calibration(*make_family("resnet", [1.0])).images == 0
    assert resolve_calibration(*make_family("lenet", [0.5, 1.0])).images == 0  # it has no BatchNorm
    none = CalibrationRecipe(images=0)
    assert resolve_calibration(*make_family("resnet", [0.5, 1.0], calibration=none)).images == 0


def test_what_a_recipe_names_is_what_it_was():
    named = CalibrationRecipe(images=128)
    assert numbers(resolve_calibration(*make_family("resnet", [0.5, 1.0], calibration=named))) == (128, 16, 400)
    named = CalibrationRecipe(networks=3, steps=7)
    assert numbers(resolve_calibration(*make_family("resnet", [0.5, 1.0], calibration=named))) == (64, 3, 7)


def test_fewer_large_images_are_made():
    recipe, model = make_family("resnet", [0.5, 1.0])
    counts = []
    for size in (32, 64, 128, 224, 1024):
        model.config.target_config.image_size = size
        counts.append(resolve_calibration(recipe, model).images)
    assert counts == [64, 64, 16, 8, 8]


def test_a_recipe_that_leaves_it_open_is_not_changed():
    recipe, model = make_family("resnet", [0.5, 1.0])
    before = dataclasses.asdict(recipe)
    resolve_calibration(recipe, model)
    assert dataclasses.asdict(recipe) == before
