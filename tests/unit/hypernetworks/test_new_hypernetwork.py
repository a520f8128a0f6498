"""The hypernetwork of docs/new_hypernetwork.md, read from that page."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from neumeta_hf import NeuMetaModel
from neumeta_hf.errors import HypernetworkError
from neumeta_hf.hypernetworks import base, list_hypernetworks

GUIDE = Path(__file__).parents[3] / "docs" / "new_hypernetwork.md"
FILE, USE = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture
def constant(monkeypatch):
    """The guide's file as an imported module; its hypernetwork is registered for one test only."""
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
    module = ModuleType("constant")
    monkeypatch.setitem(sys.modules, "constant", module)
    exec(compile(FILE, str(GUIDE), "exec"), module.__dict__)
    return module


def test_the_guide_makes_a_hypernetwork_that_learns_and_comes_back(constant, lenet_case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "constant" in list_hypernetworks()
    names = {"prepared": lenet_case.reference}
    exec(USE, names)
    family = names["family"]
    assert isinstance(family.hypernetwork, constant.Constant)
    assert all((value == 0.25).all() for value in family.generate(0.5).values())
    images, labels = lenet_case.images(), torch.tensor([0, 1, 2, 0])
    torch.nn.functional.cross_entropy(family(images, width=0.5).logits, labels).backward()
    assert all(level.grad is not None for level in family.hypernetwork.levels)
    with torch.no_grad():
        family.hypernetwork.levels[0].fill_(0.75)
    family.save_pretrained("learned")
    reloaded = NeuMetaModel.from_pretrained("learned").morph(width=0.5)
    assert (reloaded.conv1.weight == 0.75).all()
    assert torch.equal(reloaded(images).logits, family.morph(width=0.5)(images).logits)


def test_an_option_that_it_has_not_is_refused(constant, lenet_case):
    with pytest.raises(HypernetworkError, match="no option stop: it takes start"):
        lenet_case.family(hypernetwork={"type": "constant", "stop": 1.0})


def test_the_guide_names_all_that_a_hypernetwork_may_say():
    members = {"__init__", "forward", "initialize", "start_at", "hidden_matrices", "positions"}
    table = re.findall(r"^\| `(\w+)", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(table) == members
    assert {name for name in vars(base.Hypernetwork) if not name.startswith("_")} == members - {"__init__"}
