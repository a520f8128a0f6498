import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from neumeta_hf.data import DataConfig, ImageSplit, collate, load_image_data
from neumeta_hf.data.decoding import ImageColumn
from neumeta_hf.data.masks import MaskClasses
from neumeta_hf.data.splits import ArraySource, DecodingSource, MaskColumn
from neumeta_hf.errors import DataError


@pytest.fixture
def split():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (60, 3, 16, 16), dtype=torch.uint8, generator=generator)
    config = DataConfig(
        image_size=16, num_channels=3, mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 1.0], augmentation="crop_flip", data_seed=7
    )
    source = ArraySource(pixels, torch.arange(60))
    return ImageSplit(source, np.arange(10, 60), config, augmented=True, name="train")


def batches(split, **options):
    loaded = list(DataLoader(split, collate_fn=collate, **options))
    return {name: torch.cat([batch[name] for batch in loaded]) for name in loaded[0]}


def test_a_batch_is_normalised_after_scaling_to_one(split):
    plain = split.with_augmentation(False)
    batch = plain.__getitems__([0, 5, -1])
    assert batch["labels"].tolist() == [10, 15, 59]
    assert batch["labels"].dtype == torch.int64
    assert batch["pixel_values"].dtype == torch.float32
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ([0.1, 0.2, 0.3], [0.5, 0.25, 1.0]))
    expected = (split.source.images([10, 15, 59], split).float() / 255 - mean) / std
    assert torch.allclose(batch["pixel_values"], expected, atol=1e-6)


def test_one_image_is_what_it_is_in_a_batch(split):
    batch = split.__getitems__([0, 3, 7])
    assert torch.equal(split[3]["pixel_values"], batch["pixel_values"][1])
    assert split[3]["labels"] == batch["labels"][1]
    with pytest.raises(IndexError):
        split[50]


def test_augmentation_knows_neither_batches_nor_workers_nor_cuts(split):
    whole = split.__getitems__(range(50))["pixel_values"]
    assert torch.equal(batches(split, batch_size=7)["pixel_values"], whole)
    assert torch.equal(batches(split, batch_size=13, num_workers=2)["pixel_values"], whole)
    part = split.subset(20, seed=1)
    places = [split.indices.tolist().index(index) for index in part.indices]
    assert torch.equal(part.__getitems__(range(20))["pixel_values"], whole[places])


def test_two_processes_see_what_one_sees(split):
    one = split.__getitems__(range(50))["pixel_values"]
    ranks = [split.__getitems__(range(rank, 50, 2))["pixel_values"] for rank in range(2)]
    assert torch.equal(torch.stack(ranks, 1).flatten(0, 1), one)


def test_augmentation_changes_with_the_epoch_and_comes_back(split):
    first = split.__getitems__(range(50))["pixel_values"]
    split.set_epoch(1)
    second = split.__getitems__(range(50))["pixel_values"]
    changed = (first != second).flatten(1).any(1).float().mean()
    assert changed > 0.9
    split.set_epoch(0)
    assert torch.equal(split.__getitems__(range(50))["pixel_values"], first)


def test_the_epoch_reaches_worker_processes(split):
    split.set_epoch(4)
    expected = split.__getitems__(range(50))["pixel_values"]
    assert torch.equal(batches(split, batch_size=10, num_workers=1)["pixel_values"], expected)


def test_subset_is_a_seeded_choice_and_smaller_ones_lie_in_larger_ones(split):
    parts = {(n, seed): set(split.subset(n, seed=seed).indices.tolist()) for n in (10, 20) for seed in (0, 1)}
    assert [len(part) for part in parts.values()] == [10, 10, 20, 20]
    assert parts[10, 0] < parts[20, 0] < set(range(10, 60))
    assert parts[20, 0] != parts[20, 1]
    assert parts[20, 0] == set(split.subset(20, seed=0).indices.tolist())
    with pytest.raises(DataError, match="51 images were asked for, but the train split has 50"):
        split.subset(51, seed=0)


def test_views_leave_the_split_itself_alone(split):
    before = split.__getitems__(range(50))["pixel_values"]
    other = split.with_augmentation(False).subset(5, seed=0)
    other.set_epoch(9)
    assert torch.equal(split.__getitems__(range(50))["pixel_values"], before)


def test_only_the_training_split_augments():
    data = load_image_data(DataConfig(augmentation="crop"))
    assert [data.train.augmented, data.validation.augmented, data.test.augmented] == [True, False, False]
    assert not load_image_data(DataConfig()).train.augmented


@pytest.mark.parametrize("augmentation", ["none", "random_resized_crop_flip"])
def test_images_are_interpolated_as_asked_and_masks_never(augmentation, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    mask = (pixels[:, :, 0] % 3).astype(np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    rows = {"image": [Image.fromarray(pixels)] * 3, "label": [Image.fromarray(mask)] * 3}
    dataset = datasets.Dataset.from_dict(rows, features=features)
    shown, labels = {}, []
    for interpolation in (None, "nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"):
        config = DataConfig(
            labels="mask" if augmentation == "none" else "none",
            interpolation=interpolation,
            augmentation=augmentation,
            in_memory=False,
            image_size=[11, 14],
            num_channels=3,
            mean=[0.0] * 3,
            std=[1.0] * 3,
        )
        images, column = (
            ImageColumn.of(dataset, name, split="train", max_pixels=config.max_image_pixels) for name in features
        )
        masks = MaskColumn(column, MaskClasses.of(config, 3)) if augmentation == "none" else None
        source = DecodingSource(images, masks, config)
        batch = ImageSplit(source, np.arange(3), config, augmented=True, name="train").__getitems__([0, 1, 2])
        shown[interpolation] = batch["pixel_values"]
        labels.append(batch.get("labels"))
    assert torch.equal(shown.pop(None), shown["bilinear"])
    for name, images in shown.items():
        assert sum(torch.equal(images, other) for other in shown.values()) == 1, name
    if augmentation == "none":
        expected = torch.from_numpy(np.array(Image.fromarray(mask).resize((14, 11), Image.Resampling.NEAREST)))
        assert all(torch.equal(each[0], expected.long()) for each in labels)
