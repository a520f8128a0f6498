"""The benchmark of text families: all that it measures, on tiny networks."""

import json

import datasets
import pytest
import torch
from example_scripts import load_script
from tests.integration.training.tiny_runs import reset_accelerate
from tests.tiny_targets import bert, llama
from tests.tiny_text import save, sentences, word_tokenizer

from neumeta_hf.targets import find_target


# Full size and one more: narrower, or narrower and of fewer layers.
@pytest.mark.parametrize(("name", "other"), [("stories260k", (0.75, 1.0)), ("minilm", (0.5, 0.67))])
def test_a_family_is_measured_beside_the_same_size_trained_alone(name, other, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    reset_accelerate()
    script = load_script("benchmarks/text_families.py")
    monkeypatch.setattr(script, "NEW_TOKENS", 4)
    assert other in script.SIZES[name]
    monkeypatch.setitem(script.SIZES, name, ((1.0, 1.0), other))
    sizes = {"vocab_size": len(word_tokenizer()), "num_hidden_layers": 3}
    config = llama(**sizes) if name == "stories260k" else bert(**sizes)
    torch.manual_seed(0)
    find_target(config).build(config).save_pretrained(tmp_path / "network")
    word_tokenizer().save_pretrained(tmp_path / "network")
    options = ["--checkpoint", str(tmp_path / "network"), "--steps", "3", "--set", "data.block_size=8"]
    if name == "minilm":
        rows = {
            "sentence1": sentences(24),
            "sentence2": sentences(24, offset=2),
            "score": [i % 5 / 4 for i in range(24)],
        }
        pairs = save(tmp_path / "pairs", train=rows, validation=rows, test=rows)
        text = " ".join(f"{sentence}." for sentence in sentences(40))
        texts = save(tmp_path / "texts", train={"text": [text, text]})
        options += ["--data", pairs, "--texts", texts, "--set", "train.batch_size=4"]
        options += ["--set", "train.optimizer.learning_rate=0.05"]  # or no rank would change in so few steps
    output = tmp_path / "result.json"
    options += ["--runs", str(tmp_path / "runs"), "--output", str(output)]
    assert script.main([name, *options]) == 0
    result = json.loads(output.read_text())
    score = result["facts"]["score"]["name"]
    found = {(row["method"], row["width"], row["depth"]): row for row in result["rows"]}
    wanted = {("reference", 1.0, 1.0), ("family", 1.0, 1.0)}
    assert found.keys() == wanted | {(method, *other) for method in ("family", "alone", "cut")}
    family, alone = found["family", *other], found["alone", *other]
    assert (family["parameters"], family["macs"]) == (alone["parameters"], alone["macs"])
    assert family["macs"] < found["reference", 1.0, 1.0]["macs"]
    assert family[score] != alone[score]
    assert len(result["facts"]["steps"]) == 2
    assert len(set(result["facts"]["steps"].values())) == 1  # equal steps
    assert len(result.get("texts", {})) == (2 if name == "stories260k" else 0)
    if name == "minilm":
        pairs = datasets.load_dataset(str(tmp_path / "runs" / "pairs"))
        assert 24 < len(pairs["train"]) <= 24 + 40
        assert len(pairs["test"]) == 24
    reset_accelerate()
    monkeypatch.setattr(script, "train", None)  # nothing is trained again
    monkeypatch.setattr(script.Benchmark, "measure", lambda *_: None)  # as was seen above
    assert script.main([name, *options]) == 0
