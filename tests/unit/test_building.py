"""Networks without weights, and tensors that are one under several names."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM
from transformers import initialization as init

from neumeta_hf.building import build_empty, fill, own_tensors, tied_names


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("frequencies", torch.arange(4.0), persistent=False)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, ids):
        return self.head((self.embed(ids) - self.mean) * self.frequencies)


def bert():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
    return BertForMaskedLM(BertConfig(vocab_size=11, max_position_embeddings=16, **sizes)).eval()


CASES = {
    "own": (Tied, {"head.weight": "embed.weight"}),
    "bert": (
        bert,
        {
            "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
            "cls.predictions.decoder.bias": "cls.predictions.bias",
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_tied_names_are_one_tensor(case):
    build, tied = CASES[case]
    network = build()
    assert tied_names(network) == tied
    assert set(own_tensors(network)) == set(network.state_dict()) - set(tied)
    empty = build_empty(build)
    assert tied_names(empty) == tied
    fill(empty, own_tensors(network))
    for name, same in tied.items():
        assert empty.get_parameter(name) is empty.get_parameter(same)


def test_models_that_are_tied_when_they_are_loaded_say_so_before():
    with init.no_tie_weights():
        assert tied_names(bert()) == CASES["bert"][1]


@pytest.mark.parametrize("case", CASES)
def test_a_filled_network_computes_the_same(case):
    build, _ = CASES[case]
    network, ids = build(), torch.arange(6)[None]
    empty = build_empty(build)
    kept = set(network.state_dict())
    assert {p.device.type for p in empty.parameters()} == {"meta"}
    assert {b.device.type for name, b in empty.named_buffers() if name not in kept} == {"cpu"}
    fill(empty, own_tensors(network))
    expected, actual = network(ids), empty(ids)
    if case == "bert":
        expected, actual = expected.logits, actual.logits
    assert torch.equal(actual, expected)
    assert set(empty.state_dict()) == kept
