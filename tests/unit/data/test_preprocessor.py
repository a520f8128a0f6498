"""What an image processor does, in the words of a recipe: the same pixels, or an error."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    ConvNextImageProcessorPil,
    DeiTImageProcessorPil,
    MobileNetV1ImageProcessorPil,
    MobileNetV2ImageProcessorPil,
    SegformerImageProcessorPil,
    ViTImageProcessorPil,
)

from neumeta_hf.data import DataConfig
from neumeta_hf.data.preprocessor import stated_preprocessing
from neumeta_hf.data.splits import bring_to_size, to_bytes, to_colours
from neumeta_hf.errors import CheckpointError, HubError, TargetError
from neumeta_hf.images import resampling
from neumeta_hf.targets import build_image_processor, build_segmentation_processor

HALF = [0.5] * 3
SKEWED = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
EDGE = {"size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28}, "do_center_crop": True}


def stated(folder, processor, *, num_channels=3, model_type="resnet"):
    if isinstance(processor, dict):
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    else:
        processor.save_pretrained(folder)
    return stated_preprocessing(str(folder), num_channels=num_channels, model_type=model_type)


def pictures(mode):
    for number, size in enumerate([(40, 40), (50, 70), (71, 50), (31, 97), (9, 12)]):
        pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        yield Image.fromarray(pixels).convert(mode)


UNDERSTOOD = {
    "vit": ViTImageProcessorPil(size={"height": 20, "width": 12}, **SKEWED),
    "vit bicubic": ViTImageProcessorPil(size={"height": 12, "width": 12}, resample=3, **SKEWED),
    "vit lanczos": ViTImageProcessorPil(size={"height": 12, "width": 12}, resample=1),
    "vit nearest": ViTImageProcessorPil(size={"height": 12, "width": 12}, resample=0),
    "vit box": ViTImageProcessorPil(size={"height": 12, "width": 12}, resample=4),
    "vit hamming": ViTImageProcessorPil(size={"height": 12, "width": 12}, resample=5),
    "vit not normalised": ViTImageProcessorPil(size={"height": 12, "width": 12}, do_normalize=False),
    "vit cropped to what it is": ViTImageProcessorPil(
        size={"height": 12, "width": 12}, do_center_crop=True, crop_size={"height": 12, "width": 12}
    ),
    "vit cropped": ViTImageProcessorPil(**EDGE, **SKEWED),
    "clip": CLIPImageProcessorPil(**EDGE),
    "bit": BitImageProcessorPil(**EDGE),
    "mobilenet": MobileNetV1ImageProcessorPil(**EDGE, resample=1),
    "mobilenet as it comes": MobileNetV1ImageProcessorPil(),
    "mobilenet v2": MobileNetV2ImageProcessorPil(**EDGE),
    "clip as it comes": CLIPImageProcessorPil(),  # resizes to what it crops
    "crops little": BitImageProcessorPil(**{**EDGE, "size": {"shortest_edge": 29}}),
    "convnext": ConvNextImageProcessorPil(size={"shortest_edge": 28}, **SKEWED),
    "convnext crops less": ConvNextImageProcessorPil(size={"shortest_edge": 28}, crop_pct=0.9),
    "convnext crops nothing": ConvNextImageProcessorPil(size={"shortest_edge": 28}, crop_pct=1.0),
    "convnext odd": ConvNextImageProcessorPil(size={"shortest_edge": 33}, resample=2),
    "convnext from 384 on": ConvNextImageProcessorPil(size={"shortest_edge": 384}),
    "segformer": SegformerImageProcessorPil(size={"height": 12, "width": 20}, **SKEWED),
    "own": build_image_processor(num_channels=3, image_size=12, mean=HALF, std=HALF, interpolation="box"),
    "own cropped": build_image_processor(
        num_channels=3, image_size=28, mean=HALF, std=HALF, center_crop=True, interpolation="bicubic"
    ),
    "own cropped from 384 on": build_image_processor(
        num_channels=3, image_size=385, mean=HALF, std=HALF, center_crop=True
    ),
    "own of masks": build_segmentation_processor(image_size=[6, 10], mean=HALF, std=HALF, interpolation="lanczos"),
    "own grey": build_image_processor(num_channels=1, image_size=12, mean=[0.3], std=[0.2], interpolation="bicubic"),
}


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_data_by_the_statement_have_the_pixels_of_the_processor(name, tmp_path):
    processor, channels = UNDERSTOOD[name], 1 if name == "own grey" else 3
    config = DataConfig(num_channels=channels, **stated(tmp_path, processor, num_channels=channels))
    wanted = config.preprocessing
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (wanted.mean, wanted.std))
    for image in pictures("RGB"):
        pixels = to_bytes(bring_to_size(to_colours(image, channels), wanted))
        expected = processor(image, return_tensors="pt")["pixel_values"][0]
        assert torch.allclose((pixels / 255 - mean) / std, expected, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in UNDERSTOOD if name not in ("segformer", "own of masks")])
def test_the_processor_that_a_family_is_saved_with_has_the_pixels_of_the_statements(name, tmp_path):
    processor, channels = UNDERSTOOD[name], 1 if name == "own grey" else 3
    config = DataConfig(num_channels=channels, **stated(tmp_path, processor, num_channels=channels))
    rebuilt = build_image_processor(**dataclasses.asdict(config.preprocessing))
    rebuilt.save_pretrained(tmp_path / "family")
    for image in pictures("RGB"):
        expected = processor(image, return_tensors="pt")["pixel_values"]
        for other in (rebuilt, AutoImageProcessor.from_pretrained(tmp_path / "family")):
            assert torch.allclose(other(image, return_tensors="pt")["pixel_values"], expected, atol=1e-5)
    # And what is made of the family's is the same again.
    again = stated_preprocessing(str(tmp_path / "family"), num_channels=channels, model_type="resnet")
    assert DataConfig(num_channels=channels, **again).preprocessing == config.preprocessing


@pytest.mark.parametrize("model_type", ["convnext", "neumeta_convnext", "convnextv2", "neumeta_convnextv2"])
def test_a_convnexts_file_without_a_type_is_read_as_transformers_reads_it(model_type, tmp_path):
    found = stated(tmp_path, {"size": {"shortest_edge": 28}, "crop_pct": 0.875}, model_type=model_type)
    assert (found["image_size"], found["center_crop"]) == (28, True)


def test_what_a_file_leaves_out_is_as_its_type_has_it(tmp_path):
    # As ResNets on the Hub have it, from before there were image processors.
    old = {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 28, "crop_pct": 0.875, "resample": 3}
    expected = {"image_size": 28, "center_crop": True, "interpolation": "bicubic"}
    for values in (old, {"size": 28}, {"image_processor_type": "ConvNextImageProcessorFast", "size": 28}):
        found = stated(tmp_path, values)
        assert {key: found[key] for key in expected} == expected
        assert found["mean"] == HALF
    plain = stated(tmp_path, {"size": 28, "do_center_crop": None, "do_pad": False}, model_type="neumeta_lenet")
    assert plain == {"image_size": 28, "center_crop": False, "interpolation": "bilinear", "mean": HALF, "std": HALF}


@pytest.mark.parametrize(
    ("processor", "said"),
    [
        (BitImageProcessorPil(**{**EDGE, "size": {"shortest_edge": 27}}), "crops 28x28"),
        (CLIPImageProcessorPil(**{**EDGE, "crop_size": {"height": 28, "width": 24}}), "crops 28x24"),
        (DeiTImageProcessorPil(), "crop_size="),
        (ViTImageProcessorPil(size={"shortest_edge": 28}), "size="),
        (ViTImageProcessorPil(size={"shortest_edge": 28, "longest_edge": 40}), "size="),
        (SegformerImageProcessorPil(size={"shortest_edge": 28}), "size="),
        (SegformerImageProcessorPil(do_reduce_labels=True), "do_reduce_labels=True"),
        (ViTImageProcessorPil(do_resize=False), "do_resize=False"),
        (ViTImageProcessorPil(do_rescale=False), "do_rescale=False"),
        (ViTImageProcessorPil(rescale_factor=1 / 127.5), "rescale_factor="),
        (ViTImageProcessorPil(do_pad=True), "do_pad=True"),
        ({"size": 8, "do_flip_channel_order": True}, "do_flip_channel_order=True"),
        ({"size": 8, "offset": [1]}, "offset="),
        ({"image_processor_type": "GrayscaleImageProcessor", "size": 8}, "1 channel"),
        ({"image_processor_type": "MyImageProcessor", "size": 8}, "MyImageProcessor"),
        ({"image_processor_type": ["ViTImageProcessor"], "size": 8}, "of type"),
    ],
)
def test_what_a_recipe_has_no_words_for_is_refused(processor, said, tmp_path):
    with pytest.raises(TargetError, match=f"{said}.*target.preprocessing: recipe"):
        stated(tmp_path, processor)


def test_a_grey_network_has_grey_images(tmp_path):
    for values in ({"do_convert_rgb": True, "image_mean": [0.5], "image_std": [0.5]}, {"image_mean": HALF}):
        with pytest.raises((TargetError, CheckpointError), match="channel"):
            stated(tmp_path, {"image_processor_type": "ViTImageProcessor", **values}, num_channels=1)
    one = stated(
        tmp_path, {"image_processor_type": "ViTImageProcessor", "image_mean": 0.3, "image_std": 2}, num_channels=1
    )
    assert (one["mean"], one["std"]) == ([0.3], [2.0])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("size", value) for value in (True, "8", [8], [8, 8, 8], 0, -8, 8.5, 10**9, {}, {"height": "8", "width": 8})),
        *(("size", value) for value in ({"height": True, "width": 8}, {"height": 8, "width": 10**6}, [[8], 8])),
        *(("image_mean", value) for value in ("0.5", [0.5], [0.5, 0.5, None], [True] * 3, [10**400] * 3, {"a": 1})),
        *(("image_std", value) for value in (0, [0.5, 0.5, 0], [-0.5] * 3)),
        *(("resample", value) for value in (9, -1, "bilinear", True, 2.5, [2])),
        *(("rescale_factor", value) for value in ("1/255", 10**400, True)),
        *(("do_normalize", value) for value in ("no", 2, [])),
        ("default_to_square", "yes"),
    ],
)
def test_values_of_the_wrong_kind_are_refused_by_name(key, value, tmp_path):
    with pytest.raises(CheckpointError, match=f"{key}=.*target.preprocessing: recipe"):
        stated(tmp_path, {"size": 8, key: value}, model_type="neumeta_lenet")


@pytest.mark.parametrize("value", [0, 1e-320, -1, 2, "0.875", True])
def test_a_share_that_is_none_is_refused(value, tmp_path):
    with pytest.raises(CheckpointError, match="crop_pct="):
        stated(tmp_path, {"size": 28, "crop_pct": value})


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1]", "null", '{"image_mean": NaN}', '{"size": Infinity}', '{"a": ' + "[" * 200_000, "[" * 200_000],
)
def test_a_damaged_file_is_one_error(text, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json.*target.preprocessing: recipe"):
        stated_preprocessing(str(tmp_path), num_channels=3, model_type="resnet")


def test_bytes_and_heaps_are_refused(tmp_path):
    for content in (b"\xff\xfe{}", b'{"a": "' + b"x" * 2**23 + b'"}'):
        (tmp_path / "preprocessor_config.json").write_bytes(content)
        with pytest.raises(CheckpointError, match="cannot be read"):
            stated_preprocessing(str(tmp_path), num_channels=3, model_type="resnet")


def test_no_file_states_nothing(tmp_path):
    for name in (tmp_path, tmp_path / "weights.safetensors"):
        assert stated_preprocessing(str(name), num_channels=3, model_type="resnet") is None


def test_the_section_of_a_newer_file_comes_first_as_in_transformers(tmp_path):
    stated(tmp_path, {"size": 28})
    path = tmp_path / "processor_config.json"
    for written, expected in (({"processor_class": "A"}, 28), ({"image_processor": {"size": 35}}, 35)):
        path.write_text(json.dumps(written))
        assert stated_preprocessing(str(tmp_path), num_channels=3, model_type="resnet")["image_size"] == expected
    path.write_text('{"image_processor": "ViTImageProcessor"}')
    with pytest.raises(CheckpointError, match="processor_config"):
        stated_preprocessing(str(tmp_path), num_channels=3, model_type="resnet")


def test_code_beside_the_file_never_runs(tmp_path):
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass ViTImageProcessor: pass\n")
    values = {"image_processor_type": "ViTImageProcessor", "auto_map": {"AutoImageProcessor": "mine.ViTImageProcessor"}}
    assert stated(tmp_path, {**values, "size": 12})["image_size"] == 12
    with pytest.raises(TargetError):
        stated(tmp_path, {**values, "image_processor_type": "mine.ViTImageProcessor"})
    assert not (tmp_path / "ran").exists()


def test_a_repo_that_cannot_be_asked_is_no_repo_that_says_nothing():
    with pytest.raises(HubError, match="org/network.*HF_HUB_OFFLINE.*target.preprocessing: recipe"):
        stated_preprocessing("org/network", num_channels=3, model_type="resnet")


def test_every_interpolation_is_a_filter_of_pillow():
    names = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
    assert sorted(int(resampling(name)) for name in names) == [0, 1, 2, 3, 4, 5]
    assert resampling("bicubic") is Image.Resampling.BICUBIC
