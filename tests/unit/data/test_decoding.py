"""Decoding image by image: the same pixels as `datasets`, bounded, and whatever fails named by row and file."""

import io
import pickle
import re
import struct
import warnings
import weakref

import datasets
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, PngImagePlugin
from torch.utils.data import DataLoader

from neumeta_hf.data import DataConfig, collate, load_image_data, splits
from neumeta_hf.data.decoding import ImageColumn
from neumeta_hf.errors import DataError


def picture(size=(12, 9), seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def column_of(*entries, **fields):
    """A column of files, given as bytes, paths or (bytes, path)."""
    rows = []
    for entry in entries:
        data, path = entry if isinstance(entry, tuple) else (entry, None) if isinstance(entry, bytes) else (None, entry)
        rows.append(None if entry is None else {"bytes": data, "path": path})
    features = datasets.Features({"image": datasets.Image()})
    dataset = datasets.Dataset.from_dict({"image": rows}, features=features)
    return ImageColumn.of(dataset, "image", split="train", **{"max_pixels": 10_000, **fields})


def read(column):
    return list(column.read(range(len(column)), lambda _, image: image.copy()))


def folder_with(folder, name, data):
    """Images of two classes in train and test, one of which is what `data` says: "train/b/NAME", row 6 of 8."""
    for split in ("train", "test"):
        for place in ("a", "b"):
            (folder / split / place).mkdir(parents=True)
            for number in range(4):
                picture(seed=number).save(folder / split / place / f"{number}.png")
    broken = folder / "train" / "b" / name
    broken.write_bytes(data)
    return DataConfig(
        dataset=str(folder), image_size=8, num_channels=3, mean=[0.0] * 3, std=[1.0] * 3, validation_fraction=0
    )


def text_bomb():
    info = PngImagePlugin.PngInfo()
    info.add_text("note", "x" * (2 << 20), zip=True)
    return encoded(picture(), pnginfo=info)


# ------------------------------------------------------------------------------------------------ pixels


def turned():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return encoded(picture(), "JPEG", exif=exif)


@pytest.mark.parametrize(
    "data",
    [
        encoded(picture()),
        encoded(picture().convert("P")),
        encoded(picture(), "JPEG"),
        turned(),
        encoded(picture(), "GIF", save_all=True, append_images=[picture(seed=1)]),
        encoded(picture(), "WEBP", save_all=True, append_images=[picture(seed=1)]),
        encoded(picture(), "TIFF", save_all=True, append_images=[picture(seed=1)]),
        encoded(picture(), "BMP"),
        encoded(picture(), "JPEG2000"),
        encoded(picture((16, 16)), "ICO"),
        encoded(picture().convert("CMYK"), "TIFF"),
    ],
    ids=["png", "palette", "jpeg", "turned", "gif", "webp", "pages", "bmp", "jpeg2000", "ico", "cmyk"],
)
def test_an_image_is_what_datasets_makes_of_it(data, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(data)
    expected = datasets.Image().decode_example({"bytes": data, "path": None})
    for image in read(column_of(data, str(path))):
        assert image.mode == expected.mode
        assert np.array_equal(np.asarray(image), np.asarray(expected))


def test_a_column_that_says_a_mode_is_converted():
    features = datasets.Features({"image": datasets.Image(mode="L")})
    dataset = datasets.Dataset.from_dict({"image": [{"bytes": encoded(picture()), "path": None}]}, features=features)
    column = ImageColumn.of(dataset, "image", split="train", max_pixels=10_000)
    assert np.array_equal(np.asarray(read(column)[0]), np.asarray(dataset[0]["image"]))


def test_rows_are_read_in_the_order_asked_for():
    column = column_of(*(encoded(Image.new("L", (1, 1), value)) for value in range(100)))
    order = np.random.default_rng(0).permutation(100).tolist()
    assert [image.getpixel((0, 0)) for image in column.read(order, lambda _, image: image.copy())] == order


@pytest.mark.parametrize("in_memory", [True, False])
def test_no_two_images_are_held_at_their_full_size(tmp_path, monkeypatch, in_memory):
    full_size = []

    def spy(image, num_channels):
        assert not [held for held in full_size if held() is not None]
        full_size.append(weakref.ref(image))
        return image.convert("RGB").copy()

    monkeypatch.setattr(splits, "to_colours", spy)
    config = folder_with(tmp_path / "set", "4.png", encoded(picture()))
    config.in_memory = in_memory
    load_image_data(config).train.__getitems__(range(9))
    assert len(full_size) == (17 if in_memory else 9)


# ------------------------------------------------------------------------------------------------ what cannot be read

BROKEN = {
    "truncated": ("x.jpg", encoded(picture((60, 60)), "JPEG")[:-200], "truncated.*Mend the file"),
    "text": ("x.png", text_bomb(), "Save it again without"),
    "16 bits": ("x.png", encoded(Image.fromarray(np.full((9, 9), 40_000, dtype=np.uint16))), "of mode I;16: only 8"),
    "no image": ("x.png", b"no image at all", "it is no image"),
    "empty": ("x.png", b"", "it is no image"),
    "cut header": ("x.png", encoded(picture())[:20], "Mend the file|no image"),
    "large": ("x.png", encoded(Image.new("1", (10_001, 10_000))), "more pixels than data.max_image_pixels=100000000"),
    "eps": ("x.eps", encoded(picture(), "EPS"), "a program that would be run"),
}


@pytest.mark.parametrize("how", ["at once", "lazily", "in a worker"])
@pytest.mark.parametrize("kind", BROKEN)
def test_an_image_that_cannot_be_read_is_named_by_split_row_and_file(tmp_path, kind, how):
    name, data, reason = BROKEN[kind]
    config = folder_with(tmp_path / "set", name, data)
    config.in_memory = how == "at once"
    message = ""
    try:
        train = load_image_data(config).train
        list(DataLoader(train, batch_size=3, collate_fn=collate, num_workers=int(how == "in a worker")))
    except DataError as error:
        message = str(error)
        error.__traceback__ = None  # which keeps the loader, and with it the worker, alive for seconds
    assert re.search(reason, message)
    assert f"row 8 of split 'train' ('b/{name}')" in message
    assert "\n" not in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a value"),
        MemoryError(),
        struct.error("unpack"),
        SyntaxError("no PNG"),
        ZeroDivisionError(),
        RecursionError("deep"),
        KeyError("tag"),
        AssertionError(),
        OSError(28, "strange"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_the_image_library_raises_names_the_row(monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    with pytest.raises(
        DataError, match=r"row 0 of split 'train' \('in/a.png'\) cannot be decoded: .*leave the row out"
    ):
        read(column_of((encoded(picture()), "/somewhere/in/a.png")))


def test_missing_images_and_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"the image in row 1 of split 'train' is missing \(None\): filter"):
        read(column_of(encoded(picture()), None))
    path = tmp_path / "there" / "gone.png"
    with pytest.raises(DataError, match=r"row 0 .*\('there/gone.png'\) cannot be decoded: the file is not there"):
        read(column_of(str(path)))


def test_a_name_of_a_file_cannot_write_to_the_terminal():
    with pytest.raises(DataError) as failure:
        read(column_of((b"x", "a/\x1b[2Jcleared\n.png")))
    assert "cleared" in str(failure.value)
    assert not {"\x1b", "\n"} & set(str(failure.value))


def test_rows_that_the_data_set_itself_cannot_give_are_named():
    class Failing:
        def __len__(self):
            return 3

        def __getitem__(self, rows):
            raise OSError("the disk is gone")

    column = ImageColumn(Failing(), "image", "train", 100)
    with pytest.raises(DataError, match="rows 0 to 2 of split 'train' cannot be read: the disk is gone"):
        read(column)


def test_an_error_of_a_worker_says_what_it_says_elsewhere():
    error = DataError("the image in row 3 cannot be read: Caught a cold.")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    wrapped = (
        'Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File "a.py"\n'
        f"ValueError: neumeta\n\nneumeta_hf.errors.DataError: {error}\n"
    )
    assert str(DataError(wrapped)) == str(error)


# ------------------------------------------------------------------------------------------------ sizes


@pytest.mark.parametrize("pixels", [101, 150, 199, 200, 201, 5000])
def test_an_image_above_the_limit_is_refused_before_it_is_decoded(monkeypatch, pixels):
    data = encoded(Image.new("L", (1, pixels)))
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda _: pytest.fail("it was decoded"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PIL warns of some, and fails at others
        with pytest.raises(DataError, match=r"row 0 of split 'train' has more pixels than data.max_image_pixels=100"):
            read(column_of(data, max_pixels=100))


def test_the_limit_is_ours_and_the_one_of_pil_stays_as_it_was(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    data = encoded(picture((10, 10)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(column_of(data, max_pixels=100))[0].size == (10, 10)
        assert Image.MAX_IMAGE_PIXELS == 10
        for broken, limit in ((data, 99), (b"none", 100), (None, 100)):
            with pytest.raises(DataError):
                read(column_of(broken, max_pixels=limit))
            assert Image.MAX_IMAGE_PIXELS == 10
        with pytest.raises(Image.DecompressionBombError):
            Image.open(io.BytesIO(data))


def test_an_image_inside_of_a_small_one_is_bounded_too():
    inner = encoded(picture((200, 200)))
    icon = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 24, len(inner), 22) + inner  # says 16x16 of itself
    with pytest.raises(DataError, match="max_image_pixels=1000"):
        read(column_of(icon, max_pixels=1000))


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_limit_is_a_field_of_the_config_and_holds_for_masks(tmp_path, in_memory):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    masks = [encoded(Image.fromarray(np.uint8([[0, 1]]).repeat(side, axis=0))) for side in (4, 50)]
    folder = tmp_path / "set"
    folder.mkdir()
    for split in ("train", "test"):
        images = [{"bytes": encoded(picture((2, 4))), "path": None}] * 2
        rows = {"image": images, "label": [{"bytes": mask, "path": None} for mask in masks]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    fields = {"labels": "mask", "image_size": 4, "num_channels": 3, "mean": [0.0] * 3, "std": [1.0] * 3}
    config = DataConfig(dataset=str(folder), in_memory=in_memory, max_image_pixels=99, label_names=["a", "b"], **fields)
    with pytest.raises(DataError, match="the mask in row 1 of split 'train' has more pixels than .*=99: .*raise"):
        load_image_data(config).train.__getitems__(range(2))
    config.max_image_pixels = 0
    with pytest.raises(DataError, match="max_image_pixels=0: give a number of pixels from 1 up"):
        load_image_data(config)


def test_a_strip_does_not_become_huge_to_be_cropped(tmp_path):
    config = folder_with(tmp_path / "set", "4.png", encoded(Image.new("L", (1, 9_000))))
    config.center_crop, config.max_image_pixels = True, 500_000
    with pytest.raises(DataError, match=r"row 8 of split 'train' .*center_crop makes 9x81000, more than .*=500000"):
        load_image_data(config)
    config.center_crop = False
    assert torch.isfinite(load_image_data(config).train[8]["pixel_values"]).all()
