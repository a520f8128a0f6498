import pytest
import torch
from transformers import AutoModel
from transformers import initialization as init

from neumeta_hf.coordinates import make_coordinates
from neumeta_hf.errors import HypernetworkError
from neumeta_hf.hypernetworks import Hypernetwork, base, build_hypernetwork, list_hypernetworks, register_hypernetwork

FULL_SIZE = list(make_coordinates({"weight": (4, 4)}, scale=4).values())


class Constant(Hypernetwork):
    """Every tensor is one learned number: all that a new hypernetwork has to write."""

    def __init__(self, full_size, *, start: float = 0.5):
        super().__init__()
        self.start = start
        self.levels = torch.nn.ParameterList(torch.zeros(()) for _ in full_size)

    def forward(self, coordinates):
        return [self.levels[tensor.layer].expand(tensor.shape) for tensor in coordinates]

    def initialize(self, module):
        if isinstance(module, torch.nn.ParameterList):
            for level in module:
                init.constant_(level, self.start)


@pytest.fixture
def constant(monkeypatch):
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
    return register_hypernetwork("constant")(Constant)


def test_a_new_hypernetwork_is_one_class(constant, lenet_case, tmp_path):
    assert constant is Constant
    assert "constant" in list_hypernetworks()
    family = lenet_case.family(hypernetwork={"type": "constant", "start": 0.25})
    assert torch.equal(family.morph(0.5).conv1.weight, torch.full((2, 1, 3, 3), 0.25))
    with torch.no_grad():
        family.hypernetwork.levels[0].fill_(0.75)
    family.save_pretrained(tmp_path)
    reloaded = AutoModel.from_pretrained(tmp_path)
    assert isinstance(reloaded.hypernetwork, Constant)
    assert torch.equal(reloaded.morph(0.5).conv1.weight, torch.full((2, 1, 3, 3), 0.75))
    images = lenet_case.images()
    assert torch.equal(reloaded(images, width=0.5).logits, family.morph(0.5)(images).logits)


def test_a_name_belongs_to_one_class(constant):
    assert register_hypernetwork("constant")(Constant) is Constant
    with pytest.raises(HypernetworkError, match="'inr' is taken by INR"):
        register_hypernetwork("inr")(Constant)


@pytest.mark.parametrize("options", [{"type": "perceptron"}, {}])
def test_an_unknown_type_is_refused_with_those_that_there_are(options):
    with pytest.raises(HypernetworkError, match="unknown: choose one of " + ", ".join(list_hypernetworks())):
        build_hypernetwork(options, FULL_SIZE)


def test_an_unknown_option_is_refused_with_those_that_there_are():
    with pytest.raises(HypernetworkError, match="no option hiden_size: it takes hidden_size, num_hidden_layers"):
        build_hypernetwork({"type": "inr", "hiden_size": 8}, FULL_SIZE)


def test_options_are_not_changed_by_building():
    options = {"type": "inr", "hidden_size": 8}
    assert build_hypernetwork(options, FULL_SIZE).mlps[0].first.out_features == 8
    assert options == {"type": "inr", "hidden_size": 8}
