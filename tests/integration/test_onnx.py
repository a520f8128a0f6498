"""Morphs run as ONNX by the lines of the guide."""

import pytest
import torch
from documents import DOCS, snippet

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")  # which torch.onnx.export asks for


@pytest.mark.parametrize("target", ["lenet", "cifar_resnet", "resnet"])
def test_an_exported_morph_gives_the_same_logits_for_any_number_of_images(make_case, target, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    case = make_case(target, "fuse" if target == "lenet" else "keep")
    model = case.family().morph(0.5)
    code = snippet(DOCS["guide_deploy"], "import onnxruntime")
    names = {"torch": torch, "model": model, "images": case.images(2)}
    exec(code, names)
    assert torch.allclose(torch.from_numpy(names["logits"]), model(case.images(2)).logits, atol=1e-5)
    images = case.images(7)
    (logits,) = onnxruntime.InferenceSession("digits.onnx").run(["logits"], {"pixel_values": images.numpy()})
    assert torch.allclose(torch.from_numpy(logits), model(images).logits, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["digits.onnx"]
