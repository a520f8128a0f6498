"""Folders that have no classes or masks say why, and the way out exists."""

import json

import datasets
import numpy as np
import pytest
from PIL import Image

from neumeta_hf.data import DataConfig, load_image_data
from neumeta_hf.data.columns import find_columns
from neumeta_hf.errors import DataError

PLAIN = {"image_size": 2, "num_channels": 1, "mean": [0.0], "std": [1.0], "validation_fraction": 0}


def images(folder, *places):
    for place in places:
        for number in range(3):
            path = folder / place / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (2, 2), number).save(path)
    return folder


def load(folder, **fields):
    return load_image_data(DataConfig(dataset=str(folder), **PLAIN, **fields))


def test_a_folder_of_one_class_says_so(tmp_path):
    folder = images(tmp_path / "set", "train/cat", "test/cat")
    with pytest.raises(DataError, match=r"called 'cat', and two classes .*of its own.*data.labels=none") as failure:
        load(folder)
    assert "data.label_column" not in str(failure.value)  # there is none to name
    assert len(load(folder, labels="none").train) == 3
    assert load(images(folder, "train/dog")).label_names == ["cat", "dog"]


def test_a_folder_without_folders_of_classes_says_so(tmp_path):
    folder = images(tmp_path / "set", "train", "test")
    with pytest.raises(DataError, match=r"no classes: all images .* 'test', 'train', which are no classes"):
        load(folder)
    assert len(load(folder, labels="none").train) == 3


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_stray_image_beside_the_folders_of_classes_is_named(tmp_path, split):
    folder = images(tmp_path / "set", "train/cat", "train/dog", "test/cat", "test/dog")
    stray = folder / split / "stray.png"
    Image.new("L", (2, 2)).save(stray)
    with pytest.raises(DataError, match=rf"'{split}/stray.png' lies beside folders .*Move it .*data.labels=none"):
        load(folder)
    stray.rename(folder / split / "cat" / "stray.png")
    assert load(folder).label_names == ["cat", "dog"]


def test_images_alone_in_a_table_list_the_columns(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    features = datasets.Features({"img": datasets.Image(), "score": datasets.Value("float32")})
    for split in ("train", "test"):
        rows = {"img": [Image.new("L", (2, 2))], "score": [0.5]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    with pytest.raises(DataError, match=r"no classes: its columns are img, score.*data.labels=none"):
        load(folder)


def test_a_data_set_without_images_is_none_of_images(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"{split}.csv").write_text("number,label\n1,2\n")
    with pytest.raises(DataError, match=r"no column of type Image among number, label: name a data set of images"):
        load(folder)


def test_masks_that_are_not_there_are_asked_for_in_a_form_that_works(tmp_path):
    folder = images(tmp_path / "set", "train/images", "test/images")
    with pytest.raises(DataError, match=r"1 columns of type Image .*metadata.jsonl") as failure:
        load(folder, labels="mask")
    line = json.loads(str(failure.value).partition("pair: ")[2].rstrip("."))
    for split in ("train", "test"):
        (folder / split / "masks").mkdir()
        lines = []
        for number in range(3):
            mask = np.array([[0, 1], [1, 0]], dtype=np.uint8)
            Image.fromarray(mask).save(folder / split / "masks" / f"{number}.png")
            lines.append({name: f"{path.split('/')[0]}/{number}.png" for name, path in line.items()})
        (folder / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = load(folder, labels="mask")
    assert data.label_names == ["0", "1"]
    assert data.train[2]["labels"].tolist() == [[0, 1], [1, 0]]


def test_a_column_that_differs_between_splits_is_shown_as_each_has_it():
    labels = {"train": datasets.ClassLabel(names=["a", "b"]), "test": datasets.Value("int64")}
    loaded = {
        role: datasets.Dataset.from_dict(
            {"image": [], "label": []}, datasets.Features({"image": datasets.Image(), "label": label}), split=role
        )
        for role, label in labels.items()
    }
    with pytest.raises(DataError, match=r"'label' is Value.* in split 'test', but ClassLabel.* in split 'train'"):
        find_columns(loaded, DataConfig(**PLAIN))
