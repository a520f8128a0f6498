"""Images with masks, and images alone: what a batch holds, and that masks go where their images go."""

import datasets
import numpy as np
import pytest
import torch
from mask_sets import RGB, config_for, grey, in_file, plain, save
from PIL import Image
from torch.utils.data import DataLoader

from neumeta_hf.data import DataConfig, ImageSplit, collate, load_image_data
from neumeta_hf.data.augmentation import draws, scale_crop
from neumeta_hf.data.splits import ArraySource
from neumeta_hf.errors import DataError
from neumeta_hf.images import IGNORED

POLICIES = ["crop", "crop_flip", "scale_crop_flip"]


def ramps(height, width):
    """Red is twice the column and 20, green twice the row and 20, blue is 255; and masks of columns and of rows."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([20 + 2 * columns, 20 + 2 * rows, np.full_like(rows, 255)])
    return image.astype(np.uint8), columns.astype(np.uint8), rows.astype(np.uint8)


def ramp_split(augmentation, axis, number=60, height=60, width=80):
    image, *masks = (torch.from_numpy(part) for part in ramps(height, width))
    source = ArraySource(image.expand(number, -1, -1, -1).clone(), masks[axis].expand(number, -1, -1).clone())
    config = DataConfig(labels="mask", image_size=[height, width], augmentation=augmentation, **RGB)
    return ImageSplit(source, np.arange(number), config, augmented=True, name="train")


def as_bytes(batch):
    return (batch["pixel_values"] * 255).round().long()


def away_from(edges, pixels=2):
    """Where no pixel that is this near is an edge."""
    near = torch.nn.functional.max_pool2d(edges.float()[:, None], 2 * pixels + 1, stride=1, padding=pixels)[:, 0]
    return near == 0


# ------------------------------------------------------------------------------------------------ augmentation


@pytest.mark.parametrize("axis", [0, 1], ids=["columns", "rows"])
@pytest.mark.parametrize("augmentation", POLICIES)
def test_a_mask_goes_where_its_image_goes(augmentation, axis):
    batch = ramp_split(augmentation, axis).__getitems__(range(60))
    masks = batch["labels"]
    inside = away_from(masks == IGNORED)
    assert inside.float().mean() > 0.4
    places = (as_bytes(batch)[:, axis] - 20) / 2  # in the original, from the image
    away = (places - masks)[inside]
    # The nearest pixel is half a pixel away at most; bytes are rounded to a quarter.
    assert away.abs().max() <= 0.8
    assert abs(away.mean()) < 0.02
    assert len({mask.numpy().tobytes() for mask in masks}) > 40


@pytest.mark.parametrize("augmentation", POLICIES)
def test_padding_is_black_in_images_and_ignored_in_masks(augmentation):
    batch = ramp_split(augmentation, 0).__getitems__(range(60))
    padded = batch["labels"] == IGNORED
    assert 0.01 < padded.float().mean() < 0.5
    images = as_bytes(batch)
    assert torch.equal(images[:, 2] == 0, padded)  # blue is 255 all over the image
    assert (images[:, 2][~padded] == 255).all()
    assert (images.sum(1)[padded] == 0).all()


@pytest.mark.parametrize("augmentation", POLICIES)
def test_an_augmented_pair_is_the_same_in_any_batch_worker_subset_and_process(augmentation):
    split = ramp_split(augmentation, 0, height=16, width=24)
    split.set_epoch(3)
    whole = split.__getitems__(range(60))
    batches = [
        list(DataLoader(split, batch_size=7, collate_fn=collate)),
        list(DataLoader(split, batch_size=13, collate_fn=collate, num_workers=2)),
    ]
    part = split.subset(20, seed=1)
    ranks = [split.__getitems__(range(rank, 60, 2)) for rank in range(2)]
    for name, expected in whole.items():
        for loaded in batches:
            assert torch.equal(torch.cat([batch[name] for batch in loaded]), expected)
        assert torch.equal(part.__getitems__(range(20))[name], expected[part.indices])
        assert torch.equal(torch.stack([rank[name] for rank in ranks], 1).flatten(0, 1), expected)
        split.set_epoch(4)
        assert not torch.equal(split.__getitems__(range(60))[name], expected)
        split.set_epoch(3)


@pytest.mark.parametrize("augmentation", POLICIES)
def test_images_are_augmented_alike_with_masks_classes_and_alone(augmentation):
    split = ramp_split(augmentation, 0)
    expected = split.__getitems__(range(60))["pixel_values"]
    pixels = split.source.images(range(60), split)
    for labels, kind in ((torch.arange(60), "class"), (None, "none")):
        config = DataConfig(labels=kind, image_size=[60, 80], augmentation=augmentation, **RGB)
        other = ImageSplit(ArraySource(pixels, labels), np.arange(60), config, augmented=True, name="train")
        batch = other.__getitems__(range(60))
        assert torch.equal(batch["pixel_values"], expected)
        assert set(batch) == ({"pixel_values", "labels"} if kind == "class" else {"pixel_values"})
    assert batch.keys() == other[0].keys()


def test_scales_are_log_uniform_from_a_half_to_two_and_the_same_for_both_axes():
    number, size = 600, 100
    ramp = torch.arange(size, dtype=torch.uint8)[None, None, None].repeat(number, 1, size, 1)
    scales = []
    for images in (ramp, ramp.transpose(2, 3).contiguous()):
        masks = scale_crop(images, np.arange(number), seed=1, epoch=2, masks=True)[:, 0].float()
        across = masks if images is ramp else masks.transpose(1, 2)
        # The row (or column) of the middle of what is shown; of that, places in the original at both ends.
        shown = across[torch.arange(number), (across != IGNORED).float().mean(2).argmax(1)]
        lengths = (shown != IGNORED).sum(1)
        ends = torch.stack(
            [shown.masked_fill(shown == IGNORED, 999).amin(1), shown.masked_fill(shown == IGNORED, -1).amax(1)]
        )
        scales.append(lengths / (ends[1] - ends[0] + 1))
    assert torch.allclose(scales[0], scales[1], rtol=0.05)
    logarithms = scales[0].log2()
    assert -1.001 <= logarithms.min() < -0.95
    assert 0.95 < logarithms.max() <= 1.03
    quartiles = torch.quantile(logarithms, torch.tensor([0.25, 0.5, 0.75]))
    assert torch.allclose(quartiles, torch.tensor([-0.5, 0.0, 0.5]), atol=0.12)


@pytest.mark.parametrize("masks", [False, True], ids=["images", "masks"])
def test_a_scaled_image_is_a_window_of_the_image_resized_whole(masks):
    number, height, width = 40, 20, 28
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 254, (number, 1, height, width), dtype=torch.uint8, generator=generator)
    indices, moment = np.arange(number), {"seed": 0, "epoch": 0}
    results = scale_crop(images, indices, masks=masks, **moment)[:, 0].int()
    scales = 0.5 * 4 ** draws(indices, stream="scale", **moment)
    resample = Image.Resampling.NEAREST if masks else Image.Resampling.BILINEAR
    for image, result, scale in zip(images, results, scales, strict=True):
        size = round(width * scale), round(height * scale)
        whole = torch.tensor(np.array(Image.fromarray(image[0].numpy()).resize(size, resample))).int()
        # The whole lies in the result, on padding, or the result in the whole.
        inner, outer = (whole, result) if scale < 1 else (result, whole)
        away = (outer.unfold(0, len(inner), 1).unfold(1, inner.shape[1], 1) - inner).abs()
        # Rounding moves pixels of images by a level or two; of masks, to another one that is as near.
        equal = (away <= (0 if masks else 2)).float().mean((2, 3))
        assert equal.max() >= (0.7 if masks else 1)
        assert not masks or set(result.unique().tolist()) <= {IGNORED, *image.unique().tolist()}


def test_windows_of_scaled_images_lie_anywhere():
    images = torch.ones(400, 1, 40, 40, dtype=torch.uint8)
    for axis in (2, 3):
        edge = images.clone()
        edge.select(axis, 0).fill_(9)
        edge.select(axis, 39).fill_(9)
        shown = scale_crop(edge, np.arange(400), seed=0, epoch=0, masks=True)[:, 0]
        length = (shown != IGNORED).any(2 if axis == 2 else 1).sum(1)
        place = (shown != IGNORED).any(2 if axis == 2 else 1).int().argmax(1)
        slack = 40 - length
        wide = slack > 10
        assert (place[wide] / slack[wide]).min() < 0.1
        assert (place[wide] / slack[wide]).max() > 0.9
        assert 0.4 < (place[wide] / slack[wide]).mean() < 0.6
        grown = (shown == 9).sum((1, 2))[length == 40]
        assert (grown == 0).any()  # a window in the middle


def test_one_pixel_can_be_augmented():
    batch = ramp_split("scale_crop_flip", 0, height=1, width=1).__getitems__(range(60))
    assert (batch["labels"] == 0).all()
    assert batch["pixel_values"].shape == (60, 3, 1, 1)


# ------------------------------------------------------------------------------------------------ from folders


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_folder_gives_images_and_their_masks(tmp_path, in_memory):
    images = grey(5)
    masks = [np.random.default_rng(index).integers(0, 4, (6, 8), dtype=np.uint8) for index in range(5)]
    folder = save(tmp_path / "set", images, [Image.fromarray(mask) for mask in masks])
    data = load_image_data(config_for(folder, in_memory=in_memory))
    batch = data.train.__getitems__(range(5))
    assert torch.equal(
        as_bytes(batch), torch.stack([torch.tensor(np.array(image)).permute(2, 0, 1) for image in images])
    )
    assert torch.equal(batch["labels"], torch.tensor(np.stack(masks)).long())
    assert batch["labels"].dtype == torch.int64
    assert data.train[3]["labels"].shape == (6, 8)
    assert data.label_names == ["0", "1", "2", "3"]


@pytest.mark.parametrize("augmentation", ["none", *POLICIES])
def test_decoding_on_access_gives_the_same_pairs(tmp_path, augmentation):
    sizes = [(8, 6), (16, 12), (30, 20), (10, 33)]
    images = [grey(1, size, seed=index)[0] for index, size in enumerate(sizes)] * 2
    masks = [image.convert("L").point(lambda value: value % 7) for image in images]
    folder = save(tmp_path / "set", images, masks)
    kept, decoded = (
        load_image_data(config_for(folder, in_memory=in_memory, augmentation=augmentation, image_size=[18, 24]))
        for in_memory in (True, False)
    )
    for split in ("train", "test"):
        one, other = (getattr(data, split).__getitems__(range(8)) for data in (kept, decoded))
        assert torch.equal(one["pixel_values"], other["pixel_values"])
        assert torch.equal(one["labels"], other["labels"])
    loaded = DataLoader(decoded.train, batch_size=3, collate_fn=collate, num_workers=1)
    expected = decoded.train.__getitems__(range(8))["labels"]
    assert torch.equal(torch.cat([batch["labels"] for batch in loaded]), expected)


def test_only_training_pairs_are_augmented(tmp_path):
    folder = save(tmp_path / "set", grey(20), [plain(index % 3) for index in range(20)])
    data = load_image_data(config_for(folder, augmentation="scale_crop_flip", validation_fraction=0.5))
    assert (data.train.__getitems__(range(10))["labels"] == IGNORED).any()
    for split in (data.validation, data.test, data.train.with_augmentation(False)):
        assert (split.__getitems__(range(10))["labels"] != IGNORED).all()


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("axis", [0, 1], ids=["columns", "rows"])
@pytest.mark.parametrize(
    ("size", "wanted", "center_crop"),
    [
        ((60, 80), [33, 44], False),  # at a half, two pixels would be the nearest
        ((60, 80), [75, 100], False),
        ((80, 80), [41, 41], False),
        ((80, 60), [31, 41], False),
        ((80, 60), [30, 40], True),
        ((60, 80), [40, 40], True),
        ((44, 100), [50, 90], True),
        ((80, 80), [41, 41], True),
    ],
    ids=str,
)
def test_masks_are_resized_and_cropped_as_their_images(tmp_path, size, wanted, center_crop, axis, in_memory):
    image, *masks = ramps(*size)
    folder = save(tmp_path / "set", [Image.fromarray(image.transpose(1, 2, 0))], [Image.fromarray(masks[axis])])
    fields = {"image_size": wanted, "center_crop": center_crop, "in_memory": in_memory}
    test = load_image_data(config_for(folder, **fields)).test
    batch = test.__getitems__([0])
    assert batch["labels"].shape == (1, *wanted)
    frame = torch.zeros(1, *wanted, dtype=torch.bool)
    frame[:, [0, -1]] = frame[:, :, [0, -1]] = True  # at the edges of an image its pixels are interpolated aside
    places = (as_bytes(batch)[:, axis] - 20) / 2
    away = (places - batch["labels"])[away_from(frame)]
    assert away.abs().max() <= 0.8
    assert abs(away.mean()) < 0.1
    # How much of the original is left along the axis: all of it, or 7/8 of the side that covers.
    side, other = (size[1], size[0]) if axis == 0 else size
    ends = batch["labels"][0].amax() - batch["labels"][0].amin() + 1
    goal, other_goal = (wanted[1], wanted[0]) if axis == 0 else wanted
    left = side if not center_crop else min(side, goal * other / other_goal) * 7 / 8
    assert abs(ends - left) <= 1 + left * 0.03


@pytest.mark.parametrize(
    ("size", "wanted"), [((70, 50), [14, 28]), ((50, 70), [28, 14]), ((333, 500), [24, 36]), ((3, 90), [7, 5])]
)
def test_a_centre_crop_covers_what_is_wanted(tmp_path, size, wanted):
    folder = save(tmp_path / "set", [Image.new("RGB", size, (255, 255, 255))], [plain(0, size)])
    batch = load_image_data(config_for(folder, image_size=wanted, center_crop=True)).test.__getitems__([0])
    assert batch["pixel_values"].shape == (1, 3, *wanted)
    assert (as_bytes(batch) == 255).all()


def test_masks_keep_their_indices_when_resized(tmp_path):
    checks = np.kron(np.indices((12, 16)).sum(0) % 2, np.ones((3, 3))).astype(np.uint8) * 9
    folder = save(tmp_path / "set", grey(1, (48, 36)), [Image.fromarray(checks)])
    for wanted in ([18, 24], [50, 31]):
        config = config_for(folder, image_size=wanted, label_names=list("abcdefghij"))
        labels = load_image_data(config).test[0]["labels"]
        assert set(labels.unique().tolist()) == {0, 9}


# ------------------------------------------------------------------------------------------------ columns


@pytest.mark.parametrize("name", ["label", "labels", "mask", "annotation", "segmentation"])
def test_masks_are_found_by_their_names_whatever_the_order(tmp_path, name):
    for folder, columns in (("a", ("image", name)), ("b", ("pixels", name))):
        save(tmp_path / folder, grey(2), [plain(1), plain(0)], columns=columns)
        assert (load_image_data(config_for(tmp_path / folder)).train[0]["labels"] == 1).all()


def test_masks_that_are_not_found_by_name_ask_to_be_named(tmp_path):
    for folder, columns, more in (
        ("a", ("left", "right"), ()),
        ("b", ("mask", "label"), ()),
        ("c", ("x", "mask"), ("y",)),
    ):
        path = save(tmp_path / folder, grey(2), [plain(1), plain(0)], columns=columns, more=more)
        with pytest.raises(DataError, match=r"columns of type Image among .*Say which with data.label_column"):
            load_image_data(config_for(path))
        fields = {"label_column": columns[1], **({"image_column": columns[0]} if more else {})}
        assert (load_image_data(config_for(path, **fields)).train[0]["labels"] == 1).all()
        if more:
            with pytest.raises(
                DataError, match=r"2 columns of type Image among x, y: say which with data.image_column"
            ):
                load_image_data(config_for(path, label_column=columns[1]))
    # The image may be called as masks are, if it is said to be the image.
    path = tmp_path / "b"
    assert (load_image_data(config_for(path, image_column="mask")).train[0]["labels"] == 1).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label_column": "label", "image_column": "label"}, "are both 'label': name two columns"),
        ({"label_column": "depth"}, "label_column='depth' is not a column .*image, label"),
        ({"augmentation": "random_resized_crop_flip"}, "choose scale_crop_flip"),
        ({"augmentation": "random_resized_crop_flip", "in_memory": False}, "choose scale_crop_flip"),
        ({"mask_values": {}}, r"mask_values={}: give names of 1 to 255 classes"),
        ({"mask_values": {-1: "a"}}, "by value from 0 up"),
        ({"mask_values": {"0": "a"}}, "by value from 0 up"),
        ({"mask_values": {0: ""}}, "give names"),
        ({"mask_values": {value: str(value) for value in range(256)}}, "1 to 255 classes"),
        ({"mask_values": {0: "a"}, "label_names": ["a"]}, "both name the classes of masks: leave one out"),
        ({"mask_values": {0: "a", 7: "b"}, "ignore_index": 7}, "ignore_index=7 .* calls it 'b': leave it out of one"),
        ({"mask_values": {0: "a"}, "labels": "none"}, "is for masks"),
        ({"label_names": []}, r"label_names=\[\]: give 1 to 255 names"),
        ({"label_names": ["a", "b", "a"]}, "each once"),
        ({"label_names": [str(index) for index in range(256)]}, "give 1 to 255 names"),
        ({"labels": "class"}, "2 columns of type Image"),
        ({"labels": "none"}, "2 columns of type Image"),
        ({"labels": "none", "label_column": "label"}, "data.labels=none reads no labels"),
        ({"labels": "none", "ignore_index": 3}, r"ignore_index=3 is for masks"),
        ({"labels": "class", "label_names": ["a"]}, r"label_names=\['a'\] is for masks"),
        ({"labels": "masks"}, "labels='masks': give one of class, mask, none"),
        ({"dataset": "digits"}, "the embedded digits have no masks"),
    ],
)
def test_what_does_not_fit_masks_is_refused(tmp_path, fields, message):
    folder = save(tmp_path / "set", grey(1), [plain(1)])
    with pytest.raises(DataError, match=message):
        load_image_data(DataConfig(**{**vars(config_for(folder)), **fields}))


# ------------------------------------------------------------------------------------------------ images alone


@pytest.mark.parametrize("in_memory", [True, False])
def test_images_alone_need_no_column_of_labels(tmp_path, in_memory):
    folder = tmp_path / "set"
    folder.mkdir()
    for split, number in (("train", 8), ("test", 3)):
        rows = {"picture": [in_file(image) for image in grey(number)]}
        dataset = datasets.Dataset.from_dict(rows, features=datasets.Features({"picture": datasets.Image()}))
        dataset.to_parquet(folder / f"{split}.parquet")
    data = load_image_data(config_for(folder, labels="none", in_memory=in_memory, validation_fraction=0.25))
    assert data.label_names == []
    assert [len(data.train), len(data.validation), len(data.test)] == [6, 2, 3]
    expected = torch.stack([torch.tensor(np.array(image)).permute(2, 0, 1) for image in grey(3)])
    batch = data.test.__getitems__(range(3))
    assert list(batch) == ["pixel_values"]
    assert torch.equal(as_bytes(batch), expected)
    loaded = list(DataLoader(data.train, batch_size=4, collate_fn=collate, num_workers=1))
    assert [list(batch) for batch in loaded] == [["pixel_values"]] * 2


def test_classes_beside_images_alone_are_left_alone():
    alone, classes = (load_image_data(DataConfig(labels=labels, augmentation="crop")) for labels in ("none", "class"))
    for split in ("train", "validation", "test"):
        one, other = (getattr(data, split).__getitems__(range(100)) for data in (alone, classes))
        assert list(one) == ["pixel_values"]
        assert torch.equal(one["pixel_values"], other["pixel_values"])
    assert alone.label_names == []
