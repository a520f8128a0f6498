import pytest
import torch
from torch import nn

from neumeta_hf.errors import PreparationError
from neumeta_hf.preparation import Clique, CliqueMember, find_cliques, find_order, prepare
from neumeta_hf.preparation.activations import measure_reading


def two_layers() -> tuple[nn.Module, torch.Tensor]:
    """Three channels between two layers: the largest weights are of the one that the data leaves silent."""
    network = nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False)).eval()
    with torch.no_grad():
        network[0].weight.copy_(torch.diag(torch.tensor([-9.0, 1.0, 2.0])))
        network[2].weight.copy_(torch.tensor([[9.0, 1.0, 1.0], [9.0, 1.0, -1.0]]))
    return network, torch.rand(6, 3) + 0.5


def test_what_the_data_leaves_silent_comes_last_whatever_its_weights():
    network, batch = two_layers()
    _, by_weights = prepare(network, normalization="keep", order="importance", example_inputs=batch)
    _, by_data = prepare(network, normalization="keep", order="activations", example_inputs=batch, batch=batch)
    assert by_weights.cliques[0].order == [0, 2, 1]
    assert by_data.cliques[0].order[-1] == 0


def test_shares_are_the_root_mean_square_times_the_weights_and_hooks_are_gone():
    network, batch = two_layers()
    (clique,) = find_cliques(network, batch)
    shares = measure_reading(network, batch)["2.weight", 1]
    hidden = network[1](network[0](batch)).double()
    wanted = hidden.square().mean(dim=0).sqrt() * network[2].weight.abs().sum(dim=0)
    assert torch.allclose(shares, wanted / wanted.sum())
    assert find_order(clique, network.state_dict(), method="activations", reading={("2.weight", 1): shares}) == (
        shares.argsort(descending=True).tolist()
    )
    assert not any(module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(4, 6, 3), nn.Conv2d(4, 6, 1, bias=False)])
def test_convolutions_read_along_the_axis_of_their_inputs(layer):
    images = torch.randn(3, 4, 5, 5)
    images[:, 2] *= 100
    ((key, shares),) = measure_reading(nn.Sequential(layer), images).items()
    assert key == ("0.weight", 0 if isinstance(layer, nn.ConvTranspose2d) else 1)
    assert (len(shares), shares.argmax()) == (4, 2)


def test_a_clique_that_nothing_reads_is_refused():
    clique = Clique(2, (CliqueMember("weight", 0, torch.arange(2)[:, None]),))
    with pytest.raises(PreparationError, match='no layer that ran.*"importance"'):
        find_order(clique, {"weight": torch.ones(2, 2)}, method="activations")
