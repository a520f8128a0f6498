"""A checkpoint on the Hub is asked what its images are, and an answer that cannot be had is no answer."""

import pytest
from huggingface_hub import constants

from neumeta_hf.data.preprocessor import stated_preprocessing
from neumeta_hf.errors import HubError
from neumeta_hf.targets import build_image_processor

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
