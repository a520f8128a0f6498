"""Morphs run as ONNX by the lines of the README."""

import re
from pathlib import Path

import pytest
import torch

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")  # which torch.onnx.export asks for

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.parametrize("target", ["lenet", "cifar_resnet", "resnet"])
def test_an_exported_morph_gives_the_same_logits_for_any_number_of_images(make_case, target, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    case = make_case(target, "fuse" if target == "lenet" else "keep")
    model = case.family().morph(0.5)
    (code,) = re.findall(
        r"```python\n(import onnxruntime\n.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    names = {"torch": torch, "model": model, "images": case.images(2)}
    exec(code, names)
    assert torch.allclose(torch.from_numpy(names["logits"]), model(case.images(2)).logits, atol=1e-5)
    images = case.images(7)
    (logits,) = onnxruntime.InferenceSession("digits.onnx").run(["logits"], {"pixel_values": images.numpy()})
    assert torch.allclose(torch.from_numpy(logits), model(images).logits, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["digits.onnx"]
