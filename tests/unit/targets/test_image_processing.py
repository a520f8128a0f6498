import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, pipeline

from neumeta_hf.errors import TargetError
from neumeta_hf.targets import (
    CifarResNetConfig,
    GrayscaleImageProcessor,
    LeNetConfig,
    build_image_processor,
    find_target,
    resize,
)

GREY = {"num_channels": 1, "image_size": 8, "mean": [0.25], "std": [0.5]}
RGB = {"num_channels": 3, "image_size": (8, 6), "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.25, 1.0]}


def picture(mode, size=(8, 8)):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def pixel_values(processor, image):
    return processor(image, return_tensors="pt")["pixel_values"]


def test_grey_values_are_exact_and_the_same_from_l_and_rgb():
    image, processor = picture("L"), build_image_processor(**GREY)
    expected = (torch.tensor(np.array(image)) / 255 - 0.25) / 0.5
    for form in (image, image.convert("RGB"), np.array(image)[None], np.array(image.convert("RGB"))):
        assert torch.allclose(pixel_values(processor, form)[0, 0], expected, atol=1e-6)
    assert pixel_values(processor, [image, image]).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_become_grey_as_pil_does_it(mode):
    processor, image = build_image_processor(**GREY), picture(mode)
    expected = pixel_values(processor, image.convert("L"))
    assert torch.equal(pixel_values(processor, image), expected)
    rounding = 1.01 / 255 / GREY["std"][0]
    assert torch.allclose(pixel_values(processor, np.array(image.convert("RGB"))), expected, atol=rounding)


def test_rgb_values_are_exact_and_nothing_is_cropped():
    processor = build_image_processor(**{**RGB, "image_size": 8})
    expected = torch.tensor(np.array(picture("RGB"))).permute(2, 0, 1) / 255
    expected = (expected - torch.tensor(RGB["mean"])[:, None, None]) / torch.tensor(RGB["std"])[:, None, None]
    assert torch.allclose(pixel_values(processor, picture("RGB"))[0], expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
@pytest.mark.parametrize("options", [GREY, RGB], ids=["grey", "rgb"])
def test_any_picture_of_any_size_becomes_the_networks_input(options, mode):
    height, width = (8, 8) if options is GREY else (8, 6)
    values = pixel_values(build_image_processor(**options), picture(mode, (17, 5)))
    assert values.shape == (1, options["num_channels"], height, width)


@pytest.mark.parametrize("options", [GREY, RGB], ids=["grey", "rgb"])
def test_auto_image_processor_reloads_it(options, tmp_path):
    processor = build_image_processor(**options)
    processor.save_pretrained(tmp_path)
    reloaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert isinstance(reloaded, GrayscaleImageProcessor) == (options is GREY)
    image = picture("RGB", (20, 11))
    assert torch.equal(pixel_values(reloaded, image), pixel_values(processor, image))


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (LeNetConfig(hidden_channels=[2, 3, 4], image_size=8, num_labels=3), GREY),
        (CifarResNetConfig(num_blocks=[1, 1, 1], stage_channels=[4, 4, 4], num_input_channels=1, num_labels=3), GREY),
        (CifarResNetConfig(num_blocks=[1, 1, 1], stage_channels=[4, 4, 4], num_labels=3), RGB),
    ],
    ids=["lenet", "grey_resnet", "rgb_resnet"],
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_pipeline_classifies_a_picture_from_a_folder(config, options, mode, tmp_path):
    model = find_target(config).build(resize(config, 0.5)).eval()
    processor = build_image_processor(**options)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    classify = pipeline("image-classification", model=str(tmp_path), device="cpu")
    image = picture(mode)
    answers = {answer["label"]: answer["score"] for answer in classify(image)}
    with torch.no_grad():
        expected = model(pixel_values(processor, image)).logits.softmax(-1)[0]
    assert answers == pytest.approx({f"LABEL_{i}": expected[i].item() for i in range(3)}, abs=1e-5)


def test_center_crop_keeps_the_middle_of_the_picture(tmp_path):
    processor = build_image_processor(
        **{**RGB, "image_size": 28, "mean": [0.0] * 3, "std": [1.0] * 3}, center_crop=True
    )
    processor.save_pretrained(tmp_path)
    pixels = np.zeros((32, 64, 3), np.uint8)  # the shorter side is 8/7 of the size already
    pixels[2:30, 18:46] = 255
    for each in (processor, AutoImageProcessor.from_pretrained(tmp_path)):
        assert pixel_values(each, Image.fromarray(pixels)).min() == 1


def test_center_crop_is_one_at_sizes_at_which_convnext_does_not_crop(tmp_path):
    options = {**RGB, "image_size": 448, "mean": [0.0] * 3, "std": [1.0] * 3, "center_crop": True}
    build_image_processor(**options).save_pretrained(tmp_path)
    pixels = np.zeros((512, 600, 3), np.uint8)  # the shorter side is 8/7 of the size already
    pixels[32:480, 76:524] = 255
    for each in (build_image_processor(**options), AutoImageProcessor.from_pretrained(tmp_path)):
        assert pixel_values(each, Image.fromarray(pixels)).min() == 1


@pytest.mark.parametrize("options", [GREY, {**RGB, "image_size": (8, 12)}], ids=["grey", "oblong"])
def test_center_crop_of_what_has_no_processor_is_refused(options):
    with pytest.raises(TargetError, match="center_crop with"):
        build_image_processor(**options, center_crop=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_channels": 2}, "images with 2 channels"),
        ({"mean": [0.1, 0.2]}, r"mean=\[0.1, 0.2\]"),
        ({"std": []}, "pass one value for each channel"),
    ],
)
def test_what_does_not_fit_the_channels_is_refused(change, said):
    with pytest.raises(TargetError, match=said):
        build_image_processor(**{**GREY, **change})
