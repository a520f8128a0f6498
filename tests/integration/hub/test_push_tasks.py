"""Segmentation networks and autoencoders on a Hub."""

import json

import pytest
import torch
import yaml
from diffusers import AutoencoderKL
from transformers import AutoModelForSemanticSegmentation, UperNetForSemanticSegmentation

from neumeta_hf import NeuMetaForImageGeneration, NeuMetaForSemanticSegmentation, NeuMetaModel
from neumeta_hf.targets import NeuMetaAutoencoderKL, config_of, find_target

GRID = {"type": "grid", "positions": "absolute"}


@pytest.fixture
def make_family(networks):
    def make(cls, name, **fields):
        options = {"normalization": "keep", "trained_widths": [0.5, 1.0], "hypernetwork": GRID, **fields}
        family = cls.from_reference(networks[name], **options).eval()
        if family.statistic_names:
            config = config_of(networks[name])
            family.calibrate([find_target(config).example_batch(config, 4)["pixel_values"]], [0.5, 1.0])
        return family

    return make


def front_matter(hub, repo_id):
    return yaml.safe_load(hub.files(repo_id)["README.md"].decode().split("---\n")[1])


def same_weights(one, other):
    tensors = other.state_dict()
    return all(torch.equal(tensor, tensors[name]) for name, tensor in one.state_dict().items())


def test_an_autoencoder_is_shared_as_one_of_diffusers(hub, make_family):
    family = make_family(NeuMetaForImageGeneration, "autoencoder_kl")
    family.push_to_hub("org/vae")
    assert front_matter(hub, "org/vae")["pipeline_tag"] == "unconditional-image-generation"
    morph = NeuMetaModel.from_pretrained("org/vae").morph(0.5)
    morph.push_to_hub("org/vae-w50")
    front = front_matter(hub, "org/vae-w50")
    assert (front["library_name"], front["base_model"]) == ("diffusers", "org/vae")
    assert "from diffusers import AutoencoderKL" in hub.files("org/vae-w50")["README.md"].decode()
    assert same_weights(AutoencoderKL.from_pretrained("org/vae-w50"), family.morph(0.5))


def test_a_decoder_narrower_than_its_encoder_says_what_loads_it(hub, make_family):
    family = make_family(NeuMetaForImageGeneration, "autoencoder_kl", generated=["decoder"])
    family.morph(0.5).push_to_hub("org/narrow")
    assert front_matter(hub, "org/narrow")["library_name"] == "neumeta_hf"
    assert "from neumeta_hf.targets import NeuMetaAutoencoderKL" in hub.files("org/narrow")["README.md"].decode()
    assert same_weights(NeuMetaAutoencoderKL.from_pretrained("org/narrow"), family.morph(0.5))


def test_a_segmentation_network_comes_with_its_score(hub, make_family, tmp_path):
    family = make_family(NeuMetaForSemanticSegmentation, "upernet")
    row = {"width": 0.5, "mean_iou": 0.4321, "num_parameters": 10, "macs": 20, "compression_rate": 0.5}
    facts = {
        "task": "semantic-segmentation",
        "score": {"name": "mean_iou", "label": "mean IoU", "is_ratio": True, "hub_name": "mean_iou"},
        "dataset": "scenes",
        "split": "test",
        "seed": 0,
        "num_samples": 1,
        "noise": 0.0,
        "calibrated": None,
    }
    sweep = {"facts": facts, "reference": None, "rows": [{**row, "trained": True, "in_range": True}]}
    family.save_pretrained(tmp_path / "run")
    (tmp_path / "run" / "sweep.json").write_text(json.dumps(sweep))
    family.push_to_hub("org/scenes", run=tmp_path / "run")
    card = hub.files("org/scenes")["README.md"].decode()
    assert "## Mean IoU against size" in card
    assert "| 0.5 | trained | 43.21% |" in card
    (result,) = front_matter(hub, "org/scenes")["model-index"][0]["results"]
    assert result["task"]["type"] == "image-segmentation"
    assert result["metrics"][0]["type"] == "mean_iou"
    morph = NeuMetaForSemanticSegmentation.from_pretrained(tmp_path / "run").morph(0.5)
    morph.push_to_hub("org/scenes-w50")
    card = hub.files("org/scenes-w50")["README.md"].decode()
    assert 'segment = pipeline("image-segmentation", model="org/scenes-w50")' in card
    assert "Measured mean IoU: 43.21%" in card
    loaded = AutoModelForSemanticSegmentation.from_pretrained("org/scenes-w50")
    assert type(loaded) is UperNetForSemanticSegmentation
    assert same_weights(loaded, morph)
