"""What recipe and checkpoint both say: taken where one is silent, refused where they differ."""

import dataclasses
import logging

import pytest

from neumeta_hf.data import DataConfig, Preprocessing
from neumeta_hf.errors import CheckpointError, RecipeError, TargetError
from neumeta_hf.targets import LeNetConfig, LeNetForImageClassification, build_image_processor, find_target
from neumeta_hf.training import Recipe
from neumeta_hf.training.agreement import continue_recipe, resolve_recipe
from neumeta_hf.training.recipe import TargetRecipe

STATED = {
    "image_size": 12,
    "center_crop": False,
    "interpolation": "bicubic",
    "num_channels": 1,
    "mean": [0.25],
    "std": [0.75],
}
OTHER = {
    "image_size": 16,
    "center_crop": True,
    "interpolation": "bilinear",
    "num_channels": 3,
    "mean": [0.2501],
    "std": [0.5],
}


@pytest.fixture
def network(tmp_path):
    """A network for 12x12 grey images, with its image processor beside it."""
    model = LeNetForImageClassification(LeNetConfig(hidden_channels=[2, 2, 2], image_size=12, num_labels=3))
    model.save_pretrained(tmp_path / "network")
    options = {key: value for key, value in STATED.items() if key != "center_crop"}
    build_image_processor(**options).save_pretrained(tmp_path / "network")
    return model


def recipe_for(tmp_path, *, preprocessing="checkpoint", classes="name", **data):
    target = TargetRecipe(checkpoint=str(tmp_path / "network"), preprocessing=preprocessing, classes=classes)
    return Recipe(target=target, data=DataConfig(**data))


def said(recipe):
    return {key: getattr(recipe.data, key) for key in STATED}


def test_where_the_recipe_says_nothing_the_checkpoint_is_taken(network, tmp_path):
    recipe = recipe_for(tmp_path)
    assert said(resolve_recipe(recipe, network)) == STATED
    assert said(recipe) == dict.fromkeys(STATED)  # the given one stays as it was


def test_saying_the_same_is_no_difference(network, tmp_path):
    recipe = recipe_for(tmp_path, **{**STATED, "image_size": [12, 12]})
    assert resolve_recipe(recipe, network).data == recipe.data


@pytest.mark.parametrize("key", [key for key in OTHER if key != "num_channels"])
def test_each_difference_is_refused_with_both_values(key, network, tmp_path):
    with pytest.raises(RecipeError, match=f"data.{key}=.*target.preprocessing: recipe") as refused:
        resolve_recipe(recipe_for(tmp_path, **{key: OTHER[key]}), network)
    assert str(OTHER[key]) in str(refused.value)
    assert str(STATED[key]) in str(refused.value)


def test_all_differences_are_in_one_error(network, tmp_path):
    with pytest.raises(RecipeError) as refused:
        resolve_recipe(recipe_for(tmp_path, image_size=16, mean=[0.5], std=[0.75]), network)
    assert "data.image_size" in str(refused.value)
    assert "data.mean" in str(refused.value)
    assert "data.std" not in str(refused.value)


def test_the_recipe_may_be_right_on_purpose(network, tmp_path, caplog):
    (tmp_path / "network" / "preprocessor_config.json").write_text("damaged")
    caplog.set_level(logging.INFO, logger="neumeta_hf")
    recipe = resolve_recipe(recipe_for(tmp_path, preprocessing="recipe", mean=[0.1], std=[0.2]), network)
    assert said(recipe) == {**STATED, "interpolation": "bilinear", "mean": [0.1], "std": [0.2]}
    assert "set aside" in caplog.text
    with pytest.raises(CheckpointError):
        resolve_recipe(recipe_for(tmp_path), network)


def test_without_a_statement_a_guess_is_said_and_one_of_three_channels_refused(network, tmp_path, caplog):
    (tmp_path / "network" / "preprocessor_config.json").unlink()
    recipe = resolve_recipe(recipe_for(tmp_path), network)
    assert said(recipe) == {**dataclasses.asdict(Preprocessing()), "image_size": 12}
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "data.mean and data.std" in warning
    config = LeNetConfig(hidden_channels=[2, 2, 2], image_size=12, num_labels=3, num_input_channels=3)
    with pytest.raises(RecipeError, match=r"data\.std: no preprocessor_config\.json"):
        resolve_recipe(recipe_for(tmp_path, mean=[0.5] * 3), LeNetForImageClassification(config))


def test_without_a_checkpoint_the_defaults_apply():
    recipe = resolve_recipe(Recipe(data=DataConfig(image_size=12)), None)
    assert said(recipe) == {**dataclasses.asdict(Preprocessing()), "image_size": 12}
    assert recipe.data.label_names is None


def test_a_network_for_images_of_all_memory_is_refused(tmp_path):
    config = LeNetConfig(hidden_channels=[2, 2, 2], image_size=12, num_labels=3)
    model = LeNetForImageClassification(config)
    model.config.image_size = 2**19
    (tmp_path / "network").mkdir()
    with pytest.raises(TargetError, match="524288x524288"):
        resolve_recipe(recipe_for(tmp_path), model)


@pytest.mark.parametrize(
    ("id2label", "fields", "expected"),
    [
        ({0: "sky", 1: "road", 2: "tree"}, {}, ["sky", "road", "tree"]),
        ({0: "sky", 1: "road", 2: "tree"}, {"label_names": ["a", "b", "c"]}, ["a", "b", "c"]),
        ({0: "0", 1: "1", 2: "2"}, {}, None),
        ({0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}, {}, None),
    ],
)
def test_masks_without_names_are_named_by_the_checkpoint(id2label, fields, expected, target_configs, tmp_path):
    network = find_target("upernet").build(target_configs["upernet"])
    network.config.id2label = id2label
    (tmp_path / "network").mkdir()
    options = {"labels": "mask", "mean": [0.5] * 3, "std": [0.5] * 3, **fields}
    recipe = resolve_recipe(recipe_for(tmp_path, **options), network)
    assert (recipe.data.label_names, recipe.data.image_size) == (expected, [32, 48])
    by_position = resolve_recipe(recipe_for(tmp_path, classes="position", **options), network)
    assert by_position.data.label_names == fields.get("label_names")


def test_a_run_goes_on_with_what_it_wrote():
    written = Recipe(data=DataConfig(labels="mask", label_names=["a", "b"], **STATED))
    assert continue_recipe(Recipe(data=DataConfig(labels="mask")), written).data == written.data
    given = Recipe(data=DataConfig(labels="mask", mean=[0.9]))
    assert continue_recipe(given, written).data == dataclasses.replace(written.data, mean=[0.9])


def test_a_run_of_an_older_version_was_bilinear():
    written = Recipe(data=DataConfig(**{**STATED, "interpolation": None}))
    assert said(continue_recipe(Recipe(), written)) == {**STATED, "interpolation": "bilinear"}
