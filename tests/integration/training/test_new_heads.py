"""Transfer to other classes: a trained network gets a fresh head for those of the data, and keeps all else."""

import dataclasses

import pytest
import torch
from safetensors.torch import save_file
from test_run import tiny_network, train_anew
from tiny_runs import RECIPE
from transformers import AutoModelForImageClassification

from neumeta_hf.errors import RecipeError, TargetError
from neumeta_hf.targets import LeNetConfig, config_of, find_target
from neumeta_hf.training import load_target, recipe_from_dict
from neumeta_hf.training.agreement import resolve_recipe

OTHERS = ["owl", "cat", "dog", "emu"]
GREY = {"mean": [0.5], "std": [0.5]}


def classifier_of_three():
    config = LeNetConfig(hidden_channels=[4, 6, 8], kernel_size=3, image_size=8, num_labels=3)
    return find_target(config).build(config)


def recipe_for(family, checkpoint, **target):
    data = {"dataset": "digits", "image_size": 16, "num_channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3}
    if family == "lenet":
        data |= {"image_size": 8, "num_channels": 1, **GREY}
    if family == "upernet":
        data["labels"] = "mask"
    values = {**RECIPE, "data": data, "target": {"family": family, "checkpoint": str(checkpoint), **target}}
    return recipe_from_dict(values)


@pytest.mark.parametrize("names", [OTHERS, OTHERS[:2], OTHERS[:3]], ids=len)
@pytest.mark.parametrize(
    ("family", "is_bare"),
    [("lenet", False), ("cifar_resnet", False), ("cifar_resnet", True), ("resnet", False), ("upernet", False)],
)
def test_only_what_depends_on_the_number_of_classes_is_new(family, is_bare, names, tmp_path):
    network = classifier_of_three() if family == "lenet" else tiny_network(family)
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.add_(0.5)  # as training leaves them: no bias is 0
    checkpoint = tmp_path / "network"
    if is_bare:
        checkpoint = tmp_path / "network.safetensors"
        save_file(network.state_dict(), checkpoint)
    else:
        config_of(network).id2label = dict(enumerate(["a", "b", "c"]))
        network.save_pretrained(checkpoint)
    first, second = (load_target(recipe_for(family, checkpoint, new_head=True), names) for _ in range(2))
    config = config_of(first)
    assert config.id2label == dict(enumerate(names))
    assert config.label2id == {name: place for place, name in enumerate(names)}
    old, again, new = network.state_dict(), second.state_dict(), first.state_dict()
    assert list(new) == list(old)
    differing = {name for name, tensor in new.items() if not torch.equal(tensor, old[name])}
    layers = ("linear.", "classifier.1.", "decode_head.classifier.")  # of the four architectures
    head = {f"{layer}{kind}" for layer in layers for kind in ("weight", "bias")} & set(new)
    assert differing == head
    assert all(torch.equal(tensor, again[name]) for name, tensor in new.items())  # drawn by the recipe's seed
    assert find_target(config).build(config).load_state_dict(new)


def test_another_seed_draws_another_head(tmp_path):
    classifier_of_three().save_pretrained(tmp_path / "network")
    recipe = recipe_for("lenet", tmp_path / "network", new_head=True)
    weights = [load_target(dataclasses.replace(recipe, seed=seed), OTHERS).linear.weight for seed in (0, 1)]
    assert not torch.equal(*weights)


def test_a_network_of_three_classes_learns_ten(make_recipe, tmp_path):
    torch.manual_seed(0)
    classifier_of_three().save_pretrained(tmp_path / "three")
    target = {"config": {}, "checkpoint": str(tmp_path / "three")}
    with pytest.raises(TargetError, match="tells 3 classes apart, but the data set has 10: .*target.new_head: true"):
        train_anew(make_recipe(target=target))
    assert not (tmp_path / "run").exists()  # found before anything was trained or written
    output = train_anew(make_recipe(target={**target, "new_head": True}, train={"epochs": 1}))
    for folder in (output, output / "reference"):
        config = AutoModelForImageClassification.from_pretrained(folder).config
        assert list(config.id2label.values()) == list("0123456789")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pretrain": None}, "pretrain is null"),
        ({"target": {"checkpoint": None}}, "target.checkpoint names no network"),
        ({"target": {"classes": "position"}}, "target.classes: position"),
        ({"target": {"family": "mlp_vae"}, "data": {"labels": "none"}}, "tell no classes apart"),
    ],
)
def test_a_head_that_nothing_would_train_or_has_no_place_is_refused(changes, said, make_recipe, tmp_path):
    classifier_of_three().save_pretrained(tmp_path / "three")
    target = {"config": {}, "checkpoint": str(tmp_path / "three"), "new_head": True, **changes.get("target", {})}
    with pytest.raises(RecipeError, match=rf"target\.new_head: .*{said}"):
        train_anew(make_recipe(**{**changes, "target": target}))
    assert not (tmp_path / "run").exists()


def test_masks_without_names_are_of_the_classes_that_they_hold(tmp_path):
    network = tiny_network("upernet")
    config_of(network).id2label = dict(enumerate(["road", "car", "sky"]))
    network.save_pretrained(tmp_path / "network")
    recipe = recipe_for("upernet", tmp_path / "network", new_head=True)
    assert resolve_recipe(recipe, network).data.label_names is None
    recipe.target.new_head = False
    assert resolve_recipe(recipe, network).data.label_names == ["road", "car", "sky"]
