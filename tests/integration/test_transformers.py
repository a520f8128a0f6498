"""Families of transformers: whole heads, tied tensors, layers left out, and morphs that need nothing of ours."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, Dinov2WithRegistersConfig, LlamaConfig, Qwen3Config

from forks import WITHOUT_LIBRARY
from neumeta_hf import NeuMetaModel, prepare
from neumeta_hf.targets import find_target
from tiny_targets import bert, llama, vit

CONFIGS = {
    "vit": lambda: vit(num_hidden_layers=3),
    "dinov2": lambda: vit(Dinov2WithRegistersConfig, num_hidden_layers=3),
    "llama": lambda: llama(LlamaConfig, num_hidden_layers=3),
    "qwen3": lambda: llama(Qwen3Config, num_hidden_layers=3),
}
HYPERNETWORKS = {
    "first heads": {"type": "grid", "positions": "absolute", "levels": 3},
    "merged heads": {"type": "grid", "positions": "relative", "levels": 2},
    "inr": {"type": "inr", "hidden_size": 8},
}
STOCK = {
    "vit": {"width": 0.7},
    "dinov2": {"width": {"hidden": 0.5, "*.heads": 0.7, "*.mlp": 0.5}},
    "llama": {"width": {"hidden": 2 / 3, "layer*": 0.7}, "depth": 0.67},  # heads must divide the stream
    "qwen3": {"width": 0.7, "depth": {"layers": 1}},
}
OWN = {"size": {"layer1.heads": 1, "layer2.mlp": 7, "hidden": 10}, "depth": 0.67}


@pytest.fixture(scope="module", params=CONFIGS)
def reference(request):
    config = CONFIGS[request.param]()
    family = find_target(config)
    torch.manual_seed(0)
    network = family.build(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return request.param, family, network


def make(network, hypernetwork="first heads", **fields):
    options = {"generated": ["*"], "normalization": "keep", "trained_widths": [0.5, 1.0], **fields}
    return NeuMetaModel.from_reference(network, hypernetwork=HYPERNETWORKS[hypernetwork], **options).eval()


def answer(family, network, batch):
    with torch.no_grad():
        return family.forward(network, batch).logits


@pytest.mark.filterwarnings("ignore::neumeta_hf.SizeWarning")
@pytest.mark.parametrize("hypernetwork", HYPERNETWORKS)
def test_a_morph_computes_what_training_ran(reference, hypernetwork, tmp_path):
    name, target, network = reference
    batch = target.example_batch(network.config)
    model = make(network, hypernetwork)
    for where in (STOCK[name], OWN, {}):
        morph = model.morph(**where)
        size = model.size_at(where.get("width", 1.0), counts=where.get("size"), depth=where.get("depth", 1.0))
        with torch.no_grad():
            trained = model.run(size, model.generate(size), batch).logits
        assert torch.equal(answer(target, morph, batch), trained)
        shapes = {tensor: tuple(value.shape) for tensor, value in morph.state_dict().items()}
        assert model.space.shapes(size).items() <= shapes.items()
    if hypernetwork != "inr":
        assert torch.allclose(answer(target, model.morph(), batch), answer(target, network, batch), atol=1e-6)
    model.save_pretrained(tmp_path)
    again = NeuMetaModel.from_pretrained(tmp_path).eval()
    assert torch.equal(answer(target, again.morph(**OWN), batch), answer(target, model.morph(**OWN), batch))


def test_kept_heads_compute_what_they_did(reference):
    """With everything else whole, attention of fewer heads is that of the reference with the last ones silenced."""
    name, target, network = reference
    batch = target.example_batch(network.config)
    model = make(network, generated=["*"], width_groups=["layer2.heads"])
    held = model.hypernetwork
    with torch.no_grad():
        for tensor in held.tensors:
            tensor.exponent.zero_()  # nothing makes up for what is left out
    morph = model.morph(size={"layer2.heads": 2})
    silenced = model.morph()
    layer = silenced.get_submodule(target.stack(network.config))[1]
    output = getattr(layer, "self_attn", None) or layer.attention
    kept = 2 * target.head_dim(network.config) * target.queries_per_group(network.config)
    with torch.no_grad():
        output.o_proj.weight[:, kept:] = 0
    assert torch.allclose(answer(target, morph, batch), answer(target, silenced, batch), atol=1e-6)
    assert not torch.allclose(answer(target, morph, batch), answer(target, network, batch), atol=1e-4)


@pytest.mark.parametrize("order", ["importance", "path"])
def test_preparation_leaves_the_outputs_alone(reference, order):
    _, target, network = reference
    batch = target.example_batch(network.config)
    prepared, report = prepare(network, normalization="keep", order=order)
    expected = answer(target, network, batch)
    assert (answer(target, prepared, batch) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert len(report.cliques) == 1 + 2 * network.config.num_hidden_layers
    assert any(clique.order != sorted(clique.order) for clique in report.cliques)


@pytest.mark.filterwarnings("ignore::neumeta_hf.SizeWarning")
def test_stock_morphs_load_in_a_process_without_this_library(reference, tmp_path, fork):
    name, target, network = reference
    batch = target.example_batch(network.config)
    model = make(network)
    morphs = {"stock": model.morph(**STOCK[name]), "own": model.morph(**OWN)}
    for kind, morph in morphs.items():
        morph.save_pretrained(tmp_path / kind)
    assert not type(morphs["stock"]).__name__.startswith("NeuMeta")
    assert type(morphs["own"]).__name__.startswith("NeuMeta")
    torch.save((batch, answer(target, morphs["stock"], batch)), tmp_path / "answer.pt")
    fork.run(
        f"""{WITHOUT_LIBRARY}
import torch
from transformers import {target.auto_class.__name__} as Auto
batch, wanted = torch.load("answer.pt")
network = Auto.from_pretrained("stock").eval()
with torch.no_grad():
    assert torch.allclose(network(**batch).logits, wanted, atol=1e-6)
""",
        tmp_path,
    )
    again = target.load(str(tmp_path / "own"))
    assert type(again) is type(morphs["own"])
    assert torch.allclose(answer(target, again, batch), answer(target, morphs["own"], batch), atol=1e-6)
    # What else reads configs knows the layers by transformers' own word for them.
    layers = json.loads((tmp_path / "own" / "config.json").read_text())["per_layer_config"]
    assert layers["1"]["intermediate_size"] == 7


@pytest.mark.filterwarnings("ignore::neumeta_hf.SizeWarning")
def test_tied_embeddings_are_one_tensor_and_morphs_write_text(tmp_path):
    torch.manual_seed(0)
    network = find_target("llama").build(llama()).eval()
    model = make(network)
    assert "lm_head.weight" not in {*model.generated_names, *model.static_names}
    assert model.num_generated_parameters == sum(parameter.numel() for parameter in network.parameters())
    for where in ({"width": 0.7}, OWN):
        morph = model.morph(**where)
        assert morph.lm_head.weight is morph.model.embed_tokens.weight
        text = morph.generate(torch.tensor([[1, 5, 3]]), max_new_tokens=4, do_sample=False)
        assert text.shape[1] <= 7
        morph.save_pretrained(tmp_path)
        again = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert again.lm_head.weight is again.model.embed_tokens.weight
        assert torch.equal(again.generate(torch.tensor([[1, 5, 3]]), max_new_tokens=4, do_sample=False), text)
    model.train()
    model(**find_target("llama").example_batch(network.config), width=0.7).logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.hypernetwork.parameters())


@pytest.mark.filterwarnings("ignore::neumeta_hf.SizeWarning")
@pytest.mark.parametrize("architectures", [None, ["BertForMaskedLM"]], ids=["encoder", "masked lm"])
def test_an_encoder_keeps_its_class_and_reads_the_mask(architectures, tmp_path):
    config = bert(architectures=architectures, num_hidden_layers=3)
    target = find_target(config)
    torch.manual_seed(0)
    network = target.build(config).eval()
    model = make(network)
    batch = target.example_batch(config)
    batch["attention_mask"][:, 5:] = 0
    other = {**batch, "input_ids": batch["input_ids"].clone()}
    other["input_ids"][:, 5:] = 3
    cut_alone = {"width": {"*.mlp": 0.5}, "depth": 0.67}  # heads fill the stream
    for where, prefix in ((cut_alone, ""), ({"size": {"layer2.heads": 1}}, "NeuMeta")):
        morph = model.morph(**where)
        assert type(morph).__name__ == prefix + type(network).__name__
        with torch.no_grad():
            first, second = (target.forward(morph, each)[0][:, :5] for each in (batch, other))
        assert torch.allclose(first, second, atol=1e-5)
        morph.save_pretrained(tmp_path / "morph")
        again = target.load(str(tmp_path / "morph"))
        assert type(again) is type(morph)
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in morph.state_dict().items())
    model.save_pretrained(tmp_path / "family")
    assert NeuMetaModel.from_pretrained(tmp_path / "family").target_family is target


def test_only_generating_keeps_what_it_has_computed_of_each_token():
    target = find_target("llama")
    network = target.build(llama()).eval()
    batch = target.example_batch(network.config)
    assert network(**batch).past_key_values is not None
    assert target.forward(network, batch).past_key_values is None
    model = make(network)
    assert model.run(model.size_at(0.7), model.generate(model.size_at(0.7)), batch).past_key_values is None


@pytest.mark.parametrize("architectures", [None, ["BertForMaskedLM"]], ids=["encoder", "masked lm"])
def test_what_an_encoder_puts_out_keeps_its_order_without_a_warning(architectures, caplog):
    config = bert(architectures=architectures)
    target = find_target(config)
    torch.manual_seed(0)
    network = target.build(config).eval()
    prepared, report = prepare(network, normalization="keep", order="importance")
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []
    streams = [clique for clique in report.cliques if clique.num_channels == config.hidden_size]
    assert len(streams) == (0 if architectures is None else 1)
    batch = target.example_batch(config)
    with torch.no_grad():
        found, expected = (target.forward(each, batch)[0] for each in (prepared, network))
    assert torch.allclose(found, expected, atol=1e-5)
