"""Whole runs of stock language models and encoders of a few hundred weights, from a checkpoint to morphs."""

import json
from pathlib import Path

import datasets
import pytest
import torch
from tests.integration.training.tiny_runs import reset_accelerate
from tests.tiny_targets import bert, llama
from tests.tiny_text import save, sentences, word_tokenizer
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from neumeta_hf import NeuMetaModel, cli
from neumeta_hf.targets import find_target
from neumeta_hf.training import recipe_from_dict, train

LOOP = {"epochs": 2, "batch_size": 8, "optimizer": {"learning_rate": 0.01}, "schedule": {"name": "constant"}}
COMMON = {
    "pretrain": None,
    "preparation": {"normalization": "keep", "order": "importance"},
    "sizes": {"widths": [0.33, 0.67, 1.0], "depths": [0.67, 1.0], "sampler": "sandwich"},
    "train": LOOP,
    "validation_widths": [1.0],
    "output_dir": "run",
}
GRID = {"hypernetwork": {"type": "grid"}, "coordinate_noise": 0.0}


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    reset_accelerate()


def checkpoint(config, folder, *, dtype=torch.float32):
    torch.manual_seed(0)
    network = find_target(config).build(config).to(dtype)
    network.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return network.float().eval()


def test_a_llama_becomes_a_family_on_text_that_it_wrote():
    words = len(word_tokenizer())
    checkpoint(llama(vocab_size=words, num_hidden_layers=3, bos_token_id=1, eos_token_id=2), "llama")
    recipe = {
        **COMMON,
        "data": {"dataset": "generated", "generated_tokens": 1500, "block_size": 8},
        "target": {"family": "llama", "checkpoint": "llama"},
        "family": GRID,
        "losses": {"task": 0.5, "distillation": 0.5, "reconstruction": 0.0, "regularization": 0.0},
    }
    train(recipe_from_dict(recipe))
    assert cli.main(["-q", "morph", "run", "--width", "0.67", "--depth", "0.67", "--output", "morph"]) == 0
    morph = AutoModelForCausalLM.from_pretrained("morph")
    assert type(morph).__name__ == "LlamaForCausalLM"
    assert morph.config.num_hidden_layers == 2
    tokenizer = AutoTokenizer.from_pretrained("morph")
    ids = torch.tensor([tokenizer("the cat")["input_ids"]])
    assert morph.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None).shape == (1, 6)


def test_an_encoder_in_half_precision_becomes_a_family_of_heads_mlp_and_depth(capsys):
    network = checkpoint(bert(vocab_size=len(word_tokenizer()), num_hidden_layers=3), "bert", dtype=torch.float16)
    rows = {"one": sentences(32), "two": sentences(32, offset=2), "score": [float(i % 6) for i in range(32)]}
    pairs = save(Path.cwd() / "pairs", train=rows, validation=rows, test=rows)
    columns = {"text_columns": ["one", "two"], "score_column": "score", "validation_split": "validation"}
    changed = ["attention.self.*", "attention.output.dense.weight", "intermediate.dense.*", "output.dense.weight"]
    recipe = {
        **COMMON,
        "data": {"dataset": pairs, "block_size": 8, **columns},
        "target": {"family": "bert", "checkpoint": "bert"},
        "family": {
            **GRID,
            "generated": [f"encoder.layer.*.{name}" for name in changed],
            "width_groups": ["*.heads", "*.mlp"],
        },
        "losses": {"task": 0.0, "distillation": 1.0, "reconstruction": 0.0, "regularization": 0.0},
        "train": {**LOOP, "optimizer": {"learning_rate": 0.0}},
    }
    train(recipe_from_dict(recipe))
    family = NeuMetaModel.from_pretrained("run")
    assert {parameter.dtype for parameter in family.parameters()} == {torch.float32}
    batch = find_target("bert").example_batch(network.config)
    with torch.no_grad():
        found, expected = (model(**batch).last_hidden_state for model in (family.morph(), network))
    assert torch.allclose(found, expected, atol=1e-5)
    assert cli.main(["-q", "evaluate", "run", "--widths", "1.0"]) == 0
    sweep = json.loads(Path("run/sweep.json").read_text())
    assert sweep["rows"][0]["spearman"] == pytest.approx(sweep["reference"]["spearman"], abs=1e-4)
    assert cli.main(["-q", "morph", "run", "--width", "0.67", "--depth", "0.67", "--output", "morph"]) == 0
    config = json.loads(Path("morph/config.json").read_text())
    assert (config["hidden_size"], config["num_hidden_layers"]) == (12, 2)
    assert (config["num_attention_heads"], config["intermediate_size"]) == (2, 13)
    morph = AutoModel.from_pretrained("morph")
    with torch.no_grad():
        assert morph(**batch).last_hidden_state.shape == found.shape
