"""Runs on images that are read as they come."""

from pathlib import Path

import datasets
import pytest
from safetensors.torch import load_file
from tests.integration.training.tiny_runs import RECIPE, reset_accelerate
from tests.unit.data.test_image_streams import save

from neumeta_hf import NeuMetaModel, train
from neumeta_hf.errors import RecipeError
from neumeta_hf.training import recipe_from_dict


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    reset_accelerate()


@pytest.fixture
def images(tmp_path):
    return save(tmp_path / "images", num=40, files=2)


def streamed(images, output="run", **changed):
    data = {"dataset": images, "streaming": True, "validation_split": "validation", "image_column": "image"}
    loop = {"epochs": 2, "max_steps": 4, "batch_size": 8}
    config = {"hidden_channels": [4, 6, 8], "kernel_size": 3, "image_size": 8, "batch_norm": True}
    return recipe_from_dict(
        {
            **RECIPE,
            "output_dir": output,
            "data": {**data, "label_column": "label", "image_size": 8, "shuffle_blocks": 12, "augmentation": "crop"},
            "target": {"family": "lenet", "config": config},
            "pretrain": loop,
            "train": {**loop, **changed.pop("train", {})},
            "preparation": {"normalization": "keep"},
            "statistics_images": 30,
            "statistics_widths": [0.5, 1.0],
            "calibration": {"images": 0},
            **changed,
        }
    )


def test_a_run_on_streamed_images_ends_as_if_it_had_not_been_interrupted(images):
    whole = train(streamed(images, "whole"))
    assert train(streamed(images, train={"stop_after_steps": 3})) is None
    reset_accelerate()
    assert train(streamed(images), resume=True) is not None
    for name in ("model.safetensors", "last/model.safetensors"):
        assert Path("run", name).read_bytes() == Path("whole", name).read_bytes()
    # Statistics are those of images: a variance of one would be that of a start.
    variances = [value for name, value in load_file("whole/model.safetensors").items() if "running_var" in name]
    assert variances
    assert all((value != 1).any() for value in variances)
    assert NeuMetaModel.from_pretrained(whole).config.target_config.id2label[2] == "eel"


def test_nothing_of_a_stream_is_kept_by_the_static_part(images):
    with pytest.raises(RecipeError, match=r"static_cache\.augmentations=1.*stream"):
        train(streamed(images, static_cache={"augmentations": 1}))
    assert not Path("run").exists()
