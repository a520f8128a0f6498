"""Morphs of every family of image classifiers run where docs/guide_engines.md says, by its lines."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Dinov2Config

from neumeta_hf import NeuMetaModel
from neumeta_hf.targets import build_image_processor, find_target
from tiny_targets import convnext, make_network, mobilenet_v2, swin, vit

GUIDE = Path(__file__).parents[2] / "docs" / "guide_engines.md"
TEXT = GUIDE.read_text(encoding="utf-8")
SAVE, PIPELINE, EXPORT, ONNX = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
(EAGER,) = re.findall(r"`swin` needs `(.*?)` first", TEXT)

WHOLE_HEADS = {"stage*.heads": 2 / 3, "stage*.mlp": 2 / 3, "stage1": 2 / 3, "stage2": 2 / 3}
FAMILIES = {
    "vit": (vit, {"width": 0.7}, {"size": {"layer1.heads": 1, "hidden": 10}}),
    "dinov2": (
        lambda: vit(Dinov2Config),
        {"width": {"hidden": 0.5, "*.heads": 0.7, "*.mlp": 0.5}},
        {"size": {"layer2.mlp": 7}},
    ),
    "convnext": (convnext, {"width": 0.5}, {"size": {"stage2.block1": 20}}),
    "mobilenet_v2": (mobilenet_v2, {"width": 0.5}, {"width": {"stage3": 0.5}}),
    "swin": (lambda: swin(depths=[1, 2]), {"width": WHOLE_HEADS}, {"width": 0.5}),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    make, *sizes = FAMILIES[request.param]
    options = {"hypernetwork": {"type": "grid", "positions": "absolute", "levels": 2}, "normalization": "keep"}
    model = NeuMetaModel.from_reference(make_network(make()), trained_widths=[0.25, 1.0], **options).eval()
    return request.param, model, dict(zip(("stock", "own"), sizes, strict=True))


@pytest.fixture(params=["stock", "own"])
def names(request, family, tmp_path, monkeypatch):
    """What the lines of the guide take for granted: a family, a size, an image processor, and images."""
    monkeypatch.chdir(tmp_path)
    name, model, sizes = family
    target, config = find_target(model.reference_config), model.reference_config
    images = target.example_batch(config, 4)["pixel_values"]
    size = dict(sizes[request.param])
    if model.statistic_names:
        size["calibration"] = [target.example_batch(config, 8)["pixel_values"]]
    processor = build_image_processor(
        num_channels=3, image_size=images.shape[-2:], mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.25]
    )
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))
    found = {"family": model, "size": size, "processor": processor, "images": images[:2], "photo": photo}
    exec(SAVE, found)
    assert type(found["morph"]).__name__.startswith("NeuMeta") == (request.param == "own")
    return {**found, "name": name, "others": images}


@pytest.mark.filterwarnings("ignore::neumeta_hf.SizeWarning")
def test_a_morph_runs_in_a_pipeline_with_its_image_processor(names):
    exec(PIPELINE, names)
    with torch.no_grad():
        logits = names["morph"](**names["processor"](names["photo"], return_tensors="pt")).logits
    answers = {answer["label"]: answer["score"] for answer in names["answers"]}
    for label, score in zip(names["morph"].config.id2label.values(), logits.softmax(-1)[0].tolist(), strict=True):
        assert answers[label] == pytest.approx(score, abs=1e-5)
    assert tuple(names["classify"].image_processor.image_mean) == (0.4, 0.5, 0.6)


# Exporting takes seconds; an own size has all that a stock one has, and counts of its own in layers besides.
@pytest.mark.filterwarnings("ignore::neumeta_hf.SizeWarning")
@pytest.mark.parametrize("names", ["own"], indirect=True)
def test_an_exported_program_takes_any_number_of_images(names):
    exec(EXPORT, names)
    program, images = names["program"].module(), names["others"]
    with torch.no_grad():
        torch.testing.assert_close(names["logits"], names["morph"](names["images"]).logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(program(images).logits, names["morph"](images).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::neumeta_hf.SizeWarning")
@pytest.mark.parametrize("family", ["vit", "convnext", "swin"], indirect=True)
@pytest.mark.parametrize("names", ["own"], indirect=True)
def test_onnx_runtime_gives_the_same_logits_for_any_number_of_images(names):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")  # which torch.onnx.export asks for
    eager = f"{EAGER}\n" if names["name"] == "swin" else ""
    exec(f"import torch\n{eager}{ONNX}", names)
    images = names["others"]
    (logits,) = onnxruntime.InferenceSession("morph.onnx").run(["logits"], {"pixel_values": images.numpy()})
    with torch.no_grad():
        for found, given in ((names["logits"], names["images"]), (logits, images)):
            wanted = names["morph"](given).logits
            torch.testing.assert_close(torch.from_numpy(found), wanted, atol=1e-4, rtol=1e-4)
