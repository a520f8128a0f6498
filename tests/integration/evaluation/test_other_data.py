"""`neumeta evaluate` on other data than training's: classes are matched by name, and what cannot be is refused."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import ResNetConfig, UperNetConfig

from neumeta_hf import NeuMetaForImageClassification, cli
from neumeta_hf.modeling_tasks import NeuMetaForSemanticSegmentation
from neumeta_hf.targets import LeNetConfig, build_image_processor, find_target
from neumeta_hf.training import recipe_from_dict

NAMES = ["owl", "cat", "dog"]
DATA = {"image_size": 8, "num_channels": 1, "mean": [0.5], "std": [0.25], "validation_fraction": 0.2}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def pictures(number, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (number, 8, 8), dtype=np.uint8)
    return [Image.fromarray(each) for each in pixels]


def folder(name, classes):
    for seed, label in enumerate(classes):
        for split in ("train", "test"):
            Path(name, split, label).mkdir(parents=True)
            for index, image in enumerate(pictures(8, seed)):
                image.save(Path(name, split, label, f"{index}.png"))
    return name


def save_family(network, cls, data):
    options = {"normalization": "keep", "trained_widths": [0.5, 1.0], "hypernetwork": {"type": "grid"}}
    family = cls.from_reference(network.eval(), **options)
    if family.statistic_names:
        family.calibrate([family.target_family.example_batch(network.config, 4)["pixel_values"]], [1.0])
    family.save_pretrained("family")
    network.save_pretrained("family/reference")
    target = {"family": family.target_family.name}
    recipe = recipe_from_dict({"data": data, "target": target})
    Path("family/recipe.yaml").write_text(yaml.safe_dump(recipe.to_dict()))
    return network


def lenet(names=NAMES):
    torch.manual_seed(7)  # one that does not call all images the same
    config = LeNetConfig(hidden_channels=[4, 6, 8], kernel_size=3, image_size=8, num_labels=len(names))
    config.id2label = dict(enumerate(names))
    return find_target(config).build(config)


@pytest.fixture
def network():
    """A family of three classes, and the network that it was made from."""
    return save_family(lenet(), NeuMetaForImageClassification, {"dataset": folder("data", NAMES), **DATA})


def evaluate(*arguments):
    assert cli.main(["-q", "evaluate", "family", "--widths", "1", *arguments]) == 0
    return json.loads(Path("family/sweep.json").read_text())


def refused(capsys, *arguments):
    capsys.readouterr()
    assert cli.main(["-q", "evaluate", "family", "--widths", "1", *arguments]) == 2
    *_, said = capsys.readouterr().err.splitlines()  # after the bars of datasets
    assert said.startswith("neumeta: error: ")
    assert not Path("family/sweep.json").exists()
    return said


def accuracy(network, name):
    """How many images the network calls what their folder is called."""
    right, total = 0, 0
    for path in Path(name, "test").rglob("*.png"):
        pixels = (torch.tensor(np.array(Image.open(path))) / 255 - 0.5) / 0.25
        with torch.no_grad():
            best = int(network(pixel_values=pixels[None, None]).logits.argmax())
        right, total = right + (network.config.id2label[best] == path.parent.name), total + 1
    return right / total


@pytest.mark.parametrize("classes", [NAMES, ["dog", "cat"]], ids="-".join)
def test_a_class_counts_where_its_name_is_the_families(classes, network, capsys):
    other = folder("other", classes)
    result = evaluate("--dataset", other, "--figures")
    expected = accuracy(network, other)
    assert result["reference"]["accuracy"] == result["rows"][0]["accuracy"] == pytest.approx(expected)
    network.config.id2label = dict(enumerate(sorted(NAMES)))
    assert accuracy(network, other) != expected  # as it would be by position
    warned = capsys.readouterr().err
    assert ("owl" in warned) == ("owl" not in classes)
    assert "cat" not in warned


def test_classes_that_the_family_does_not_know_are_refused_by_name(network, capsys):
    said = refused(capsys, "--dataset", folder("other", ["cat", "dog", "fish"]))
    assert "'fish'" in said
    assert "the family" in said
    said = refused(capsys, "--dataset", folder("more", [*NAMES, "fish"]))
    assert "'fish'" in said


def test_a_family_without_names_has_as_many_classes_as_the_data(capsys):
    names = [f"LABEL_{place}" for place in range(3)]
    network = lenet(names)
    save_family(network, NeuMetaForImageClassification, {"dataset": folder("data", NAMES), **DATA})
    network.config.id2label = dict(enumerate(sorted(NAMES)))  # by position
    assert evaluate()["reference"]["accuracy"] == pytest.approx(accuracy(network, "data"))
    Path("family/sweep.json").unlink()
    for classes in (["cat", "dog"], [*NAMES, "fish"]):
        assert f"{len(classes)} classes" in refused(capsys, "--dataset", folder("-".join(classes), classes))


def test_a_reference_has_the_families_classes_in_their_order(network, capsys):
    for place, (names, said) in enumerate(
        [
            (["cat", "owl", "dog"], "class 0 is 'cat' in the reference and 'owl' in the family"),
            (["owl", "cat", "fish"], "'fish'"),
            (["owl", "cat"], "'dog'"),
            (["LABEL_0", "LABEL_1"], "2 apart"),
        ]
    ):
        lenet(names).save_pretrained(f"reference{place}")
        assert said in refused(capsys, "--reference", f"reference{place}")
    lenet([f"LABEL_{place}" for place in range(3)]).save_pretrained("unnamed")
    assert evaluate("--reference", "unnamed")["reference"] is not None


def test_a_reference_for_other_images_is_refused_unless_meant(network, capsys):
    lenet().save_pretrained("plain")
    build_image_processor(num_channels=1, image_size=8, mean=[0.1], std=[0.25]).save_pretrained("plain")
    assert "data.mean" in refused(capsys, "--reference", "plain")
    assert evaluate("--reference", "plain", "--set", "target.preprocessing=recipe")["reference"] is not None


def test_a_reference_that_does_something_else_is_refused(network, capsys):
    segmenter().save_pretrained("segmenter")
    assert "semantic-segmentation" in refused(capsys, "--reference", "segmenter")


# ------------------------------------------------------------------------------------------------ masks


def segmenter(names=("sky", "road", "tree")):
    torch.manual_seed(0)
    backbone = {"embedding_size": 4, "hidden_sizes": [4, 6], "depths": [1, 1], "layer_type": "basic"}
    config = UperNetConfig(
        backbone_config=ResNetConfig(**backbone, out_features=["stage1", "stage2"]),
        hidden_size=4,
        pool_scales=[1, 2],
        use_auxiliary_head=False,
        id2label=dict(enumerate(names)),
        image_size=32,
    )
    return find_target(config).build(config)


def mask_folder(name, classes):
    """Masks with these values; the images are the same for all."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    Path(name).mkdir()
    for split in ("train", "test"):
        drawn = [np.random.default_rng(seed).integers(0, 3, (32, 32)) for seed in range(4)]
        masks = [Image.fromarray(np.array(classes, np.uint8)[each]) for each in drawn]
        images = [Image.fromarray((each * 90).astype(np.uint8)) for each in drawn]
        datasets.Dataset.from_dict({"image": images, "label": masks}, features=features).to_parquet(
            Path(name, f"{split}.parquet")
        )
    return name


@pytest.fixture
def masks():
    options = {"labels": "mask", "num_channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3, "image_size": 32}
    data = {**options, "validation_fraction": 0.25, "dataset": mask_folder("data", [0, 1, 2])}
    data["label_names"] = ["sky", "road", "tree"]
    return save_family(segmenter(), NeuMetaForSemanticSegmentation, data)


def test_masks_with_names_in_another_order_score_the_same(masks, capsys):
    expected = evaluate()["reference"]
    other = mask_folder("other", [1, 2, 0])  # sky is 1 there, road 2, tree 0
    found = evaluate("--dataset", other, "--set", "data.label_names=[tree, sky, road]")["reference"]
    for score in ("mean_iou", "pixel_accuracy", "loss"):
        assert found[score] == pytest.approx(expected[score]), score
    Path("family/sweep.json").unlink()
    assert "'lake'" in refused(capsys, "--dataset", other, "--set", "data.label_names=[tree, sky, lake]")


def test_masks_whose_values_have_names_are_matched_by_them(masks, capsys):
    expected = evaluate()["reference"]
    other = mask_folder("other", [0, 255, 7])
    values = "data.mask_values={7: tree, 255: road, 0: sky}"
    found = evaluate("--dataset", other, "--set", "data.label_names=null", "--set", values)["reference"]
    for score in ("mean_iou", "pixel_accuracy", "loss"):
        assert found[score] == pytest.approx(expected[score]), score


def test_masks_without_names_are_indices_of_the_families_classes(masks, capsys):
    expected = evaluate()["reference"]
    assert evaluate("--set", "data.label_names=null")["reference"] == expected
    fewer = mask_folder("fewer", [0, 1, 1])
    assert evaluate("--dataset", fewer, "--set", "data.label_names=null")["reference"]["loss"] > 0
    Path("family/sweep.json").unlink()
    beyond = mask_folder("beyond", [0, 1, 3])
    assert "3" in refused(capsys, "--dataset", beyond, "--set", "data.label_names=null")
