"""Classes that cannot be learned are refused, and classes without anything to learn from are said."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from neumeta_hf.data import DataConfig, ImageSplit, check_classes, load_image_data
from neumeta_hf.data.counts import count_labels
from neumeta_hf.data.splits import ArraySource
from neumeta_hf.errors import DataError

RGB = {"num_channels": 3, "mean": [0.0] * 3, "std": [1.0] * 3}


def masks(*rows, **fields):
    """A split whose masks are of these rows of pixels."""
    labels = torch.tensor(rows, dtype=torch.uint8)[:, None, :]
    config = DataConfig(labels="mask", image_size=[1, labels.shape[-1]], **RGB, **fields)
    pixels = torch.zeros(len(labels), 3, *labels.shape[1:], dtype=torch.uint8)
    return ImageSplit(ArraySource(pixels, labels), np.arange(len(labels)), config, augmented=True, name="train")


def classes(*labels):
    pixels = torch.zeros(len(labels), 3, 1, 1, dtype=torch.uint8)
    config = DataConfig(image_size=1, **RGB)
    source = ArraySource(pixels, torch.tensor(labels, dtype=torch.int64))
    return ImageSplit(source, np.arange(len(labels)), config, augmented=False, name="train")


def empty(split):
    return split.subset(0, seed=0)


def test_pixels_and_images_are_counted_by_class_in_the_part_of_a_split():
    split = masks([0, 1, 1, 255], [3, 3, 3, 3], [9, 9, 9, 9])
    counts = count_labels(split, 10)
    assert {label: number for label, number in enumerate(counts) if number} == {0: 1, 1: 2, 3: 4, 9: 4, 255: 1}
    split.indices = split.indices[:1]
    assert count_labels(split, 10).sum() == 4
    many = classes(*range(1000), 999)
    assert count_labels(many, 1000).tolist() == [1] * 999 + [2]


def test_a_thousand_names_of_which_the_last_have_no_image(caplog):
    names = [f"class {number}" for number in range(1000)]
    check_classes(classes(*range(10)), classes(), names)
    assert "nothing of class 10, class 11, " in caplog.messages[0]
    assert "class 19 and 980 more" in caplog.messages[0]


@pytest.mark.parametrize(
    ("split", "names", "message"),
    [
        (masks([0, 255], [255, 0], label_names=["soil", "lesion"]), ["soil", "lesion"], r"{0: soil, 255: lesion}\."),
        (masks([0, 255]), ["0"], r"data.mask_values: {0: \.\.\., 255: \.\.\.}"),
        (masks([1, 255], label_names=list("abc")), list("abc"), r"have b, .*data.mask_values: {1: b, 255: \.\.\.}"),
        (masks([0, 255], mask_values={0: "a", 1: "b"}), ["a", "b"], r"{0: a, 1: b, 255: \.\.\.}"),
        (
            masks([0, 0], mask_values={0: "a", 255: "b"}),
            ["a", "b"],
            "the 1 masks for training have a, .*mend the masks",
        ),
        (masks([0, 255], label_names=["a", "b"], ignore_index=255), ["a", "b"], "mend the masks"),
        (masks([255, 255], label_names=["a", "b"]), ["a", "b"], "have none, but a network needs two"),
        (classes(1, 1, 1), ["cat", "dog"], "classes cat, dog, the 3 images for training have dog, .*data.train_split"),
    ],
)
def test_fewer_than_two_classes_to_learn_are_refused(split, names, message):
    with pytest.raises(DataError, match=message):
        check_classes(split, empty(split), names)


def test_names_without_anything_to_learn_are_said_in_one_line(caplog):
    for split, kind in ((masks([0, 2], [2, 0]), "masks"), (classes(0, 2, 2), "images")):
        caplog.clear()
        check_classes(split, empty(split), ["soil", "rust", "leaf", "moss"])
        assert len(caplog.records) == 1
        assert f"the {kind} for training have nothing of rust, moss" in caplog.messages[0]
        assert caplog.records[0].levelname == "WARNING"
        caplog.clear()
        check_classes(split, split, ["soil", "rust", "leaf"][:3])
        assert len(caplog.records) == 1  # what validation lacks is no matter of its own


def test_classes_are_those_left_to_train_on_after_the_cut():
    split = classes(0, 0, 0, 1)
    check_classes(split, empty(split), ["a", "b"])
    split.indices = split.indices[:3]
    with pytest.raises(DataError, match="the 3 images for training have a"):
        check_classes(split, empty(split), ["a", "b"])


def test_what_selection_cannot_measure_is_refused_or_said(caplog):
    train = masks([0, 1])
    with pytest.raises(DataError, match="no pixel of the 2 masks for validation has a class"):
        check_classes(train, masks([255, 255], [255, 255]), ["a", "b"])
    check_classes(train, masks([0, 1], [0, 0]), ["a", "b"])
    assert not caplog.messages
    check_classes(train, masks([1, 255], [1, 1]), ["a", "b"])
    assert len(caplog.messages) == 1
    assert "validation hold only b" in caplog.messages[0]


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("fields", [{"label_names": ["soil", "lesion"]}, {"mask_values": {0: "soil", 200: "lesion"}}])
def test_masks_are_counted_whether_they_are_kept_or_not(tmp_path, in_memory, fields):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    folder = tmp_path / "set"
    folder.mkdir()
    mask = np.zeros((6, 8), dtype=np.uint8)
    mask[:, 4:] = 255
    for split in ("train", "test"):
        rows = {"image": [Image.new("RGB", (8, 6))] * 10, "label": [Image.fromarray(mask)] * 10}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    config = DataConfig(dataset=str(folder), labels="mask", image_size=[6, 8], in_memory=in_memory, **RGB, **fields)
    data = load_image_data(config)
    assert count_labels(data.train, 2)[[0, 1, 255]].tolist() == [9 * 24, 0, 9 * 24]
    with pytest.raises(DataError, match=r"255: .*}"):
        check_classes(data.train, data.validation, data.label_names)
    config.label_names, config.mask_values = None, {0: "soil", 255: "lesion"}  # as the message says
    data = load_image_data(config)
    check_classes(data.train, data.validation, data.label_names)
    assert count_labels(data.train, 2)[[0, 1, 255]].tolist() == [9 * 24, 9 * 24, 0]
