import preparation_networks as networks
import pytest
import torch

from neumeta_hf.errors import PreparationError
from neumeta_hf.preparation import Clique, CliqueMember, find_cliques, total_variation


def test_neighbours_are_compared_along_every_axis_of_a_clique():
    model, inputs = networks.make(networks.Plain)
    expected = 0.0
    for conv, bn, reader in [
        (model.conv1, model.bn1, model.conv2),
        (model.conv2, model.bn2, model.conv3),
        (model.conv3, model.bn3, model.head),
    ]:
        vectors = [conv.bias, bn.weight, bn.bias]
        expected += sum(vector.diff().abs().sum().item() for vector in vectors if vector is not None)
        expected += conv.weight.diff(dim=0).abs().sum().item() + reader.weight.diff(dim=1).abs().sum().item()
    assert total_variation(model.state_dict(), find_cliques(model, inputs)) == pytest.approx(expected, rel=1e-6)


def test_channels_with_several_positions_are_compared_place_by_place():
    clique = Clique(2, (CliqueMember("weight", 1, torch.tensor([[0, 1], [3, 4]])),))
    # Position 2 belongs to another clique.
    assert total_variation({"weight": torch.tensor([[1.0, 2.0, 99.0, 5.0, 9.0]])}, [clique]) == 4 + 7


def test_running_statistics_and_smooth_weights_have_no_variation():
    model, inputs = networks.make(networks.Plain)
    cliques = find_cliques(model, inputs)
    constant = {
        name: tensor if "running" in name else torch.ones_like(tensor) for name, tensor in model.state_dict().items()
    }
    assert total_variation(constant, cliques) == 0
    assert total_variation(model.state_dict(), []) == 0


def test_what_is_no_number_is_named():
    model, inputs = networks.make(networks.Plain)
    cliques = find_cliques(model, inputs)
    state = model.state_dict() | {"bn2.bias": torch.full((10,), float("inf"))}
    with pytest.raises(PreparationError, match=r"'bn2\.bias' holds NaN or infinite"):
        total_variation(state, cliques)
