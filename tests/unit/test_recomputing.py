import pytest
import torch

from neumeta_hf import NeuMetaModel
from neumeta_hf.errors import TargetError
from neumeta_hf.recomputing import recompute_layers
from neumeta_hf.targets import find_target
from tiny_targets import lenet, llama, make_network, segformer, swin, vit

NETWORKS = {"vit": vit, "swin": swin, "segformer": segformer, "llama": llama}


def family_of(config):
    options = {"hypernetwork": {"type": "grid", "positions": "absolute", "levels": 2}, "normalization": "keep"}
    return NeuMetaModel.from_reference(make_network(config), trained_widths=[0.5, 1.0], **options).train()


def saved_and_gradients(model, batch):
    """How many numbers the backward pass keeps, and the gradients of a size's loss."""
    kept = 0

    def count(tensor):
        nonlocal kept
        kept += tensor.numel()
        return tensor

    size = model.size_at(0.7)
    torch.manual_seed(0)  # of dropout
    generated = model.generate(size)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = model.run(size, generated, batch, seed=3).logits.square().mean()
    loss.backward()
    found = [parameter.grad.clone() for parameter in model.hypernetwork.parameters()]
    model.zero_grad()
    return kept, found


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_equal_and_less_is_kept(name):
    config = NETWORKS[name]()
    model, batch = family_of(config), find_target(config).example_batch(config)
    before, wanted = saved_and_gradients(model, batch)
    model.recompute_layers()
    after, found = saved_and_gradients(model, batch)
    assert after < before
    for gradient, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-6, rtol=1e-4)


def test_a_plain_network_too():
    config = vit()
    network, batch = make_network(config).train(), find_target("vit").example_batch(config)
    wanted = torch.autograd.grad(network(**batch).logits.square().mean(), list(network.parameters()))
    assert recompute_layers(network)
    found = torch.autograd.grad(network(**batch).logits.square().mean(), list(network.parameters()))
    for gradient, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient, other)


def test_networks_whose_layers_cannot_run_again_are_refused():
    with pytest.raises(TargetError, match="gradient_checkpointing"):
        family_of(lenet()).recompute_layers()
