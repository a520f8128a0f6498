"""Evaluation and deployment see the same pixels: a split and the image processor beside a network agree."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, ConvNextImageProcessorPil

from neumeta_hf.data import DataConfig, load_image_data
from neumeta_hf.errors import TargetError
from neumeta_hf.targets import build_image_processor, build_segmentation_processor

NORMALISATION = {1: ([0.3], [0.4]), 3: ([0.1, 0.2, 0.3], [0.5, 0.25, 1.0])}


def image_folder(folder, images):
    """An `imagefolder` data set: one folder per split, one in it per class."""
    for split in ("train", "test"):
        for index, image in enumerate(images):
            path = folder / split / ("cat", "dog")[index % 2]
            path.mkdir(parents=True, exist_ok=True)
            image.save(path / f"{index}.png")
    return folder


def pictures(mode, size):
    width, height = (size, size) if isinstance(size, int) else size
    pixels = np.random.default_rng(0).integers(0, 256, (4, height, width, 3), dtype=np.uint8)
    return [Image.fromarray(image).convert(mode) for image in pixels]


@pytest.mark.parametrize("size", [12, 20, 7, (20, 9)], ids=["as it is", "shrunk", "grown", "of another aspect"])
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA"])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_a_split_gives_what_the_image_processor_gives(num_channels, mode, size, tmp_path):
    mean, std = NORMALISATION[num_channels]
    images = pictures(mode, size)
    options = {"num_channels": num_channels, "image_size": 12, "mean": mean, "std": std}
    config = DataConfig(dataset=str(image_folder(tmp_path / "set", images)), **options)
    test = load_image_data(config).test
    processor = build_image_processor(**options)
    labels = [0, 0, 1, 1]  # the folder is read class by class
    assert test.__getitems__(range(4))["labels"].tolist() == labels
    for position, index in enumerate([0, 2, 1, 3]):
        expected = processor(images[index], return_tensors="pt")["pixel_values"][0]
        assert torch.allclose(test[position]["pixel_values"], expected, atol=1e-5)
        # The pipelines hand every image over as RGB.
        expected = processor(images[index].convert("RGB"), return_tensors="pt")["pixel_values"][0]
        assert torch.allclose(test[position]["pixel_values"], expected, atol=1e-5)


@pytest.mark.parametrize("size", [(50, 70), (71, 50), (333, 500), (31, 97), (40, 40)])
@pytest.mark.parametrize("wanted", [28, 33, [28, 28]])
def test_what_is_cropped_at_the_centre_is_cropped_as_transformers_does_it(wanted, size, tmp_path):
    mean, std = NORMALISATION[3]
    images = pictures("RGB", size)
    options = {"num_channels": 3, "image_size": wanted, "mean": mean, "std": std, "center_crop": True}
    test = load_image_data(DataConfig(dataset=str(image_folder(tmp_path / "set", images)), **options)).test
    edge = wanted if isinstance(wanted, int) else wanted[0]
    stock = ConvNextImageProcessorPil(
        size={"shortest_edge": edge}, crop_pct=224 / 256, resample=2, image_mean=mean, image_std=std
    )
    for position, index in enumerate([0, 2, 1, 3]):
        for processor in (stock, build_image_processor(**options)):
            expected = processor(images[index], return_tensors="pt")["pixel_values"][0]
            assert torch.allclose(test[position]["pixel_values"], expected, atol=1e-5)


@pytest.mark.parametrize("size", [(16, 12), (40, 30), (8, 6), (9, 40)], ids=["as it is", "shrunk", "grown", "other"])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_oblong_images_too(num_channels, size, tmp_path):
    mean, std = NORMALISATION[num_channels]
    images = pictures("RGB", size)
    options = {"num_channels": num_channels, "image_size": [12, 16], "mean": mean, "std": std}
    test = load_image_data(DataConfig(dataset=str(image_folder(tmp_path / "set", images)), **options)).test
    processor = build_image_processor(**options)
    for position, index in enumerate([0, 2, 1, 3]):
        expected = processor(images[index], return_tensors="pt")["pixel_values"][0]
        assert torch.allclose(test[position]["pixel_values"], expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA"])
@pytest.mark.parametrize("size", [(16, 12), (40, 30), (8, 6), (22, 17)], ids=["as it is", "shrunk", "grown", "other"])
def test_the_segmentation_processor_gives_what_the_test_split_gives(size, mode, tmp_path):
    mean, std = NORMALISATION[3]
    images = pictures(mode, size)
    masks = [image.convert("L").point(lambda value: value % 5) for image in images]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    folder = tmp_path / "set"
    folder.mkdir()
    for split in ("train", "test"):
        rows = {"image": images, "label": masks}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    wanted = [12, 16]  # 22 to 17 is another aspect
    config = DataConfig(dataset=str(folder), labels="mask", image_size=wanted, num_channels=3, mean=mean, std=std)
    batch = load_image_data(config).test.__getitems__(range(4))
    build_segmentation_processor(image_size=wanted, mean=mean, std=std).save_pretrained(tmp_path)
    for processor in (
        build_segmentation_processor(image_size=wanted, mean=mean, std=std),
        AutoImageProcessor.from_pretrained(tmp_path),
    ):
        expected = processor(images, masks, return_tensors="pt")
        assert torch.allclose(batch["pixel_values"], expected["pixel_values"], atol=1e-5)
        assert torch.equal(batch["labels"], expected["labels"])
        # The pipelines hand every image over as RGB.
        expected = processor([image.convert("RGB") for image in images], return_tensors="pt")
        assert torch.allclose(batch["pixel_values"], expected["pixel_values"], atol=1e-5)


def test_the_segmentation_processor_resizes_whole_whatever_the_aspect():
    processor = build_segmentation_processor(image_size=8, mean=[0.0] * 3, std=[1.0] * 3)
    framed = Image.new("RGB", (40, 16), (255, 255, 255))
    framed.paste((0, 0, 0), (10, 4, 30, 12))
    values = processor(framed, return_tensors="pt")["pixel_values"]
    assert values.shape == (1, 3, 8, 8)
    assert values[..., 0].min() == values[..., -1].min() == values[..., 0, :].min() == values[..., -1, :].min() == 1


def test_a_segmentation_processor_is_of_three_channels():
    for mean, std in (([0.5], [0.5]), ([0.5] * 3, [0.5])):
        with pytest.raises(TargetError, match="do not fit 3 channels"):
            build_segmentation_processor(image_size=8, mean=mean, std=std)


@pytest.mark.parametrize("num_channels", [1, 3])
def test_digits_too(num_channels):
    mean, std = NORMALISATION[num_channels]
    options = {"num_channels": num_channels, "image_size": 16, "mean": mean, "std": std}
    test = load_image_data(DataConfig(**options)).test
    grey = load_image_data(DataConfig(mean=[0.0], std=[1.0])).test
    processor = build_image_processor(**options)
    for position in range(5):
        image = Image.fromarray((grey[position]["pixel_values"][0] * 255).round().to(torch.uint8).numpy())
        expected = processor(image, return_tensors="pt")["pixel_values"][0]
        assert torch.allclose(test[position]["pixel_values"], expected, atol=1e-5)


def test_a_folder_of_images_gives_its_classes(tmp_path):
    folder = image_folder(tmp_path / "set", pictures("RGB", 12))
    data = load_image_data(DataConfig(dataset=str(folder), image_size=12, validation_fraction=0.25))
    assert data.label_names == ["cat", "dog"]
    assert [len(data.train), len(data.validation), len(data.test)] == [3, 1, 4]
    assert isinstance(datasets.load_dataset(str(folder), split="test").features["image"], datasets.Image)
