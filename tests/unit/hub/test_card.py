"""Cards of morphs say how the network is loaded, whatever its task and wherever its class is from."""

import dataclasses
import re
import sys
import types

import pytest
import torch
import yaml
from transformers import ResNetForImageClassification

from neumeta_hf.hub import save_morph
from neumeta_hf.targets import LeNetForImageClassification


@pytest.fixture
def save(make_case, tmp_path):
    """Saves a morph as one of another task; its front matter and its snippet."""

    def save(target, task, network_class=None):
        morph = make_case(target).family().morph(0.5)
        if network_class is not None:
            morph.__class__ = network_class
        save_morph(morph, dataclasses.replace(morph.morph_origin, task=task), tmp_path / "morph")
        card = (tmp_path / "morph" / "README.md").read_text()
        (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
        return morph, yaml.safe_load(card.split("---\n")[1]), code

    return save


@pytest.fixture
def own_class(monkeypatch):
    """A class of somebody's own, in a module that can be imported."""
    module = types.ModuleType("depths")
    module.DepthNet = type("DepthNet", (LeNetForImageClassification,), {"__module__": "depths"})
    monkeypatch.setitem(sys.modules, "depths", module)
    return module.DepthNet


def run(code, folder, monkeypatch):
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(code, names)
    return names


def test_a_stock_class_of_an_unknown_task_comes_from_its_own_library(save, tmp_path, monkeypatch):
    morph, front, code = save("resnet", "depth-estimation")
    assert front["library_name"] == "transformers"
    assert "pipeline_tag" not in front
    model = run(code, tmp_path, monkeypatch)["model"]
    assert type(model) is ResNetForImageClassification
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in morph.state_dict().items())


def test_a_class_of_somebodys_own_comes_from_its_module(save, own_class, tmp_path, monkeypatch):
    _, front, code = save("lenet", "depth-estimation", own_class)
    assert front["library_name"] == "neumeta_hf"
    assert type(run(code, tmp_path, monkeypatch)["model"]) is own_class
    assert "import depths  # its authors' own" in save("lenet", "image-classification", own_class)[2]


def test_a_class_of_this_package_comes_from_its_targets(save, tmp_path, monkeypatch):
    _, front, code = save("lenet", "depth-estimation")
    assert front["library_name"] == "neumeta_hf"
    assert type(run(code, tmp_path, monkeypatch)["model"]) is LeNetForImageClassification
    assert save("lenet", "image-classification")[2].startswith("import neumeta_hf  # pip install")
