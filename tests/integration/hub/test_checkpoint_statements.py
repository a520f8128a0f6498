"""What a checkpoint states of its images and of its sizes, and an answer that cannot be had is no answer."""

import json

import pytest
from config_changes import change_config
from huggingface_hub import constants

from neumeta_hf import NeuMetaModel
from neumeta_hf.axes import Axis
from neumeta_hf.data.preprocessor import stated_preprocessing
from neumeta_hf.errors import CheckpointError, HubError
from neumeta_hf.targets import build_image_processor
from neumeta_hf.targets.lenet import LeNetFamily

OPTIONS = {"num_channels": 1, "model_type": "neumeta_lenet"}


@pytest.fixture
def repo(make_case, hub):
    def push(name, *, processor):
        make_case("lenet").reference.push_to_hub(name)
        if processor:
            build_image_processor(
                num_channels=1, image_size=8, mean=[0.3], std=[0.2], interpolation="bicubic"
            ).push_to_hub(name)
        return name

    return push


def test_what_a_repo_says_is_read_and_kept_for_when_there_is_no_network(repo, monkeypatch):
    name = repo("org/told", processor=True)
    expected = {"image_size": 8, "center_crop": False, "interpolation": "bicubic", "mean": [0.3], "std": [0.2]}
    assert stated_preprocessing(name, **OPTIONS) == expected
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert stated_preprocessing(name, **OPTIONS) == expected


def test_that_a_repo_says_nothing_is_known_only_when_it_was_asked(repo, monkeypatch):
    name = repo("org/silent", processor=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="target.preprocessing: recipe"):
        stated_preprocessing(name, **OPTIONS)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert stated_preprocessing(name, **OPTIONS) is None
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert stated_preprocessing(name, **OPTIONS) is None


def test_a_checkpoint_is_refused_when_the_rules_of_its_target_have_changed(make_case, tmp_path, monkeypatch):
    make_case("lenet").family().save_pretrained(tmp_path)
    version = json.loads((tmp_path / "config.json").read_text())["neumeta_version"]
    NeuMetaModel.from_pretrained(tmp_path)
    axes = LeNetFamily.axes

    def by_twos(family, config):
        return [Axis(axis.name, axis.full, step=2 if axis.name == "conv2" else 1) for axis in axes(family, config)]

    monkeypatch.setattr(LeNetFamily, "axes", by_twos)
    with pytest.raises(CheckpointError, match=f"conv2 .* step 1.* step 2.*install neumeta_hf {version}"):
        NeuMetaModel.from_pretrained(tmp_path)
    # Format 1 states no sizes: it loads with what rules there are.
    assert (
        NeuMetaModel.from_pretrained(change_config(tmp_path, format_version=1, space=...)).space.axes["conv2"].step == 2
    )


@pytest.mark.parametrize("format_version", [1, ...])
def test_an_old_checkpoint_is_of_the_new_format_once_it_is_saved(make_case, tmp_path, format_version):
    make_case("lenet").family().save_pretrained(tmp_path / "old")
    change_config(tmp_path / "old", format_version=format_version, space=..., neumeta_version=...)
    family = NeuMetaModel.from_pretrained(tmp_path / "old")
    assert family.config.format_version == 1
    family.save_pretrained(tmp_path / "new")
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert config["format_version"] == 2
    assert config["space"]["axes"].keys() == family.space.axes.keys()
    NeuMetaModel.from_pretrained(tmp_path / "new")
