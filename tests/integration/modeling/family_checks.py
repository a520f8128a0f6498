"""What tests of families compare."""

import torch

INR = {"type": "inr", "hidden_size": 16, "num_hidden_layers": 3, "num_frequencies": 4}


def images_of(family, batch_size=4):
    """A batch for a family."""
    return family.target_family.example_batch(family.reference_config, batch_size)["pixel_values"]


def tensors_of(model):
    """Copies of all that a network holds."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same(first, second):
    """Two such dictionaries hold the same bits, in the same order."""
    assert list(first) == list(second)
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert torch.equal(tensor, second[name]), name
