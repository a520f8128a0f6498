"""Classes by name: labels follow the order of a network, wherever they come from."""

from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from neumeta_hf.data import DataConfig, collate, load_image_data
from neumeta_hf.data.classes import compare_names, in_order, name_masks, stated_names, states_names
from neumeta_hf.errors import CheckpointError, DataError
from neumeta_hf.images import IGNORED

NAMES = ["1", "10", "2"]  # as folders are sorted
RGB = {"num_channels": 3, "mean": [0.0] * 3, "std": [1.0] * 3}


def class_folder(folder):
    """Images that show their class: folder "10" has images of brightness 10, and so on."""
    for split, number in (("train", 6), ("test", 3)):
        for name in NAMES:
            (folder / split / name).mkdir(parents=True)
            for index in range(number):
                Image.new("RGB", (4, 4), (int(name),) * 3).save(folder / split / name / f"{index}.png")
    return folder


def mask_folder(folder):
    """Images whose pixels are the index of their class, and the masks that go with them; the last row is ignored."""
    folder.mkdir()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    indices = [np.random.default_rng(seed).integers(0, 3, (4, 4)).astype(np.uint8) for seed in range(6)]
    images = [Image.fromarray(each).convert("RGB") for each in indices]
    masks = [Image.fromarray(np.vstack([each[:3], np.full((1, 4), IGNORED, np.uint8)])) for each in indices]
    for split in ("train", "test"):
        rows = {"image": images, "label": masks}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return folder


def batches(split, **options):
    loaded = list(DataLoader(split, batch_size=4, collate_fn=collate, **options))
    return {key: torch.cat([batch[key] for batch in loaded]) for key in loaded[0]}


ORDERS = [["1", "2", "10"], ["10", "1", "2"], ["x", "10", "2", "y", "1"]]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize(("in_memory", "num_workers"), [(True, 0), (False, 0), (False, 2)])
def test_a_label_is_the_place_of_its_name(in_memory, num_workers, order, tmp_path):
    config = DataConfig(dataset=str(class_folder(tmp_path / "set")), image_size=4, in_memory=in_memory, **RGB)
    data = in_order(load_image_data(config), order)
    assert data.label_names == order
    for split in (data.train, data.validation, data.test, data.train.subset(5, seed=0)):
        batch = batches(split, num_workers=num_workers)
        shown = (batch["pixel_values"][:, 0, 0, 0] * 255).round().int().tolist()
        assert [order[label] for label in batch["labels"]] == [str(value) for value in shown]
        assert batch["labels"].dtype == torch.int64


@pytest.mark.parametrize("augmentation", ["none", "scale_crop_flip"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_masks_too_and_what_is_ignored_stays_so(in_memory, augmentation, tmp_path):
    options = {"label_names": NAMES, "in_memory": in_memory, "augmentation": augmentation, **RGB}
    config = DataConfig(dataset=str(mask_folder(tmp_path / "set")), labels="mask", image_size=4, **options)
    before, order = load_image_data(config), ["2", "1", "other", "10"]
    after = in_order(before, order)
    plain, renumbered = (batches(data.train) for data in (before, after))
    assert torch.equal(plain["pixel_values"], renumbered["pixel_values"])
    named = [
        [None if label == IGNORED else names[label] for label in batch["labels"].flatten()]
        for names, batch in ((NAMES, plain), (order, renumbered))
    ]
    assert named[0] == named[1]
    assert {*named[0]} == {None, *NAMES}


def test_what_is_in_order_already_is_left_alone(tmp_path):
    data = load_image_data(DataConfig())
    assert in_order(data, data.label_names) is data


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (["1", "2"], "lacks '10' of the data"),
        (["1", "2", "ten"], "lacks 'ten' of the network"),
        (["1", "2", "10", "2"], "the network has '2' more than once"),
    ],
)
def test_names_that_cannot_be_matched_are_refused(order, said, tmp_path):
    config = DataConfig(dataset=str(class_folder(tmp_path / "set")), image_size=4, **RGB)
    with pytest.raises(DataError, match=said):
        in_order(load_image_data(config), order)


def test_more_classes_than_bytes_hold_are_renumbered():
    names = [str(index) for index in range(1000)]
    data = load_image_data(DataConfig())  # ten of them
    order = names[::-1]
    labels, before = (each.test.__getitems__(range(50))["labels"] for each in (in_order(data, order), data))
    assert torch.equal(labels, 999 - before)


# ------------------------------------------------------------------------------------------------ what is stated


@pytest.mark.parametrize(
    ("id2label", "masks", "expected"),
    [
        ({0: "cat", 1: "dog"}, False, ["cat", "dog"]),
        ({1: "dog", 0: "cat"}, False, ["cat", "dog"]),
        ({0: 1, 1: 10}, False, ["1", "10"]),
        ({0: "0", 1: "1"}, False, ["0", "1"]),
        ({0: "0", 1: "1"}, True, None),
        ({0: "1", 1: "0"}, True, ["1", "0"]),
        ({0: "LABEL_0", 1: "LABEL_1"}, False, None),
        ({0: "LABEL_1", 1: "LABEL_0"}, False, ["LABEL_1", "LABEL_0"]),
        ({0: "LABEL_0", 1: "dog"}, False, ["LABEL_0", "dog"]),
        ({}, False, None),
        (None, False, None),
    ],
)
def test_defaults_and_numbers_of_masks_state_no_names(id2label, masks, expected):
    assert stated_names(SimpleNamespace(id2label=id2label), masks=masks) == expected


@pytest.mark.parametrize(
    "id2label", [{0: "a", 2: "b"}, {"0": "a"}, {0: ["a"]}, {-1: "a", 0: "b"}, ["a", "b"], {0: None}]
)
def test_names_that_are_none_are_refused(id2label):
    with pytest.raises(CheckpointError, match="id2label="):
        stated_names(SimpleNamespace(id2label=id2label), masks=False)


def test_a_config_without_the_field_states_nothing():
    assert stated_names(SimpleNamespace(), masks=False) is None


def test_masks_without_names_take_those_of_the_network():
    masks = DataConfig(labels="mask")
    assert not states_names(masks)
    assert name_masks(masks, ["sky", "road"]).label_names == ["sky", "road"]
    assert name_masks(masks, None) is masks
    assert masks.label_names is None
    named = [DataConfig(labels="mask", label_names=["a"]), DataConfig(labels="mask", mask_values={0: "a", 255: "b"})]
    for config in (*named, DataConfig(), DataConfig(labels="none")):
        assert name_masks(config, ["sky", "road"]) is config
    with pytest.raises(DataError, match="300 classes"):
        name_masks(masks, [str(number) for number in range(300)])


def test_the_difference_names_both_sides():
    said = compare_names(["a", "b", "b"], ["b", "c", *map(str, range(9))], us="one", them="two")
    assert said == "two lacks 'a' of one; one has 'b' more than once; one lacks 'c', '0', '1' and 7 more of two"
    assert compare_names(["a", "b"], ["b", "a"], us="one", them="two") == ""
