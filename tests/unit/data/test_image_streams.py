"""A stream of images gives what the same images give in memory, once a round, and is gone on with to the image."""

import json

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.data.mask_sets import in_file

from neumeta_hf.data import DataConfig, load_data
from neumeta_hf.data.classes import in_order
from neumeta_hf.errors import DataError
from neumeta_hf.tasks import build_task

NAMES = ["cat", "dog", "eel"]
FIELDS = {"streaming": True, "validation_split": "validation", "shuffle_blocks": 7, "image_size": 6}
TASK = {"class": "image-classification", "mask": "semantic-segmentation", "none": "image-generation"}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def picture(number):
    return Image.fromarray(np.random.default_rng(number).integers(0, 255, (8, 9)).astype(np.uint8))


def rows(num, *, offset=0, sort=False):
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES), "mask": datasets.Image()}
    )
    numbers = range(offset, offset + num)
    labels = [number % 3 for number in numbers]
    columns = {
        "image": [in_file(picture(number)) for number in numbers],
        "label": sorted(labels) if sort else labels,
        "mask": [in_file(picture(number).point(lambda value: value % 2)) for number in numbers],
    }
    return datasets.Dataset.from_dict(columns, features=features)


def save(folder, *, files=1, num=20, **options):
    folder.mkdir()
    train = rows(num, **options)
    for part in range(files):
        train.shard(files, part, contiguous=True).to_parquet(folder / f"train-{part}.parquet")
    for number, name in enumerate(("validation", "test"), start=1):
        rows(6, offset=100 * number).to_parquet(folder / f"{name}.parquet")
    return str(folder)


@pytest.fixture
def folder(tmp_path, request):
    return save(tmp_path / "set", files=getattr(request, "param", 4))


def load(folder, *, labels="class", **fields):
    column = {"class": "label", "mask": "mask", "none": None}[labels]
    config = {"dataset": folder, "labels": labels, "image_column": "image", "label_column": column, **FIELDS, **fields}
    return load_data(DataConfig(**config), build_task(TASK[labels]))


def in_memory(folder, **fields):
    return load(folder, streaming=False, **fields)


def images_of(batches):
    return [row.numpy().tobytes() for batch in batches for row in batch["pixel_values"]]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"augmentation": "crop_flip"},
        {"augmentation": "random_resized_crop_flip", "in_memory": False},
        {"labels": "mask", "label_names": ["off", "on"], "augmentation": "scale_crop_flip"},
        {"labels": "none"},
    ],
)
def test_a_round_is_an_epoch_of_the_same_images_in_another_order(folder, fields):
    split = in_memory(folder, **fields).train
    loader = load(folder, **fields).train.loader(batch_size=5, num_batches=4)
    orders = []
    for epoch in range(3):
        split.set_epoch(epoch)
        wanted, batches = images_of([split.__getitems__(range(20))]), list(loader)
        found = images_of(batches)
        assert sorted(found) == sorted(wanted)
        orders.append([wanted.index(image) for image in found])
        if "labels" in batches[0]:
            labels = split.__getitems__(orders[-1])["labels"]
            assert torch.equal(torch.cat([batch["labels"] for batch in batches]), labels)
    assert len(set(map(tuple, orders))) == 3
    assert orders[0] != sorted(orders[0])


@pytest.mark.parametrize(("folder", "stop"), [(4, 1), (4, 6), (1, 3), (1, 11)], indirect=["folder"])
def test_a_stream_of_images_that_is_gone_on_with_is_one_that_never_stopped(folder, stop):
    fields = {"augmentation": "crop", "mixup": 0.2}  # 12 batches of 3: rounds end within batches
    whole = list(load(folder, **fields).train.loader(batch_size=3, num_batches=12))
    loader = load(folder, **fields).train.loader(batch_size=3, num_batches=12)
    passes = iter(loader)
    first = [next(passes) for _ in range(stop)]
    state = json.loads(json.dumps(loader.state_dict()))
    again = load(folder, **fields).train.loader(batch_size=3, num_batches=12)
    again.load_state_dict(state)
    for found, wanted in zip([*first, *again.rest(stop)], whole, strict=True):
        assert found.keys() == wanted.keys() > {"pixel_values", "labels"}
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(("folder", "num_processes"), [(1, 2), (4, 2), (4, 3)], indirect=["folder"])
def test_no_two_processes_see_an_image(folder, num_processes):
    parts = [
        set(images_of(load(folder).train.loader(batch_size=1, num_batches=5, rank=rank, num_processes=num_processes)))
        for rank in range(num_processes)
    ]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 5 * num_processes


def test_what_is_measured_on_is_the_first_images_and_stays(folder):
    data, wanted = load(folder, kept_blocks=4, augmentation="crop"), in_memory(folder)
    for name, num in (("validation", 4), ("test", 4)):
        split = getattr(data, name)
        assert len(split) == num
        found, expected = split.__getitems__(range(4)), getattr(wanted, name).__getitems__(range(4))
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert len(load(folder).test) == 6


def test_the_first_images_of_a_stream_are_a_split(folder):
    stream = load(folder, augmentation="crop").train
    head = stream.head(9)
    wanted = in_memory(folder, augmentation="crop").train.__getitems__(range(9))
    assert len(head) == 9
    assert torch.equal(head.__getitems__(range(9))["pixel_values"], wanted["pixel_values"])
    assert len(stream.head(100)) == 20
    loader = stream.loader(batch_size=5, num_batches=4)
    assert len(set(images_of(loader))) == 20  # a look moves nothing
    assert stream.sample(3)["pixel_values"].shape == (3, 1, 6, 6)
    assert stream.shown(stream.sample(3)).amax() <= 1


def test_classes_of_a_stream_are_matched_by_name(folder):
    data = load(folder)
    matched = in_order(data, ["eel", "cow", "cat", "dog"])
    for split, other in ((data.train.head(6), matched.train.head(6)), (data.test, matched.test)):
        before, after = (part.__getitems__(range(6))["labels"].tolist() for part in (split, other))
        assert after == [[2, 3, 0][label] for label in before]


def test_folders_of_images_are_streamed_too(tmp_path):
    for number in range(24):
        split = ("train", "train", "validation", "test")[number % 4]
        path = tmp_path / "set" / split / NAMES[number // 4 % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path)
    fields = {"image_column": None, "label_column": None}
    data, wanted = load(str(tmp_path / "set"), **fields), in_memory(str(tmp_path / "set"), **fields)
    assert data.label_names == wanted.label_names == NAMES
    found = images_of(data.train.loader(batch_size=4, num_batches=3))
    assert sorted(found) == sorted(images_of([wanted.train.__getitems__(range(12))]))


def test_rows_that_are_sorted_by_class_are_told_of(tmp_path, caplog):
    folder = save(tmp_path / "set", num=30, sort=True)
    next(iter(load(folder).train.loader(batch_size=2, num_batches=1)))
    assert "data.shuffle_blocks (7 now)" in caplog.text
    caplog.clear()
    next(iter(load(folder, shuffle_blocks=30).train.loader(batch_size=2, num_batches=1)))
    assert not caplog.text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"validation_split": None}, "data.validation_split=None"),
        ({"test_fraction": 0.1}, "data.test_fraction=0.1"),
        ({"train_split": "train[:50%]"}, "cannot be loaded"),
        ({"shuffle_blocks": 0}, "data.shuffle_blocks=0"),
        ({"kept_blocks": 2**21}, "data.kept_blocks"),
        ({"label_column": "number"}, r"data\.label_column='number'.*ClassLabel"),
        ({"labels": "mask"}, r"data\.label_names or data\.mask_values"),
        ({"image_column": "number"}, r"data\.image_column='number'"),
        ({"block_size": 5}, r"data\.block_size=5 is for text"),
        ({"dataset": "digits", "image_column": None, "label_column": None}, "digits"),
    ],
)
def test_what_makes_no_sense_of_a_stream_of_images_is_refused(tmp_path, fields, message):
    (tmp_path / "set").mkdir()
    for name in ("train", "validation", "test"):
        data = rows(6)
        data.add_column("number", list(range(6))).to_parquet(tmp_path / "set" / f"{name}.parquet")
    with pytest.raises(DataError, match=message):
        load(**{"folder": str(tmp_path / "set"), **fields} if "dataset" not in fields else {"folder": "digits"})


def test_what_a_stream_finds_in_a_row_is_told_by_the_row(tmp_path):
    folder = save(tmp_path / "set")
    broken = rows(6).to_dict()
    broken["image"][4] = {"bytes": b"no image", "path": None}
    broken["label"][2] = None
    features = rows(1).features
    datasets.Dataset.from_dict(broken, features=features).to_parquet(tmp_path / "set" / "train-0.parquet")
    with pytest.raises(DataError, match="row 4 of split 'train'"):
        list(load(folder, labels="none").train.loader(batch_size=6, num_batches=1))
    with pytest.raises(DataError, match="label None.*filter"):
        list(load(folder).train.loader(batch_size=6, num_batches=1))
