import numpy as np
import pytest
import torch
from PIL import Image

from neumeta_hf.data.augmentation import crop, draws, flip, random_resized_crop

MOMENT = {"seed": 3, "epoch": 5}
STREAMS = ["row", "column", "flip", "area", "ratio", "scale", "other", "share", "cut", "change 1", "sign 2"]


def test_draws_are_uniform_on_the_unit_interval():
    numbers = draws(np.arange(20_000), stream="row", **MOMENT)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    # Chi-squared with 19 degrees of freedom: 50 is passed by chance once in 10,000 times, and the draw is fixed.
    assert ((counts - 1000) ** 2 / 1000).sum() < 50


def test_draws_of_neighbours_seeds_epochs_and_streams_are_uncorrelated():
    indices = np.arange(20_000)
    base = draws(indices, stream="row", **MOMENT)
    others = [
        draws(indices + 1, stream="row", **MOMENT),
        draws(indices, stream="row", seed=4, epoch=5),
        draws(indices, stream="row", seed=3, epoch=6),
        draws(indices, stream="row", seed=5, epoch=3),
        *(draws(indices, stream=stream, **MOMENT) for stream in STREAMS[1:]),
    ]
    for other in others:
        assert abs(np.corrcoef(base, other)[0, 1]) < 4 / np.sqrt(20_000)


def test_a_draw_depends_on_the_image_alone_not_on_its_batch():
    indices = np.array([7, 0, 123_456_789, 3])
    together = draws(indices, stream="flip", **MOMENT)
    alone = np.concatenate([draws(indices[[i]], stream="flip", **MOMENT) for i in range(4)])
    assert (together == alone).all()
    assert (together[::-1] == draws(indices[::-1], stream="flip", **MOMENT)).all()


def test_draws_are_pinned():
    # Another hash would silently change what every published recipe trains on.
    numbers = draws(np.array([0, 1, 2]), seed=0, epoch=0, stream="row")
    assert numbers == pytest.approx([0.22639831625024998, 0.5790032322399897, 0.7300953621130777], abs=1e-12)


def test_every_stream_is_pinned():
    # A stream that is added must not renumber the others.
    numbers = {stream: draws(np.array([7]), stream=stream, **MOMENT)[0] for stream in STREAMS}
    assert numbers == pytest.approx(
        {
            "row": 0.21137299872406634,
            "column": 0.9367757139207941,
            "flip": 0.667381741919921,
            "area": 0.47268124916734566,
            "ratio": 0.7243335392903059,
            "scale": 0.10612963399437003,
            "other": 0.5525918237877301,
            "share": 0.7948939770812985,
            "cut": 0.22279892406122015,
            "change 1": 0.7151862176214777,
            "sign 2": 0.20946460157511682,
        },
        abs=1e-12,
    )


def test_crop_is_a_window_of_the_image_padded_with_black():
    images = torch.arange(1, 33, dtype=torch.uint8).repeat(50, 3, 32, 1)  # every column has its own grey
    images[:, 1] = images[:, 0].transpose(1, 2)  # the second channel has it by row
    cropped = crop(images, np.arange(50), **MOMENT)
    assert cropped.shape == images.shape
    assert cropped.dtype == torch.uint8
    padded = torch.nn.functional.pad(images, (4, 4, 4, 4))
    moves = set()
    for before, after in zip(padded, cropped, strict=True):
        found = [
            (top, left)
            for top in range(9)
            for left in range(9)
            if torch.equal(before[:, top : top + 32, left : left + 32], after)
        ]
        assert len(found) == 1
        moves.add(found[0])
    assert {top for top, _ in moves} == {left for _, left in moves} == set(range(9))
    assert len(moves) > 30  # of 81: rows and columns are drawn apart


def test_crop_of_oblong_images_moves_by_an_eighth_of_either_side():
    images = torch.zeros(400, 1, 8, 32, dtype=torch.uint8)
    images[:, 0, 4, 16] = 255
    rows, columns = torch.nonzero(crop(images, np.arange(400), **MOMENT)[:, 0])[:, 1:].T
    assert set(rows.tolist()) == {3, 4, 5}
    assert set(columns.tolist()) == set(range(12, 21))


def test_crop_of_digits_moves_by_one_pixel_at_most():
    images = torch.zeros(40, 1, 8, 8, dtype=torch.uint8)
    images[:, 0, 4, 4] = 255
    rows, columns = torch.nonzero(crop(images, np.arange(40), **MOMENT)[:, 0])[:, 1:].T
    assert set(rows.tolist()) == set(columns.tolist()) == {3, 4, 5}


def test_flip_mirrors_about_half_of_the_images_left_to_right():
    images = torch.randint(0, 256, (400, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    flipped = flip(images, np.arange(400), **MOMENT)
    kept = torch.tensor([torch.equal(a, b) for a, b in zip(images, flipped, strict=True)])
    mirrored = torch.tensor([torch.equal(a.flip(-1), b) for a, b in zip(images, flipped, strict=True)])
    assert (kept ^ mirrored).all()
    assert 160 < mirrored.sum() < 240


def test_random_resized_crop_keeps_area_and_aspect_within_their_bounds():
    size = (400, 300)
    # Red tells the column and green the row, so that the corners of a crop show where it was taken.
    ramp = np.zeros((300, 400, 3), dtype=np.uint8)
    ramp[..., 0] = np.linspace(0, 255, 400).round()
    ramp[..., 1] = np.linspace(0, 255, 300).round()[:, None]
    image = Image.fromarray(ramp)
    areas, aspects = [], []
    for index in range(200):
        crop_ = random_resized_crop(image, index, size=16, seed=0, epoch=0)
        assert crop_.size == (16, 16)
        pixels = np.asarray(crop_).astype(float)
        width = (pixels[8, -1, 0] - pixels[8, 0, 0]) / 255 * size[0] * 16 / 15
        height = (pixels[-1, 8, 1] - pixels[0, 8, 1]) / 255 * size[1] * 16 / 15
        areas.append(width * height / (size[0] * size[1]))
        aspects.append(width / height)
    assert min(areas) > 0.07
    assert min(areas) < 0.15
    assert max(areas) > 0.8
    assert max(areas) < 1.1
    fits = np.array(areas) < 0.5  # larger ones may be cut to the image
    assert (np.array(aspects)[fits] > 0.68).all()
    assert (np.array(aspects)[fits] < 1.45).all()


def test_random_resized_crops_of_oblong_sizes_are_distorted_as_little_as_square_ones():
    ramp = np.zeros((400, 400, 3), dtype=np.uint8)
    ramp[..., 0] = np.linspace(0, 255, 400).round()
    ramp[..., 1] = np.linspace(0, 255, 400).round()[:, None]
    image = Image.fromarray(ramp)
    distortions = []
    for index in range(200):
        crop_ = random_resized_crop(image, index, size=(16, 40), seed=0, epoch=0)
        assert crop_.size == (40, 16)
        pixels = np.asarray(crop_).astype(float)
        width, height = pixels[8, -1, 0] - pixels[8, 0, 0], pixels[-1, 20, 1] - pixels[0, 20, 1]
        if width * height < 0.15 * 255**2:  # larger ones may be cut to the image
            distortions.append(width / 39 / (height / 15))
    assert len(distortions) > 10
    assert 0.65 < min(distortions) < 0.9
    assert 1.1 < max(distortions) < 1.5


def test_random_resized_crop_changes_with_the_epoch_and_not_with_the_call():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    first, again, later = (
        np.asarray(random_resized_crop(image, 9, size=8, seed=1, epoch=epoch)) for epoch in (0, 0, 1)
    )
    assert (first == again).all()
    assert (first != later).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1)])
def test_random_resized_crop_of_slivers_passes(size):
    assert random_resized_crop(Image.new("L", size), 0, size=4, seed=0, epoch=0).size == (4, 4)
