"""One size is trained on alone, by the recipe of the guide."""

import json
import re
from pathlib import Path

import torch
import yaml
from transformers import AutoImageProcessor, AutoModelForImageClassification

from neumeta_hf import NeuMetaForImageClassification, train
from neumeta_hf.hub import save_morph
from neumeta_hf.targets import LeNetConfig, LeNetForImageClassification, build_image_processor
from neumeta_hf.training import recipe_from_dict

GUIDE = Path(__file__).parents[3] / "docs" / "guide_deploy.md"


def test_a_morph_is_trained_on_and_keeps_its_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    config = LeNetConfig(hidden_channels=[8, 8, 16], kernel_size=3, image_size=8, num_labels=10)
    family = NeuMetaForImageClassification.from_reference(
        LeNetForImageClassification(config), hypernetwork={"type": "grid"}, trained_widths=[0.5, 1.0]
    )
    family.save_pretrained("outputs/digits")
    build_image_processor(num_channels=1, image_size=8, mean=[0.305], std=[0.376]).save_pretrained("outputs/digits")
    morph = NeuMetaForImageClassification.from_pretrained("outputs/digits").morph(0.5)
    save_morph(morph, morph.morph_origin, "outputs/digits-0.5")  # what `neumeta morph` writes

    (text,) = re.findall(r"```yaml\n(output_dir: outputs/half\n.*?)```", GUIDE.read_text("utf-8"), flags=re.DOTALL)
    recipe = recipe_from_dict(yaml.safe_load(text))
    recipe.pretrain.epochs = 2
    assert train(recipe) == Path("outputs/half")

    assert AutoImageProcessor.from_pretrained("outputs/half/reference").size == {"height": 8, "width": 8}
    tuned = AutoModelForImageClassification.from_pretrained("outputs/half/reference").state_dict()
    kept = AutoModelForImageClassification.from_pretrained("outputs/half/pretrained").state_dict()
    for name, tensor in morph.state_dict().items():
        assert tuned[name].shape == tensor.shape, name
        assert not torch.equal(tuned[name], tensor), name
        assert torch.equal(tuned[name], kept[name]), name  # neither reordered nor fused
    log = [json.loads(line) for line in Path("outputs/half/log.jsonl").read_text().splitlines()]
    assert sum("pretrain/validation/accuracy" in entry for entry in log) == 2
