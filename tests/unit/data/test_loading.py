import importlib.util
import subprocess
import sys

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from neumeta_hf.data import DataConfig, load_image_data
from neumeta_hf.errors import DataError


def pictures(number, *, size=(12, 12), seed=0, mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (number, size[1], size[0], 3), dtype=np.uint8)
    return [Image.fromarray(image).convert(mode) for image in pixels]


def save(folder, *, names=("cat", "dog", "owl"), images=None, labels=None, columns=("img", "label"), splits=None):
    """A folder of parquet files as `load_dataset` takes it."""
    folder.mkdir()
    label_type = datasets.ClassLabel(names=list(names)) if names else datasets.Value("int64")
    features = datasets.Features({columns[0]: datasets.Image(), columns[1]: label_type})
    for seed, (split, number) in enumerate((splits or {"train": 30, "test": 9}).items()):
        shown = images or pictures(number, seed=seed)
        classes = labels or [index % 3 for index in range(len(shown))]
        dataset = datasets.Dataset.from_dict({columns[0]: shown, columns[1]: classes}, features=features)
        dataset.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def config_for(folder, **fields):
    fields = {"image_size": 12, "num_channels": 3, "mean": [0.0] * 3, "std": [1.0] * 3, **fields}
    return DataConfig(dataset=str(folder), **fields)


def as_bytes(split):
    images = split.with_augmentation(False).__getitems__(range(len(split)))["pixel_values"]
    return (images * 255).round().to(torch.uint8)


# ------------------------------------------------------------------------------------------------ digits


def test_digits_are_three_disjoint_splits_of_all_1797_images():
    data = load_image_data(DataConfig(mean=[0.0], std=[1.0]))
    assert [len(data.train), len(data.validation), len(data.test)] == [1294, 144, 359]
    assert data.label_names == [str(digit) for digit in range(10)]
    everything = torch.cat([as_bytes(split) for split in (data.train, data.validation, data.test)])
    from sklearn.datasets import load_digits

    expected = np.round(load_digits().images * 255 / 16).astype(np.uint8).reshape(1797, -1)
    assert sorted(everything.flatten(1).tolist()) == sorted(expected.tolist())
    assert everything.max() == 255


def test_no_setting_of_a_run_changes_the_test_split_of_the_digits():
    one = load_image_data(DataConfig())
    other = load_image_data(DataConfig(data_seed=5, validation_fraction=0.5))
    assert torch.equal(as_bytes(one.test), as_bytes(other.test))
    # How many of each digit. It changes only with the split itself, and then published numbers cannot be compared.
    classes = one.test.__getitems__(range(359))["labels"]
    assert torch.bincount(classes).tolist() == [28, 38, 33, 40, 33, 39, 32, 42, 41, 33]


def test_the_validation_cut_is_seeded_and_never_holds_training_or_test_images():
    cuts = [load_image_data(DataConfig(data_seed=seed)) for seed in (0, 0, 1)]
    kept = [set(data.train.indices.tolist()) for data in cuts]
    cut = [set(data.validation.indices.tolist()) for data in cuts]
    assert cut[0] == cut[1] != cut[2]
    for train, validation, data in zip(kept, cut, cuts, strict=True):
        assert not train & validation
        assert len(train | validation) == 1438
        assert data.test.source is not data.validation.source


def test_digits_grow_and_get_colours_where_the_network_wants_them():
    data = load_image_data(DataConfig(image_size=32, num_channels=3, mean=[0.0] * 3, std=[1.0] * 3))
    image = data.train[0]["pixel_values"]
    assert image.shape == (3, 32, 32)
    assert torch.equal(image[0], image[2])


def test_a_fraction_of_zero_leaves_validation_empty():
    data = load_image_data(DataConfig(validation_fraction=0))
    assert len(data.validation) == 0
    assert len(data.train) == 1438


# ------------------------------------------------------------------------------------------------ folders


def test_a_folder_gives_its_images_labels_and_names(tmp_path):
    folder = save(tmp_path / "set")
    data = load_image_data(config_for(folder, validation_fraction=0))
    assert data.label_names == ["cat", "dog", "owl"]
    expected = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in pictures(30)])
    assert torch.equal(as_bytes(data.train), expected)
    assert data.train.__getitems__(range(30))["labels"].tolist() == [index % 3 for index in range(30)]
    assert len(data.test) == 9


def test_more_images_than_one_round_of_decoding_keep_their_places(tmp_path):
    images = [Image.new("L", (2, 2), index % 251) for index in range(1100)]
    folder = save(tmp_path / "set", images=images)
    data = load_image_data(
        config_for(folder, image_size=2, num_channels=1, mean=[0.0], std=[1.0], validation_fraction=0)
    )
    assert as_bytes(data.train)[:, 0, 0, 0].tolist() == [index % 251 for index in range(1100)]


def test_decoding_on_access_gives_the_same_images(tmp_path):
    folder = save(tmp_path / "set")
    kept, decoded = (load_image_data(config_for(folder, in_memory=in_memory)) for in_memory in (True, False))
    for name in ("train", "validation", "test"):
        assert torch.equal(as_bytes(getattr(kept, name)), as_bytes(getattr(decoded, name)))
    one, other = (data.train.__getitems__([3, 1])["labels"] for data in (kept, decoded))
    assert torch.equal(one, other)


def test_a_named_validation_split_leaves_training_whole(tmp_path):
    folder = save(tmp_path / "set", splits={"train": 30, "validation": 6, "test": 9})
    data = load_image_data(config_for(folder, validation_split="validation"))
    assert [len(data.train), len(data.validation), len(data.test)] == [30, 6, 9]
    expected = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in pictures(6, seed=1)])
    assert torch.equal(as_bytes(data.validation), expected)


def test_selection_can_not_be_pointed_at_the_test_split(tmp_path):
    folder = save(tmp_path / "set")
    for fields in ({"validation_split": "test"}, {"train_split": "test"}, {"validation_split": "train"}):
        with pytest.raises(DataError, match=r"share \d+ rows"):
            load_image_data(config_for(folder, **fields))
    # The advice, followed, works.
    assert len(load_image_data(config_for(folder)).validation) == 3


def test_slices_name_splits(tmp_path):
    folder = save(tmp_path / "set", splits={"train": 30})
    data = load_image_data(config_for(folder, train_split="train[:20]", test_split="train[20:]", validation_fraction=0))
    assert [len(data.train), len(data.test)] == [20, 10]


def test_plain_numbers_become_classes_in_their_order(tmp_path):
    folder = save(tmp_path / "set", names=None, images=pictures(6), labels=[7, 3, 7, 100, 3, 7])
    data = load_image_data(config_for(folder, label_column="label", validation_fraction=0))
    assert data.label_names == ["3", "7", "100"]
    assert data.train.__getitems__(range(6))["labels"].tolist() == [1, 0, 1, 2, 0, 1]


def test_labels_that_training_has_not_are_refused(tmp_path):
    folder = save(tmp_path / "set", images=pictures(3), labels=[0, 1, -1])
    with pytest.raises(DataError, match="has the labels -1"):
        load_image_data(config_for(folder))


def test_missing_labels_are_refused(tmp_path):
    folder = save(tmp_path / "set", names=None, images=pictures(3), labels=[0, 1, None])
    with pytest.raises(DataError, match="has the labels None"):
        load_image_data(config_for(folder, label_column="label"))


# ------------------------------------------------------------------------------------------------ sizes and colours


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_centre_crop_keeps_seven_eighths_of_the_shorter_side(tmp_path, in_memory):
    wide = Image.new("RGB", (300, 64))
    wide.paste((255, 255, 255), (150 - 16, 0, 150 + 16, 64))  # a white band in the middle, half as wide as high
    framed = Image.new("RGB", (64, 64), (255, 255, 255))
    framed.paste((0, 0, 0), (3, 3, 61, 61))  # its white border is less than what is cut off
    folder = save(tmp_path / "set", images=[wide, framed], labels=[0, 1])
    fields = {"image_size": 28, "center_crop": True, "in_memory": in_memory, "validation_fraction": 0}
    data = load_image_data(config_for(folder, **fields))
    first, second = as_bytes(data.train)[:, 0]
    # The shorter side, 64, becomes 32, of which the middle 28 are kept: the band is 16 wide and reaches both edges.
    assert (first[:, 7:21] == 255).all()
    assert (first[:, :4] == 0).all()
    assert (first[:, -4:] == 0).all()
    assert (second[[0, -1]] == 0).all()
    assert (second[:, [0, -1]] == 0).all()


@pytest.mark.parametrize("center_crop", [0, 1, 27, -32])
def test_a_crop_that_does_not_lie_within_the_image_is_refused(tmp_path, center_crop):
    folder = save(tmp_path / "set", images=pictures(3, size=(15, 12)))
    with pytest.raises(DataError, match=f"data.center_crop={center_crop}.*at least 28 .data.image_size"):
        load_image_data(config_for(folder, image_size=[28, 30], center_crop=center_crop))


def test_a_crop_of_oblong_images_covers_them(tmp_path):
    framed = Image.new("RGB", (60, 40), (255, 255, 255))
    framed.paste((0, 0, 0), (6, 6, 54, 34))  # at half the size 20x30: a border of 3, and at least 4 are cut off
    folder = save(tmp_path / "set", images=[framed, framed.rotate(90, expand=True), framed])
    fields = {"image_size": [12, 18], "center_crop": 20, "validation_fraction": 0}
    first = as_bytes(load_image_data(config_for(folder, **fields)).train)[0]
    assert first.shape == (3, 12, 18)
    assert (first == 0).all()


@pytest.mark.parametrize("in_memory", [True, False])
def test_images_are_resized_whole_whatever_their_aspect(tmp_path, in_memory):
    framed = Image.new("RGB", (96, 64), (255, 255, 255))
    framed.paste((0, 0, 0), (12, 8, 84, 56))
    folder = save(tmp_path / "set", images=[framed, framed.resize((24, 16)), framed.rotate(90, expand=True)])
    data = load_image_data(config_for(folder, image_size=[16, 24], in_memory=in_memory, validation_fraction=0))
    images = as_bytes(data.train)
    assert images.shape == (3, 3, 16, 24)
    assert (images[:, :, [0, -1]] == 255).all()
    assert (images[:, :, :, [0, -1]] == 255).all()
    assert (images[:, :, 4:-4, 5:-5] == 0).all()


def test_one_number_is_as_good_as_two(tmp_path):
    folder = save(tmp_path / "set", images=pictures(9, size=(15, 12)) + pictures(3, size=(20, 20)))
    for fields in ({"augmentation": "crop_flip"}, {"augmentation": "random_resized_crop_flip", "in_memory": False}):
        one, other = (load_image_data(config_for(folder, image_size=size, **fields)) for size in (10, [10, 10]))
        for split in ("train", "test"):
            batches = [getattr(data, split).__getitems__(range(9))["pixel_values"] for data in (one, other)]
            assert torch.equal(*batches)


def test_training_on_random_crops_is_evaluated_on_the_centre_of_all_images(tmp_path):
    framed = Image.new("RGB", (256, 256), (255, 255, 255))
    framed.paste((0, 0, 0), (16, 16, 240, 240))
    folder = save(tmp_path / "set", images=[framed] * 4, labels=[0] * 4)
    fields = {"image_size": 224, "center_crop": True, "in_memory": False, "augmentation": "random_resized_crop_flip"}
    data = load_image_data(config_for(folder, **fields))
    assert (as_bytes(data.test) == 0).all()
    assert (as_bytes(data.train) == 0).all()
    crops = data.train.__getitems__([0, 1, 2, 0])["pixel_values"]
    assert crops.shape == (4, 3, 224, 224)
    assert torch.equal(crops[0], crops[3])
    assert not torch.equal(crops[0], crops[1])


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA", "1", "LA"])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_colours_are_converted_as_pil_does_it(tmp_path, mode, num_channels):
    images = [pictures(1)[0].convert("L").convert(mode) if mode == "LA" else pictures(1, mode=mode)[0]]
    folder = save(tmp_path / "set", images=images)
    fields = {"num_channels": num_channels, "mean": [0.0] * num_channels, "std": [1.0] * num_channels}
    data = load_image_data(config_for(folder, validation_fraction=0, **fields))
    expected = torch.from_numpy(np.array(images[0].convert("L" if num_channels == 1 else "RGB")))
    assert torch.equal(as_bytes(data.train)[0], expected[None] if num_channels == 1 else expected.permute(2, 0, 1))


@pytest.mark.parametrize("in_memory", [True, False])
def test_images_of_16_bits_are_refused_not_clipped(tmp_path, in_memory):
    image = Image.fromarray(np.full((12, 12), 40_000, dtype=np.uint16))
    folder = save(tmp_path / "set", images=[image])
    with pytest.raises(DataError, match="8 bits per channel"):
        load_image_data(config_for(folder, in_memory=in_memory, validation_fraction=0)).train[0]


# ------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_channels": 2, "mean": [0.5] * 2, "std": [0.5] * 2}, r"num_channels=2: give 1 \(grey\) or 3"),
        ({"image_size": 0}, "image_size=0: give the height and width"),
        ({"image_size": [0, 8]}, r"image_size=\[0, 8\]: give the height and width"),
        ({"image_size": [8]}, r"image_size=\[8\]: give the height and width"),
        ({"image_size": [1, 8, 8]}, r"as one number or as \[height, width\]"),
        ({"mean": [0.5, 0.5, 0.5]}, r"data.mean=\[0.5, 0.5, 0.5\]: give 1 number"),
        ({"std": [0.0]}, "std above 0"),
        ({"validation_fraction": 1.0}, r"validation_fraction=1.0: give a fraction in \[0, 1\)"),
        ({"validation_fraction": float("nan")}, "give a fraction"),
        ({"augmentation": "flip"}, "augmentation='flip': give one of none, crop, crop_flip"),
        ({"augmentation": "random_resized_crop_flip", "in_memory": False}, "choose another augmentation"),
        ({"validation_split": "validation"}, "does not apply to the embedded digits"),
        ({"test_split": "train[:50]"}, "does not apply to the embedded digits"),
    ],
)
def test_fields_out_of_range_are_refused(fields, message):
    with pytest.raises(DataError, match=message):
        load_image_data(DataConfig(**fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"augmentation": "random_resized_crop_flip"}, "set data.in_memory=false"),
        ({"image_column": "image"}, "image_column='image' is not a column .*img, label"),
        ({"image_column": "label"}, "the column is ClassLabel.*, not Image"),
        ({"label_column": "img"}, "the column is Image.*, not ClassLabel or whole numbers or strings"),
        ({"test_split": "tset"}, "split 'tset'.*cannot be loaded.*'train', 'test'.*data.test_split"),
    ],
)
def test_what_the_data_set_has_not_is_refused(tmp_path, fields, message):
    folder = save(tmp_path / "set")
    with pytest.raises(DataError, match=message):
        load_image_data(config_for(folder, **fields))


def test_an_ambiguous_column_asks_to_be_named(tmp_path):
    folder = save(tmp_path / "set", names=None)
    with pytest.raises(DataError, match="0 columns of type ClassLabel among img, label: say which with"):
        load_image_data(config_for(folder))
    assert load_image_data(config_for(folder, label_column="label")).label_names == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("ylecun/mnist", r"pass a local folder of the same data \(data.dataset=path/to/folder\)"),
        ("./no/such/folder", r"there is no folder './no/such/folder' here"),
    ],
)
def test_without_the_network_a_hub_id_points_to_a_local_folder(name, advice):
    with pytest.raises(DataError, match=advice):
        load_image_data(DataConfig(dataset=name))


def test_a_broken_image_is_named_by_its_split(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat"])})
    for split in ("train", "test"):
        rows = {"img": [{"bytes": b"no image", "path": None}], "label": [0]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    with pytest.raises(DataError, match="the image in row 0 of split 'train' cannot be decoded: it is no image"):
        load_image_data(config_for(folder))


# ------------------------------------------------------------------------------------------------ config


def test_the_config_of_data_needs_no_torch():
    path = importlib.util.find_spec("neumeta_hf.data.config").origin
    program = f"import runpy, sys; runpy.run_path({path!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_recipe_with_an_unknown_key_or_a_wrong_value_is_refused():
    adapter = TypeAdapter(DataConfig)
    assert adapter.validate_python({"dataset": "ylecun/mnist", "image_size": 28}).image_size == 28
    assert adapter.validate_python({"image_size": [180, 240]}).image_size == [180, 240]
    for wrong in (
        {"imagesize": 28},
        {"augmentation": "flip"},
        {"image_size": "large"},
        {"image_size": [1.5, 2]},
        {"labels": "masks"},
    ):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)
