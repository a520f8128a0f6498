"""Which rows train, select and test: no row twice, and a test split cut the same for everybody."""

import os
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from neumeta_hf.data import DataConfig, load_image_data
from neumeta_hf.data.partition import cut_test_rows
from neumeta_hf.errors import DataError

PLAIN = {"image_size": 2, "num_channels": 1, "mean": [0.0], "std": [1.0]}


def save(folder, sizes=None, classes=None, names=("a", "b", "c")):
    """Splits whose images are grey by their number in the whole data set, of classes in turn unless they are given."""
    folder.mkdir(parents=True)
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    start = 0
    for split, number in (sizes or {"train": 30, "test": 9}).items():
        rows = {
            "img": [Image.new("L", (2, 2), start + index) for index in range(number)],
            "label": classes or [index % len(names) for index in range(number)],
        }
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
        start += number
    return folder


def numbers(split):
    images = split.with_augmentation(False).__getitems__(range(len(split)))["pixel_values"]
    return (images[:, 0, 0, 0] * 255).round().int().tolist()


# ------------------------------------------------------------------------------------------------ rows in common


@pytest.mark.parametrize(
    ("splits", "shared"),
    [
        ({"train_split": "train", "test_split": "train[80%:]"}, 6),
        ({"train_split": "train[:80%]", "test_split": "train[70%:]"}, 3),
        ({"train_split": "train[:20]", "test_split": "train[-11:]"}, 1),
        ({"train_split": "train[:20]", "test_split": "train[50%:]"}, 5),
        ({"train_split": "train+test", "test_split": "test"}, 9),
        ({"train_split": "train", "test_split": "train"}, 30),
        ({"train_split": "train", "test_split": "all"}, 30),
        ({"train_split": "train", "test_split": "test+train[3:5]"}, 2),
        ({"train_split": "train", "test_split": "test[:5]", "validation_split": "test[4:]"}, 1),
        ({"train_split": "train[:20]", "test_split": "test", "validation_split": "train[10%:30%]"}, 6),
    ],
)
def test_splits_that_share_rows_are_refused_with_their_keys_and_the_number(tmp_path, splits, shared):
    folder = save(tmp_path / "set")
    with pytest.raises(DataError, match=rf"data\.\w+_split=.* and data\.\w+_split=.* share {shared} rows") as failure:
        load_image_data(DataConfig(dataset=str(folder), **splits, **PLAIN))
    named = [f"data.{key}={spec!r}" in str(failure.value) for key, spec in splits.items()]
    assert sum(named) == 2


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        ("train[:80%]", "train[80%:]", (range(24), range(24, 30))),
        ("train[:20]+train[25:]", "train[20:25]", ([*range(20), *range(25, 30)], range(20, 25))),
        ("train[5:]+test[:3]", "test[3:]", ([*range(5, 33)], range(33, 39))),
        ("test", "train", (range(30, 39), range(30))),
    ],
)
def test_slices_without_a_common_row_stay_allowed(tmp_path, train, test, expected):
    folder = save(tmp_path / "set")
    config = DataConfig(dataset=str(folder), train_split=train, test_split=test, validation_fraction=0, **PLAIN)
    data = load_image_data(config)
    assert (numbers(data.train), numbers(data.test)) == tuple(map(list, expected))


@pytest.mark.parametrize("spec", ["train+train", "train[:60%]+train[40%:]"])
def test_a_row_that_is_named_twice_is_refused(tmp_path, spec):
    folder = save(tmp_path / "set")
    for fields in ({"train_split": spec}, {"train_split": "test", "test_split": spec}):
        with pytest.raises(DataError, match=r"_split='train.* names \d+ rows twice"):
            load_image_data(DataConfig(dataset=str(folder), **fields, **PLAIN))


@pytest.mark.parametrize("spec", ["train[10:5]", "train[100%:]", "train[99:]"])
def test_a_split_without_a_row_is_refused(tmp_path, spec):
    folder = save(tmp_path / "set")
    with pytest.raises(DataError, match=r"no row|no data"):
        load_image_data(DataConfig(dataset=str(folder), test_split=spec, **PLAIN))


# ------------------------------------------------------------------------------------------------ cuts for testing


@pytest.mark.parametrize("seed", range(20))
def test_as_much_of_each_class_is_cut_and_each_is_on_both_sides(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 40, rng.integers(1, 8))
    if sizes.sum() == 1:
        sizes[0] = 2
    classes = rng.permutation(np.repeat(np.arange(len(sizes)) * 3, sizes))
    fraction = rng.uniform(0.05, 0.95)
    rows = cut_test_rows(len(classes), classes, fraction)
    assert (np.diff(rows) > 0).all()
    cut = np.array([(classes[rows] == 3 * label).sum() for label in range(len(sizes))])
    assert (cut[sizes == 1] == 0).all()
    assert (cut[sizes > 1] >= 1).all()
    assert (cut[sizes > 1] < sizes[sizes > 1]).all()
    exact = (sizes * fraction)[sizes > 1]
    assert (np.abs(np.clip(exact, 1, sizes[sizes > 1] - 1) - cut[sizes > 1]) < 1).all()


def test_as_many_are_cut_as_were_asked_for_where_every_class_has_enough():
    classes = np.repeat(np.arange(7), [11, 13, 17, 19, 23, 29, 31])
    for fraction in (0.1, 0.2, 1 / 3, 0.5, 0.77):
        assert len(cut_test_rows(len(classes), classes, fraction)) == round(len(classes) * fraction)
        assert len(cut_test_rows(len(classes), None, fraction)) == round(len(classes) * fraction)


def test_the_cut_is_pinned():
    # Another one would change what published scores of such data sets were measured on.
    assert cut_test_rows(20, None, 0.25).tolist() == [2, 4, 6, 13, 19]
    assert cut_test_rows(20, np.arange(20) % 3, 0.25).tolist() == [2, 3, 4, 6, 19]


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("labels", ["class", "none"])
def test_a_set_with_one_split_is_cut_the_same_whatever_the_seeds(tmp_path, labels, in_memory):
    classes = [0] * 20 + [1] * 8 + [2] * 2  # sorted by class, as folders are
    folder = save(tmp_path / "set", {"train": 30}, classes)
    seen = []
    for seed, fraction in ((0, 0.1), (7, 0.4)):
        config = DataConfig(
            dataset=str(folder),
            labels=labels,
            test_fraction=0.2,
            data_seed=seed,
            validation_fraction=fraction,
            in_memory=in_memory,
            augmentation="crop_flip",
            **PLAIN,
        )
        data = load_image_data(config)
        parts = [numbers(split) for split in (data.train, data.validation, data.test)]
        assert sorted(sum(parts, [])) == list(range(30))
        assert [len(part) for part in parts] == [24 - round(24 * fraction), round(24 * fraction), 6]
        seen.append(parts)
    assert seen[0][2] == seen[1][2]
    assert seen[0][1] != seen[1][1]
    test = data.test
    assert torch.equal(test[0]["pixel_values"], test.with_augmentation(False)[0]["pixel_values"])
    if labels == "class":
        assert np.bincount([classes[row] for row in seen[0][2]]).tolist() == [4, 1, 1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"test_fraction": 0.2, "test_split": "test"}, "data.test_split='test' names one: leave one out"),
        ({"test_fraction": 0.0}, "test_fraction=0.0: give a fraction between 0 and 1"),
        ({"test_fraction": 1.0}, "give a fraction between 0 and 1"),
        ({"test_fraction": float("nan")}, "give a fraction between 0 and 1"),
        ({"test_fraction": 0.01, "labels": "none"}, "0.01 of 30 rows leaves 0 for testing and 30 for training"),
        ({"test_fraction": 0.99, "labels": "none"}, "leaves 30 for testing and 0 for training"),
        ({"test_fraction": 0.2, "dataset": "digits"}, "data.test_fraction=0.2: .* the embedded digits"),
    ],
)
def test_fractions_that_make_no_sense_are_refused(tmp_path, fields, message):
    folder = save(tmp_path / "set", {"train": 30})
    with pytest.raises(DataError, match=message):
        load_image_data(DataConfig(**{"dataset": str(folder), **PLAIN, **fields}))


def test_a_set_without_a_test_split_hears_of_the_cut_and_it_works(tmp_path):
    folder = save(tmp_path / "set", {"train": 30})
    with pytest.raises(DataError, match="split 'test' .*data.test_fraction=0.2 cuts one"):
        load_image_data(DataConfig(dataset=str(folder), **PLAIN))
    assert len(load_image_data(DataConfig(dataset=str(folder), test_fraction=0.2, **PLAIN)).test) == 6


def test_the_name_of_the_usual_test_split_may_be_said():
    assert len(load_image_data(DataConfig(test_split="test")).test) == 359  # as recipes of earlier runs do


def test_slices_of_a_sorted_set_say_which_classes_are_not_measured(tmp_path, caplog):
    folder = save(tmp_path / "set", {"train": 30}, [index // 10 for index in range(30)])
    fields = {"train_split": "train[:80%]", "test_split": "train[80%:]", "validation_fraction": 0}
    load_image_data(DataConfig(dataset=str(folder), **fields, **PLAIN))
    (line,) = caplog.messages
    assert "test split has no image of a, b" in line
    assert "data.test_fraction" in line
    caplog.clear()
    load_image_data(DataConfig(dataset=str(folder), test_fraction=0.2, validation_fraction=0, **PLAIN))
    assert not caplog.messages


# ------------------------------------------------------------------------------------------------ names of folders


def test_a_folder_may_have_the_characters_of_a_pattern(tmp_path, monkeypatch):
    folder = save(tmp_path / "runs [1] *" / "set")
    assert len(load_image_data(DataConfig(dataset=str(folder), **PLAIN)).test) == 9
    monkeypatch.chdir(folder.parent)
    assert len(load_image_data(DataConfig(dataset="set", **PLAIN)).test) == 9
    images = tmp_path / "a [b]?"
    for split in ("train", "test"):
        for name in ("cat [1]", "dog"):
            (images / split / name).mkdir(parents=True)
            for number in range(3):
                Image.new("L", (2, 2), number).save(images / split / name / f"{number}.png")
    data = load_image_data(DataConfig(dataset=str(images), validation_fraction=0, **PLAIN))
    assert data.label_names == ["cat [1]", "dog"]
    assert [len(data.train), len(data.test)] == [6, 6]


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(Path(os.path.expanduser("~/sets/mine")))
    assert len(load_image_data(DataConfig(dataset="~/sets/mine", **PLAIN)).test) == 9


def test_a_folder_that_is_there_is_not_explained_by_the_network(tmp_path):
    (tmp_path / "set").mkdir()
    with pytest.raises(DataError) as failure:
        load_image_data(DataConfig(dataset=str(tmp_path / "set"), **PLAIN))
    assert "network" not in str(failure.value)
