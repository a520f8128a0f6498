"""No run ends with generated weights that do nothing without saying so."""

import pytest
import torch

from neumeta_hf.errors import RecipeError
from neumeta_hf.hypernetworks.inr import INR
from neumeta_hf.training import train
from neumeta_hf.training.silence import check_silence, find_silent

WIDTHS = [0.5, 1.0]


def shut(model, name):
    """Let a hypernetwork write large negative values for a tensor."""
    index = list(model.generated_names).index(name)
    with torch.no_grad():
        model.hypernetwork.mlps[index].last.bias.fill_(-1e4)


def test_weights_of_the_reference_all_do_something(case):
    model = case.family(trained_widths=WIDTHS, hypernetwork={"type": "grid"})
    model.train(bool(model.statistic_names))
    with torch.no_grad():
        for width in WIDTHS:
            silent, tried = find_silent(model, case.reference, case.images(), width)
            assert not silent
            assert tried


def test_a_shut_network_is_refused(lenet_case):
    model = lenet_case.family(trained_widths=WIDTHS, hypernetwork={"type": "inr", "hidden_size": 16})
    check_silence(model, lenet_case.reference, lenet_case.images(), (0.5, 1.0))
    shut(model, next(name for name in model.generated_names if name.endswith("bias")))
    with pytest.raises(RecipeError, match="fell silent: at width 0.5"):
        check_silence(model, lenet_case.reference, lenet_case.images(), (0.5, 1.0))


def test_one_shut_layer_is_named(make_case, caplog):
    case = make_case("cifar_resnet_identity", "fuse")
    model = case.family(trained_widths=WIDTHS, hypernetwork={"type": "inr", "hidden_size": 16})
    (name,) = (name for name in model.generated_names if name.endswith("layer3.0.conv1.bias"))
    shut(model, name)
    check_silence(model, case.reference, case.images(), (0.5, 1.0))
    assert "layer3.0.conv1.weight, layer3.0.conv2.weight" in caplog.text


def test_a_run_that_ends_silent_says_so_and_keeps_its_best(make_recipe, tmp_path, monkeypatch):
    start_at = INR.start_at

    def start_shut(self, values):
        for mlp, tensor in zip(self.mlps, values, strict=True):
            if tensor.ndim == 1:
                mlp.last.bias.data.fill_(-1e4)
        return start_at(self, values)

    monkeypatch.setattr(INR, "start_at", start_shut)
    with pytest.raises(RecipeError, match="fell silent"):
        train(make_recipe(train={"optimizer": {"learning_rate": 1e-6}}))
    assert (tmp_path / "run/best/model.safetensors").is_file()
    assert not (tmp_path / "run/model.safetensors").exists()
