import pytest
import torch
from tests.tiny_targets import bert, llama
from torch import nn

from neumeta_hf.evaluation import count_macs, count_parameters
from neumeta_hf.targets import find_target


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=4),
        nn.Flatten(),
        nn.Linear(8 * 8 * 8, 10),
    )


def test_parameters_count_affine_norms_and_no_buffers():
    assert count_parameters(network()) == 8 * 3 * 9 + 2 * 8 + (8 * 2 * 9 + 8) + (512 * 10 + 10)


def test_macs_are_those_of_one_image_by_the_formula():
    expected = 16 * 16 * 8 * 3 * 9 + 8 * 8 * 8 * 2 * 9 + 512 * 10
    assert count_macs(network(), torch.randn(1, 3, 16, 16)) == expected
    assert count_macs(network(), torch.randn(5, 3, 16, 16)) == expected


def test_counting_computes_nothing_and_leaves_the_model_alone():
    devices = []

    class Spy(nn.Module):
        def forward(self, images):
            devices.append(images.device.type)
            return images

    model = nn.Sequential(*network(), Spy()).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count_macs(model, torch.randn(2, 3, 16, 16))
    assert devices == ["meta"]
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("padding", [0, 3])
def test_macs_of_attention_are_those_of_all_tokens_whatever_the_mask_hides(padding):
    tokens, layers = 16, 2
    mlp, attention = 12 * 20, 12 * 12
    of_bert = layers * (tokens * (4 * attention + 2 * mlp) + 2 * tokens**2 * 12) + attention  # one token is pooled
    of_llama = layers * (tokens * (18 * (24 + 12 + 12 + 24) + 3 * 18 * 20) + 2 * tokens**2 * 24) + tokens * 18 * 11
    for config, expected in ((bert(), of_bert), (llama(), of_llama)):
        family = find_target(config)
        batch = family.example_batch(config)
        batch["attention_mask"][:, tokens - padding :] = 0
        assert count_macs(family.build(config), batch, family=family) == expected
