"""Runs that start from a checkpoint: what it says of classes, images and precision holds to the end."""

import copy
import json
import shutil

import datasets
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from tiny_runs import RECIPE, reset_accelerate
from transformers import AutoImageProcessor, AutoModelForImageClassification, ResNetConfig, UperNetConfig

from neumeta_hf import cli
from neumeta_hf.data import load_image_data
from neumeta_hf.errors import DataError, RecipeError, TargetError
from neumeta_hf.evaluation import evaluate_network
from neumeta_hf.targets import LeNetConfig, build_image_processor, find_target
from neumeta_hf.training import load_recipe, load_target, recipe_from_dict, train

ORDER = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
TUNE = {"epochs": 1, "optimizer": {"name": "sgd", "learning_rate": 0.05}, "schedule": {"name": "constant"}}


def run(recipe, *, resume=False):
    """A run in a process of its own, as far as Accelerate can tell."""
    reset_accelerate()
    return train(recipe, resume=resume)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network that knows the digits a little, with its image processor. Tests must not write into it."""
    output = tmp_path_factory.mktemp("trained") / "run"
    values = copy.deepcopy({**RECIPE, "output_dir": str(output), "train": None})
    values["pretrain"]["epochs"] = 4
    values["preparation"] = {"normalization": "keep", "order": "identity"}
    run(recipe_from_dict(values))
    return output / "reference"


@pytest.fixture
def saved(trained, tmp_path):
    """A copy of the network, changed."""

    def save(name, change=None, *, processor=True):
        network = AutoModelForImageClassification.from_pretrained(trained)
        if change is not None:
            change(network)
        network.save_pretrained(tmp_path / name)
        if processor:
            shutil.copy(trained / "preprocessor_config.json", tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def recipe_from(tmp_path):
    """A recipe that starts from a checkpoint and leaves open what it can."""

    def make(checkpoint, name="run", *, target=None, data=None, **changes):
        values = copy.deepcopy({**RECIPE, "pretrain": None, "train": None, **changes})
        values["preparation"] = {"normalization": "keep", "order": "identity"}
        values["family"] = {"hypernetwork": {"type": "grid"}, "coordinate_noise": 0.0}  # which starts at the reference
        values["target"] = {"family": "lenet", "checkpoint": str(checkpoint), **(target or {})}
        values["data"] = {"dataset": "digits", **(data or {})}
        return recipe_from_dict({**values, "output_dir": str(tmp_path / name)})

    return make


def reorder(network):
    with torch.no_grad():
        for tensor in (network.linear.weight, network.linear.bias):
            tensor.copy_(tensor[ORDER].clone())
    names = dict(network.config.id2label)
    network.config.id2label = {place: names[old] for place, old in enumerate(ORDER)}
    network.config.label2id = {name: place for place, name in network.config.id2label.items()}


def weights(folder):
    return load_file(folder / "model.safetensors")


# ------------------------------------------------------------------------------------------------ classes


def test_classes_in_another_order_are_scored_as_they_are(trained, saved, recipe_from, tmp_path, capsys):
    other = saved("other", reorder)
    rows = {}
    for name, checkpoint in (("same", trained), ("reordered", other)):
        output = run(recipe_from(checkpoint, name, train={**RECIPE["train"], "epochs": 1}))
        assert cli.main(["-q", "evaluate", str(output), "--widths", "1"]) == 0
        rows[name] = json.loads((output / "sweep.json").read_text())["reference"]
        config = AutoModelForImageClassification.from_pretrained(output / "reference").config
        assert config.id2label == AutoModelForImageClassification.from_pretrained(checkpoint).config.id2label
        before, after = weights(checkpoint), weights(output / "reference")
        assert all(torch.equal(before[key], tensor) for key, tensor in after.items())  # nothing moved
    data = load_image_data(recipe_from(trained, data=RECIPE["data"]).data)
    expected = evaluate_network(AutoModelForImageClassification.from_pretrained(trained), data.test)["accuracy"]
    assert rows["same"]["accuracy"] == rows["reordered"]["accuracy"] == expected > 0.5
    capsys.readouterr()


def test_training_goes_on_with_each_class_where_the_checkpoint_has_it(trained, saved, recipe_from):
    other = saved("other", reorder)
    first, second = (
        weights(run(recipe_from(checkpoint, name, pretrain=TUNE)) / "reference")
        for name, checkpoint in (("same", trained), ("reordered", other))
    )
    for key, tensor in first.items():
        expected = tensor[ORDER] if key.startswith("linear") else tensor
        assert torch.allclose(second[key], expected, atol=1e-5), key
        assert not torch.equal(tensor, weights(trained)[key]), key


def test_a_resumed_run_keeps_the_order(saved, recipe_from, tmp_path):
    recipe = recipe_from(saved("other", reorder), train={**RECIPE["train"], "stop_after_steps": 3})
    assert run(recipe) is None
    shutil.rmtree(tmp_path / "other")  # all that is needed of it is in the run
    recipe.train.stop_after_steps = None
    output = run(recipe, resume=True)
    family = AutoModelForImageClassification.from_pretrained(output)
    assert [family.config.id2label[place] for place in range(10)] == list(map(str, ORDER))
    log = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    assert max(entry.get("train/validation/accuracy@1", 0) for entry in log) > 0.5


def rename(names):
    def change(network):
        network.config.id2label = dict(enumerate(names))
        network.config.label2id = {name: place for place, name in enumerate(names)}

    return change


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([*"012345678", "nine"], "lacks 'nine' of target.checkpoint; target.checkpoint lacks '9' of the data"),
        ([*"0123456788"], "target.checkpoint has '8' more than once"),
    ],
)
def test_other_classes_are_refused_with_both_sides_unless_meant(names, said, saved, recipe_from, tmp_path):
    checkpoint = saved("other", rename(names))
    with pytest.raises(TargetError, match=f"tells 10 classes apart.*{said}.*target.classes: position"):
        run(recipe_from(checkpoint))
    assert not (tmp_path / "run").exists()
    output = run(recipe_from(checkpoint, target={"classes": "position"}))
    config = AutoModelForImageClassification.from_pretrained(output / "reference").config
    assert list(config.id2label.values()) == [*"0123456789"]


def test_another_number_of_classes_is_refused(recipe_from, tmp_path):
    config = LeNetConfig(hidden_channels=[2, 2, 2], kernel_size=3, image_size=8, num_labels=3)
    for names in ({0: "0", 1: "1", 2: "2"}, None):
        config.id2label = names or {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
        find_target(config).build(config).save_pretrained(tmp_path / "three")
        for classes in ("name", "position"):
            recipe = recipe_from(tmp_path / "three", target={"classes": classes}, data={"mean": [0.5], "std": [0.5]})
            with pytest.raises(TargetError, match="tells 3 classes apart, but the data set has 10"):
                run(recipe)


def test_names_that_are_no_names_are_matched_by_position(saved, recipe_from):
    def unname(network):
        reorder(network)
        rename([f"LABEL_{place}" for place in range(10)])(network)

    output = run(recipe_from(saved("unnamed", unname)))
    config = AutoModelForImageClassification.from_pretrained(output / "reference").config
    assert list(config.id2label.values()) == [*"0123456789"]


def test_classes_that_target_config_names_are_matched_too(recipe_from):
    recipe = recipe_from("unused", pretrain=TUNE)
    recipe.target.checkpoint = None
    recipe.target.config = {**RECIPE["target"]["config"], "id2label": dict(enumerate(map(str, ORDER)))}
    output = run(recipe)
    reference = AutoModelForImageClassification.from_pretrained(output / "reference")
    assert list(reference.config.id2label.values()) == list(map(str, ORDER))
    recipe.target.config["id2label"] = dict(enumerate([*"abcdefghij"]))
    with pytest.raises(TargetError, match=r"target\.config tells 10 classes apart"):
        load_target(recipe, [*"0123456789"])


def test_a_network_of_another_kind_of_labels_is_refused(saved, recipe_from):
    def change(network):
        network.config.problem_type = "multi_label_classification"

    with pytest.raises(TargetError, match="problem_type='multi_label_classification'"):
        run(recipe_from(saved("several", change)))


# ------------------------------------------------------------------------------------------------ masks


@pytest.fixture
def masks(tmp_path):
    """Images and masks of classes 0 and 1 in training, and of one more in the test split."""

    def make(largest):
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
        folder = tmp_path / f"masks{largest}"
        folder.mkdir()
        for split, highest in (("train", 1), ("test", largest)):
            drawn = [np.random.default_rng(seed).integers(0, highest + 1, (32, 32), np.uint8) for seed in range(4)]
            rows = {"image": [Image.fromarray(each * 60) for each in drawn], "label": [*map(Image.fromarray, drawn)]}
            datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
        return folder

    return make


@pytest.fixture
def upernet(tmp_path):
    backbone = {"embedding_size": 4, "hidden_sizes": [4, 6], "depths": [1, 1], "layer_type": "basic"}
    config = UperNetConfig(
        backbone_config=ResNetConfig(**backbone, out_features=["stage1", "stage2"]),
        hidden_size=4,
        pool_scales=[1, 2],
        use_auxiliary_head=False,
        id2label={0: "sky", 1: "road", 2: "tree"},
        image_size=32,
    )
    find_target(config).build(config).save_pretrained(tmp_path / "upernet")
    return tmp_path / "upernet"


def of_masks(recipe_from, upernet, folder, **data):
    options = {"labels": "mask", "dataset": str(folder), "mean": [0.5] * 3, "std": [0.5] * 3, **data}
    return recipe_from(upernet, target={"family": "upernet"}, data={**options, "validation_fraction": 0.25})


def test_masks_without_names_are_of_the_checkpoints_classes(recipe_from, upernet, masks):
    recipe = of_masks(recipe_from, upernet, masks(2))
    output = run(recipe)
    written = load_recipe(output / "recipe.yaml")
    assert written.data.label_names == ["sky", "road", "tree"]  # three, though training shows two of them
    assert written.data.image_size == 32
    assert load_image_data(written.data).test.__getitems__(range(4))["labels"].max() == 2


def test_an_index_beyond_the_checkpoints_classes_is_an_error(recipe_from, upernet, masks):
    with pytest.raises(DataError, match="value"):
        run(of_masks(recipe_from, upernet, masks(3)))


def test_masks_with_names_are_matched_by_them(recipe_from, upernet, masks):
    output = run(of_masks(recipe_from, upernet, masks(2), label_names=["tree", "sky", "road"]))
    assert load_recipe(output / "recipe.yaml").data.label_names == ["tree", "sky", "road"]  # as the masks count them
    config = json.loads((output / "reference" / "config.json").read_text())
    assert list(config["id2label"].values()) == ["sky", "road", "tree"]


def test_masks_with_fewer_names_are_refused(recipe_from, upernet, masks):
    with pytest.raises(TargetError, match="lacks 'tree' of target.checkpoint"):
        run(of_masks(recipe_from, upernet, masks(1), label_names=["sky", "road"]))


# ------------------------------------------------------------------------------------------------ images


def test_what_the_recipe_leaves_open_is_the_checkpoints_to_the_end(trained, recipe_from, tmp_path):
    recipe = recipe_from(trained, train={**RECIPE["train"], "epochs": 1})
    processor = build_image_processor(num_channels=1, image_size=8, mean=[0.2], std=[0.4], interpolation="bicubic")
    shutil.copytree(trained, tmp_path / "told")
    processor.save_pretrained(tmp_path / "told")
    recipe.target.checkpoint = str(tmp_path / "told")
    output = run(recipe)
    written = load_recipe(output / "recipe.yaml").data
    assert (written.mean, written.std, written.interpolation) == ([0.2], [0.4], "bicubic")
    assert (written.image_size, written.num_channels, written.center_crop) == (8, 1, False)
    for folder in (output, output / "reference"):
        saved = AutoImageProcessor.from_pretrained(folder)
        assert (list(saved.image_mean), list(saved.image_std), int(saved.resample)) == ([0.2], [0.4], 3)


def test_a_difference_is_refused_before_anything_is_written(trained, recipe_from, tmp_path):
    with pytest.raises(RecipeError, match=r"data\.mean=\[0\.5\] in the recipe, \[0\.305\] in "):
        run(recipe_from(trained, data={"mean": [0.5]}))
    assert not (tmp_path / "run").exists()
    on_purpose = {"preprocessing": "recipe"}
    output = run(recipe_from(trained, target=on_purpose, data={"mean": [0.5], "std": [0.376]}))
    assert list(AutoImageProcessor.from_pretrained(output / "reference").image_mean) == [0.5]


def test_a_run_goes_on_though_its_checkpoint_is_gone(saved, recipe_from, tmp_path):
    recipe = recipe_from(saved("gone"), train={**RECIPE["train"], "stop_after_steps": 3})
    assert run(recipe) is None
    shutil.rmtree(tmp_path / "gone")
    recipe.train.stop_after_steps = None
    recipe.data.mean = [0.4]
    with pytest.raises(RecipeError, match=r"different: data\.mean"):
        run(recipe, resume=True)
    recipe.data.mean = None
    before = (tmp_path / "run" / "recipe.yaml").read_text()
    assert run(recipe, resume=True) == tmp_path / "run"
    assert (tmp_path / "run" / "recipe.yaml").read_text() == before
    assert yaml.safe_load(before)["data"]["mean"] == [0.305]


# ------------------------------------------------------------------------------------------------ precision


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_coarse_checkpoint_trains_as_its_float32_copy_does(precision, saved, recipe_from):
    coarse = saved("coarse", lambda network: network.to(torch.bfloat16))
    fine = saved("fine", lambda network: network.to(torch.bfloat16).float())
    assert {tensor.dtype for tensor in weights(coarse).values()} == {torch.bfloat16}
    outputs = [
        run(recipe_from(checkpoint, checkpoint.name + "_run", pretrain=TUNE, mixed_precision=precision))
        for checkpoint in (coarse, fine)
    ]
    for folder in ("pretrained", "reference"):
        first, second = (weights(output / folder) for output in outputs)
        for key, tensor in first.items():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, second[key]), key
        assert json.loads((outputs[0] / folder / "config.json").read_text())["dtype"] == "float32"
    moved = [(tensor != weights(fine)[key]).float().mean() for key, tensor in weights(outputs[0] / "reference").items()]
    assert min(moved) > 0.5


def test_a_coarse_network_is_prepared_and_it_is_said(saved, tmp_path, capsys):
    coarse = saved("coarse", lambda network: network.to(torch.bfloat16))
    assert cli.main(["prepare", str(coarse), "--output", str(tmp_path / "prepared"), "--order", "identity"]) == 0
    assert "bfloat16" in capsys.readouterr().err
    for key, tensor in weights(tmp_path / "prepared").items():
        assert torch.equal(tensor, weights(coarse)[key].float())
