"""What the values in masks stand for, and which are refused."""

import io

import datasets
import numpy as np
import pytest
import torch
from mask_sets import config_for, grey, in_file, palette, plain, save
from PIL import Image

from neumeta_hf.data import load_image_data
from neumeta_hf.errors import DataError
from neumeta_hf.images import IGNORED

# ------------------------------------------------------------------------------------------------ what masks hold


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("make", [Image.fromarray, palette, lambda array: Image.fromarray(array.astype(np.uint16))])
def test_indices_are_read_from_grey_palette_and_16_bits(tmp_path, make, in_memory):
    indices = np.arange(48, dtype=np.uint8).reshape(6, 8)
    indices[5, 7] = 255
    folder = save(tmp_path / "set", grey(1), [make(indices)])
    data = load_image_data(config_for(folder, in_memory=in_memory))
    assert torch.equal(data.train[0]["labels"], torch.tensor(indices).long())
    assert len(data.label_names) == 47


def test_black_and_white_are_two_classes(tmp_path):
    mask = plain(0).convert("1")
    mask.putpixel((3, 2), 255)
    data = load_image_data(config_for(save(tmp_path / "set", grey(1), [mask])))
    assert data.label_names == ["0", "1"]
    assert data.train[0]["labels"].nonzero().tolist() == [[2, 3]]


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_ignored_value_becomes_255_and_counts_as_no_class(tmp_path, in_memory):
    mask = plain(2)
    for place, value in enumerate((0, 1, 11, 255)):
        mask.putpixel((place, 0), value)
    folder = save(tmp_path / "set", grey(1), [mask])
    data = load_image_data(config_for(folder, ignore_index=11, in_memory=in_memory))
    assert data.label_names == ["0", "1", "2"]
    assert data.train[0]["labels"][0].tolist() == [0, 1, IGNORED, IGNORED, 2, 2, 2, 2]
    # Without it, it is a class, which must have a name as others are missing in between.
    with pytest.raises(DataError, match=r"value 0, 1, 2, 11, 255: .*{0: ..., 1: ..., 2: ..., 11: ..., 255: ...}"):
        load_image_data(config_for(folder, in_memory=in_memory))
    data = load_image_data(config_for(folder, in_memory=in_memory, label_names=list("abcdefghijkl")))
    assert data.train[0]["labels"][0, :4].tolist() == [0, 1, 11, IGNORED]


def test_a_class_can_be_ignored_and_a_void_lie_beyond_8_bits(tmp_path):
    values = np.array([[0, 1, 65535, 2]], dtype=np.uint16)
    folder = save(tmp_path / "set", grey(1, (4, 1)), [Image.fromarray(values)])
    data = load_image_data(config_for(folder, image_size=[1, 4], ignore_index=65535))
    assert data.train[0]["labels"].tolist() == [[0, 1, IGNORED, 2]]
    folder = save(tmp_path / "other", grey(1, (4, 1)), [Image.fromarray(np.uint8([[0, 1, 1, 2]]))])
    data = load_image_data(config_for(folder, image_size=[1, 4], ignore_index=0))
    assert data.train[0]["labels"].tolist() == [[IGNORED, 1, 1, 2]]
    assert data.label_names == ["0", "1", "2"]


def test_classes_are_counted_in_the_masks_of_training_at_their_full_size(tmp_path):
    mask = plain(1, (80, 60))
    mask.putpixel((1, 1), 2)  # too small to be seen at 6x8
    other = plain(0, (80, 60))
    folder = save(tmp_path / "set", grey(2, (80, 60)), [mask, other])
    for in_memory in (True, False):
        data = load_image_data(config_for(folder, in_memory=in_memory, validation_fraction=0.5))
        assert data.label_names == ["0", "1", "2"]


def test_names_of_classes_are_those_of_the_config(tmp_path):
    folder = save(tmp_path / "set", grey(1), [plain(1)])
    names = ["sky", "road", "car"]
    assert load_image_data(config_for(folder, label_names=names)).label_names == names


@pytest.mark.parametrize("in_memory", [True, False])
def test_values_that_are_no_class_are_refused_and_the_advice_works(tmp_path, in_memory):
    strange = (grey(1), [plain(7)])
    folder = save(tmp_path / "set", grey(3), [plain(0), plain(1), plain(2)], test=strange)
    with pytest.raises(
        DataError, match=r"row 0 of split 'test' has pixels of value 7: values are classes \(0 to 2\) or ignored"
    ):
        load_image_data(config_for(folder, in_memory=in_memory)).test[0]
    with pytest.raises(DataError, match=r"row 2 of split 'train' has pixels of value 2: .*0, 1.*data.label_names"):
        load_image_data(config_for(folder, in_memory=in_memory, label_names=["a", "b"])).train[2]
    data = load_image_data(config_for(folder, in_memory=in_memory, ignore_index=7))
    assert (data.test[0]["labels"] == IGNORED).all()
    data = load_image_data(config_for(folder, in_memory=in_memory, label_names=list("abcdefgh")))
    assert (data.test[0]["labels"] == 7).all()


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (grey(1)[0], "row 0 of split 'train' is of mode RGB: a mask has one channel, .* Convert its colours"),
        (Image.new("LA", (8, 6)), "of mode LA"),
        (Image.fromarray(np.full((6, 8), 300, dtype=np.uint16)), "pixels of value 300"),
        (plain(1, (6, 8)), "the mask in row 0 of split 'train' has 6x8 pixels and its image 8x6"),
        (plain(1, (16, 12)), "the mask .* has 16x12 pixels"),
    ],
)
def test_masks_that_cannot_be_read_are_refused(tmp_path, mask, message, in_memory):
    folder = save(tmp_path / "set", grey(1), [mask])
    with pytest.raises(DataError, match=message):
        load_image_data(config_for(folder, in_memory=in_memory, label_names=["a", "b"])).train[0]


def test_masks_without_any_class_are_refused(tmp_path):
    folder = save(tmp_path / "set", grey(1), [plain(0)])
    with pytest.raises(DataError, match="have no class: every pixel is 255 or data.ignore_index=0"):
        load_image_data(config_for(folder, ignore_index=0))


def test_a_missing_or_broken_mask_is_refused(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    for entry, message in (
        (None, r"the mask in row 0 of split 'train' is missing \(None\)"),
        (
            {"bytes": b"no mask", "path": "b/1.png"},
            r"the mask in row 0 of split 'train' \('b/1.png'\) cannot be decoded",
        ),
    ):
        folder = tmp_path / ("missing" if entry is None else "broken")
        folder.mkdir()
        rows = {"image": [in_file(grey(1)[0])], "label": [entry]}
        for split in ("train", "test"):
            datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
        for names in (None, ["a"]):
            with pytest.raises(DataError, match=message):
                load_image_data(config_for(folder, label_names=names))


# ------------------------------------------------------------------------------------------------ what values stand for


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("make", [Image.fromarray, palette, lambda array: Image.fromarray(array.astype(np.uint16))])
def test_values_with_names_become_classes_in_the_order_of_the_names(tmp_path, make, in_memory):
    values = np.array([[0, 255, 7, 30], [31, 30, 0, 200]], dtype=np.uint8)
    folder = save(tmp_path / "set", grey(1, (4, 2)), [make(values)])
    names = {255: "lesion", 0: "skin", 30: "hair", 31: "hair", 7: "skin"}
    config = config_for(folder, image_size=[2, 4], mask_values=names, ignore_index=200, in_memory=in_memory)
    data = load_image_data(config)
    assert data.label_names == ["lesion", "skin", "hair"]
    assert data.train[0]["labels"].tolist() == [[1, 0, 1, 2], [2, 2, 1, IGNORED]]


def test_255_stands_for_no_class_unless_it_has_a_name(tmp_path):
    values = np.array([[0, 1, 255, 255]], dtype=np.uint8)
    folder = save(tmp_path / "set", grey(1, (4, 1)), [Image.fromarray(values)])
    for names, expected in (
        ({1: "a", 0: "b"}, [1, 0, IGNORED, IGNORED]),
        ({0: "a", 255: "b", 1: "c"}, [0, 2, 1, 1]),
    ):
        data = load_image_data(config_for(folder, image_size=[1, 4], mask_values=names))
        assert data.train[0]["labels"].tolist() == [expected]


@pytest.mark.parametrize("bits", [np.uint16, np.int32])
def test_values_beyond_8_bits_can_have_names(tmp_path, bits):
    values = np.array([[256, 65535, 40_000, 255]], dtype=bits)
    folder = save(tmp_path / "set", grey(1, (4, 1)), [Image.fromarray(values)])
    names = {256: "a", 40_000: "b", 65535: "c"}
    data = load_image_data(config_for(folder, image_size=[1, 4], mask_values=names))
    assert data.train[0]["labels"].tolist() == [[0, 2, 1, IGNORED]]
    with pytest.raises(DataError, match=r"{255: ..., 256: ..., 40000: ..., 65535: ...}"):
        load_image_data(config_for(folder, image_size=[1, 4]))


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_value_without_a_name_is_refused_unless_it_is_ignored(tmp_path, in_memory):
    folder = save(tmp_path / "set", grey(1, (4, 1)), [Image.fromarray(np.uint8([[0, 1, 9, 255]]))])
    fields = {"image_size": [1, 4], "mask_values": {0: "a", 1: "b"}, "in_memory": in_memory}
    with pytest.raises(DataError, match=r"row 0 of split 'train' has pixels of value 9: .*\(0, 1\).*data.mask_values"):
        load_image_data(config_for(folder, **fields)).train[0]
    labels = load_image_data(config_for(folder, ignore_index=9, **fields)).train[0]["labels"]
    assert labels.tolist() == [[0, 1, IGNORED, IGNORED]]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ([0, 255], "{0: ..., 255: ...}"),
        ([0, 7], "{0: ..., 7: ...}"),
        ([1, 2, 3], "{1: ..., 2: ..., 3: ...}"),
        ([1, 255], "{1: ..., 255: ...}"),
        ([0, 128, 255], "{0: ..., 128: ..., 255: ...}"),
        ([0, 1, 2, 254, 253, 255], "{0: ..., 1: ..., 2: ..., 253: ..., 254: ..., 255: ...}"),
        (range(0, 120, 2), "38: ..., and so on}"),
    ],
    ids=str,
)
def test_values_without_names_that_are_no_indices_are_refused_with_the_line_to_write(tmp_path, values, named):
    mask = Image.fromarray(np.resize(np.array(list(values), dtype=np.uint8), (10, 12)))
    folder = save(tmp_path / "set", grey(1, (12, 10)), [mask])
    with pytest.raises(DataError) as failure:
        load_image_data(config_for(folder))
    message = str(failure.value)
    assert "data.mask_values: {" in message
    assert named in message
    assert "split 'train'" in message
    # Written so, it works.
    names = {value: f"class {value}" for value in values}
    assert load_image_data(config_for(folder, mask_values=names)).label_names == list(names.values())


def test_a_gap_at_the_ignored_value_is_none(tmp_path):
    folder = save(tmp_path / "set", grey(1, (4, 1)), [Image.fromarray(np.uint8([[0, 1, 2, 3]]))])
    data = load_image_data(config_for(folder, image_size=[1, 4], ignore_index=1))
    assert data.label_names == ["0", "1", "2", "3"]
    assert data.train[0]["labels"].tolist() == [[0, IGNORED, 2, 3]]


def lossy(kind, **options):
    def make(mask):
        buffer = io.BytesIO()
        mask.save(buffer, kind, **options)
        return {"bytes": buffer.getvalue(), "path": None}

    return make


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("JPEG", lossy("JPEG")),
        ("WEBP", lossy("WEBP")),
        ("AVIF", lossy("AVIF")),
        ("JPEG2000", lossy("JPEG2000")),
        ("TIFF with jpeg", lossy("TIFF", compression="jpeg")),
    ],
)
@pytest.mark.parametrize("fields", [{}, {"label_names": ["a", "b"]}, {"mask_values": {0: "a", 1: "b"}}], ids=str)
def test_masks_of_formats_that_lose_values_are_refused_by_name(tmp_path, name, make, fields, in_memory):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    folder = tmp_path / "set"
    folder.mkdir()
    for split in ("train", "test"):
        rows = {"image": [in_file(grey(1)[0])], "label": [make(plain(1))]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    with pytest.raises(DataError, match=f"the mask in row 0 of split 'train' is a {name}, whose compression .*as PNG"):
        load_image_data(config_for(folder, in_memory=in_memory, **fields)).train[0]


def test_masks_of_formats_that_keep_values_are_read(tmp_path):
    mask = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    folder = tmp_path / "set"
    folder.mkdir()
    makes = (lossy("PNG"), lossy("GIF"), lossy("TIFF", compression="tiff_lzw"), lossy("BMP"))
    for split in ("train", "test"):
        rows = {"image": [in_file(image) for image in grey(4)], "label": [make(mask) for make in makes]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    labels = load_image_data(config_for(folder)).train.__getitems__(range(4))["labels"]
    assert (labels == torch.arange(48).view(6, 8)).all()
