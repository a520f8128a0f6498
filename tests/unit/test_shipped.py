"""The trained families that come with the package are found, are small, and do what their sweep says."""

import json
import socket

import pytest
import torch

import neumeta_hf
from neumeta_hf import NeuMetaModel
from neumeta_hf.errors import RecipeError
from neumeta_hf.shipped import examples


@pytest.fixture(scope="module")
def digits():
    """The digits' test images and their classes."""
    recipe = neumeta_hf.load_recipe(neumeta_hf.example("digits-lenet") / "recipe.yaml", [])
    test = neumeta_hf.load_image_data(recipe.data).test
    return test.__getitems__(list(range(len(test))))


def test_the_examples_are_small_and_name_no_place():
    assert "digits-lenet" in examples()
    for folder in examples().values():
        files = list(folder.iterdir())
        assert sum(file.stat().st_size for file in files) < 500_000
        assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= {file.name for file in files}
        texts = [file.read_text(encoding="utf-8") for file in files if file.suffix in (".json", ".yaml")]
        assert not [text for text in texts if str(folder.parents[3]) in text or "/tmp" in text or "/home" in text]


@pytest.mark.parametrize("name", ["digits", "", "../..", "/etc", "digits-lenet/..", "org/digits-lenet"])
def test_an_unknown_example_is_an_error_that_lists_what_there_is(name):
    with pytest.raises(RecipeError, match="digits-lenet"):
        neumeta_hf.example(name)


def test_its_networks_are_as_good_as_its_sweep_says_and_no_network_is_reached(digits, monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was reached")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    folder = neumeta_hf.example("digits-lenet")
    family = NeuMetaModel.from_pretrained(folder)
    rows = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))["rows"]
    assert [row["width"] for row in rows] == [0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0]
    for row in rows:
        network = family.morph(width=row["width"])
        assert network.num_parameters() == row["num_parameters"]
        with torch.no_grad():
            right = network(digits["pixel_values"]).logits.argmax(-1) == digits["labels"]
        assert right.float().mean().item() == pytest.approx(row["accuracy"], abs=0.006)  # two images
        assert row["accuracy"] > 0.98
