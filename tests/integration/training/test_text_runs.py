"""Whole runs on text, of networks of a few hundred weights: a language model and an encoder."""

import dataclasses
import json
import shutil
from pathlib import Path

import datasets
import pytest
import torch
from tests.integration.training.tiny_runs import reset_accelerate
from tests.tiny_language import TinyEncoder, TinyEncoderConfig, TinyLanguage, TinyLanguageConfig, register
from tests.tiny_text import save, sentences, word_tokenizer
from transformers import AutoTokenizer

from neumeta_hf import NeuMetaModel, cli
from neumeta_hf.data import generation
from neumeta_hf.errors import CheckpointError, DataError, NeuMetaError, RecipeError, TargetError
from neumeta_hf.training import recipe_from_dict, train
from neumeta_hf.training.state import read_manifest

LOOP = {"epochs": 2, "batch_size": 8, "optimizer": {"learning_rate": 0.01}, "schedule": {"name": "constant"}}
FAMILY = {"hypernetwork": {"type": "grid"}, "generated": ["widen", "head.weight"], "coordinate_noise": 0.0}
SIZES = {"widths": [0.5, 0.75, 1.0], "sampler": "sandwich"}


@pytest.fixture(autouse=True)
def _registered(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    register(monkeypatch)
    reset_accelerate()


@pytest.fixture
def texts(tmp_path):
    return save(
        tmp_path / "texts",
        train={"text": sentences(60)},
        validation={"text": sentences(12, offset=3)},
        test={"text": sentences(12, offset=5)},
    )


def language(texts, **changed):
    values = {
        "data": {"dataset": texts, "validation_split": "validation", "block_size": 8, "tokenizer": "characters"},
        "target": {"family": "tiny_language", "config": {"hidden_size": 16}},
        "pretrain": LOOP,
        "preparation": {"order": "importance"},
        "family": FAMILY,
        "sizes": SIZES,
        "losses": {"distillation": 1.0},
        "train": LOOP,
        "validation_widths": [0.5, 1.0],
        "output_dir": "run",
    }
    for key, entries in changed.items():
        both = isinstance(entries, dict) and isinstance(values.get(key), dict)
        values[key] = {**values[key], **entries} if both else entries
    return recipe_from_dict(values)


@pytest.fixture
def words(tmp_path):
    """A language model on this machine, with its tokenizer."""
    torch.manual_seed(0)
    TinyLanguage(TinyLanguageConfig()).save_pretrained("words")
    word_tokenizer().save_pretrained("words")
    return "words"


def validation_losses(output, loop="train"):
    lines = [json.loads(line) for line in Path(output, "log.jsonl").read_text().splitlines()]
    return [line[f"{loop}/validation/loss"] for line in lines if f"{loop}/validation/loss" in line]


def test_a_language_model_becomes_a_family_that_is_measured_drawn_and_morphed(texts, capsys):
    output = train(language(texts))
    assert output is not None
    losses = validation_losses(output, "pretrain") + validation_losses(output)
    assert losses[-1] < losses[0]
    expected = AutoTokenizer.from_pretrained(output)("the cat")["input_ids"]
    assert len(expected) == len("the cat")
    for folder in ("reference", "best", "last", "pretrained"):
        assert AutoTokenizer.from_pretrained(output / folder)("the cat")["input_ids"] == expected

    assert cli.main(["-q", "evaluate", "run", "--widths", "0.5,1.0", "--figures"]) == 0
    sweep = json.loads(Path("run/sweep.json").read_text())
    assert sweep["facts"]["score"]["name"] == "loss"
    assert not sweep["facts"]["score"]["larger_is_better"]
    assert all(row["bits_per_byte"] > 0 for row in (*sweep["rows"], sweep["reference"]))
    assert Path("run/sweep_images.png").stat().st_size > 1000
    assert cli.main(["-q", "morph", "run", "--width", "0.5", "--output", "half"]) == 0
    assert AutoTokenizer.from_pretrained("half")("the cat")["input_ids"] == expected
    assert cli.main(["-q", "evaluate", "half", "--config", "run/recipe.yaml"]) == 0
    (row,) = json.loads(Path("half/sweep.json").read_text())["rows"]
    assert row["loss"] == pytest.approx(sweep["rows"][0]["loss"], rel=1e-5)
    assert "no image processor" not in capsys.readouterr().err
    for options in ([], ["--widths", "0.5"]):
        assert cli.main(["-q", "push", "run", "org/name", "--dry-run", *options]) == 0
        said = capsys.readouterr().out
        assert "tokenizer.json" in said
        assert "pipeline_tag: text-generation" in said
    assert "33 blocks of text of the test split" in said


def test_an_interrupted_run_ends_as_if_it_had_not_been(texts):
    train(language(texts, output_dir="whole"))
    reset_accelerate()
    assert train(language(texts, train={"stop_after_steps": 5})) is None
    reset_accelerate()
    train(language(texts), resume=True)
    assert Path("run/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()


def test_a_checkpoint_brings_its_tokenizer(texts, words):
    recipe = language(texts, target={"config": {}, "checkpoint": words}, data={"tokenizer": None}, pretrain=None)
    train(recipe)
    family = NeuMetaModel.from_pretrained("run")
    tokenizer = AutoTokenizer.from_pretrained("run")
    assert tokenizer("the cat")["input_ids"] == word_tokenizer()("the cat")["input_ids"]
    ids = torch.tensor([tokenizer("the cat")["input_ids"]])
    assert family.morph(0.5).generate(ids, max_new_tokens=3, do_sample=False).shape == (1, 5)
    assert family(ids, labels=ids, width=0.5).loss > 0


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"data": {"tokenizer": None}}, DataError, r"data\.tokenizer is left out"),
        ({"data": {"image_size": 8}}, DataError, r"data\.image_size=8 is for images, but causal-lm reads text"),
        ({"data": {"block_size": 65}}, TargetError, r"64 tokens at most.*data\.block_size=65"),
        (
            {"target": {"config": {"vocab_size": 5}}},
            TargetError,
            "target.config is for 5 tokens, and the",
        ),
        ({"target": {"config": {"hidden_sizes": 5}}}, TargetError, "hidden_sizes"),
        ({"static_cache": {"augmentations": 1}}, RecipeError, r"static_cache\.augmentations=1.*causal-lm reads text"),
        ({"data": {"validation_split": None, "validation_fraction": 0}}, DataError, "validation_fraction=0"),
        ({"train": {"batch_size": 4096}}, DataError, "training rows do not fill one batch of 4096"),
    ],
)
def test_recipes_that_cannot_be_are_refused_before_anything_is_written(texts, changed, error, message):
    with pytest.raises(error, match=message):
        train(language(texts, **changed))
    assert not Path("run").exists()


def test_the_tokenizer_must_be_the_network_s(texts, words):
    recipe = language(texts, target={"config": {}, "checkpoint": words}, pretrain=None)
    with pytest.raises(TargetError, match="target.checkpoint is for 15 tokens, and the tokenizer has"):
        train(recipe)


def encoder(tmp_path, **changed):
    rows = [*zip(sentences(48), sentences(48, offset=2), strict=True)]
    columns = {
        "one": [one for one, _ in rows],
        "two": [two for _, two in rows],
        "score": [float(i % 6) for i in range(48)],
    }
    pairs = save(tmp_path / "pairs", train={**columns, "score": [None] * 47 + [1.0]}, validation=columns, test=columns)
    torch.manual_seed(0)
    TinyEncoder(TinyEncoderConfig()).save_pretrained("encoder")
    word_tokenizer().save_pretrained("encoder")
    data = {"dataset": pairs, "validation_split": "validation", "block_size": 8, "score_column": "score"}
    return recipe_from_dict(
        {
            "data": {**data, "text_columns": ["one", "two"]},
            "target": {"family": "tiny_encoder", "checkpoint": "encoder"},
            "pretrain": None,
            "preparation": {"order": "importance"},
            "family": FAMILY,
            "sizes": SIZES,
            "losses": {"task": 0.0, "distillation": 1.0},
            "train": {**LOOP, "epochs": 8},
            "validation_widths": [0.5, 1.0],
            "output_dir": "run",
            **changed,
        }
    )


def test_an_encoder_becomes_a_family_by_distillation(tmp_path):
    output = train(encoder(tmp_path))
    assert output is not None
    lines = [json.loads(line) for line in Path(output, "log.jsonl").read_text().splitlines()]
    losses = [line["train/distillation"] for line in lines if "train/distillation" in line]
    assert losses[-1] < losses[0]
    assert cli.main(["-q", "evaluate", "run", "--widths", "0.5,1.0"]) == 0
    sweep = json.loads(Path("run/sweep.json").read_text())
    assert sweep["rows"][1]["spearman"] == pytest.approx(sweep["reference"]["spearman"], abs=0.05)
    family = NeuMetaModel.class_for("sentence-embedding").from_pretrained(output)
    ids = torch.tensor([word_tokenizer()("the cat")["input_ids"]])
    assert family(ids, width=0.5).pooler_output.norm().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"losses": {"distillation": 1.0}}, r"losses\.task=1\.0.*no loss of its own"),
        ({"losses": {"task": 0.0}}, r"losses\.distillation"),
        ({"pretrain": LOOP}, "pretrain: sentence-embedding has no loss"),
    ],
)
def test_an_encoder_has_no_loss_of_its_own(tmp_path, changed, message):
    with pytest.raises(NeuMetaError, match=message):
        train(encoder(tmp_path, **changed))
    assert not Path("run").exists()


# ---------------------------------------------------------------------------------------------------------- streams

STREAM = {"streaming": True, "tokenizer": None, "shuffle_blocks": 9, "kept_blocks": 20}


def streamed(texts, words, **changed):
    loop = {"epochs": 3, "max_steps": 9, "ema_decay": 0.9}
    target = {"config": {}, "checkpoint": words}
    train = {**loop, **changed.pop("train", {})}
    return language(texts, target=target, pretrain=None, data=STREAM, train=train, **changed)


def test_a_stream_trains_and_an_interrupted_one_ends_as_if_it_had_not_been(texts, words):
    train(streamed(texts, words, output_dir="whole"))
    assert len(validation_losses("whole")) == 3
    for stop in (2, 3, 2):  # inside of a part, at its end, and again
        reset_accelerate()
        resume = Path("run").exists()
        assert train(streamed(texts, words, train={"stop_after_steps": stop}), resume=resume) is None
    reset_accelerate()
    train(streamed(texts, words), resume=True)
    assert Path("run/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    assert Path("run/last/model.safetensors").read_bytes() == Path("whole/last/model.safetensors").read_bytes()


def test_batches_of_a_step_are_accumulated_from_a_stream_too(texts, words):
    changed = {"gradient_accumulation_steps": 2, "batch_size": 4}
    train(streamed(texts, words, output_dir="whole", train=changed))
    reset_accelerate()
    assert train(streamed(texts, words, train={**changed, "stop_after_steps": 4})) is None
    reset_accelerate()
    train(streamed(texts, words, train=changed), resume=True)
    assert Path("run/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    manifest = json.loads(Path("run/state/manifest.json").read_text())
    assert (manifest["progress"]["step"], manifest["progress"]["batch"]) == (9, 18)
    assert len(manifest["streams"]) == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"max_steps": None}, r"train\.max_steps=None: a stream has no end"),
        ({"max_steps": 10}, r"train\.max_steps=10.*train\.epochs=3"),
        ({"num_workers": 1}, r"train\.num_workers=1"),
    ],
)
def test_a_stream_needs_a_length(texts, words, changed, message):
    with pytest.raises(RecipeError, match=message):
        train(streamed(texts, words, train=changed))
    assert not Path("run").exists()


def test_what_has_an_end_takes_no_other_length(texts):
    with pytest.raises(RecipeError, match=r"train\.max_steps=9: that is the length of a stream"):
        train(language(texts, train={"max_steps": 9}))


def test_a_state_of_a_stream_is_looked_at_before_it_is_gone_on_with(texts, words):
    assert train(streamed(texts, words, train={"stop_after_steps": 2})) is None
    path = Path("run/state/manifest.json")
    manifest = read_manifest(path.parent)
    for streams in (None, [], [{**manifest.streams[0], "start": {}}]):
        reset_accelerate()
        path.write_bytes(dataclasses.replace(manifest, streams=streams).text())
        with pytest.raises(CheckpointError, match="stream"):
            train(streamed(texts, words), resume=True)


# ---------------------------------------------------------------------------------- text that the network itself writes


def self_taught(words, **changed):
    data = {"dataset": "generated", "generated_tokens": 3000, "tokenizer": None, "validation_split": None}
    data |= changed.pop("data", {})
    target = {"config": {}, "checkpoint": words}
    return language("", target=target, pretrain=None, data=data, **changed)


def texts_of(folder):
    return datasets.load_dataset(str(Path(folder, "generated")), split="train")["text"][:]


def test_a_language_model_learns_from_what_it_writes(words, monkeypatch):
    train(self_taught(words))
    texts = texts_of("run")
    tokenizer = word_tokenizer()
    # Special tokens, which the small network writes too, are no text.
    assert 2000 < sum(len(tokenizer(text)["input_ids"]) for text in texts) < 3200
    assert len(set(texts)) > len(texts) / 2
    losses = validation_losses("run")
    assert losses[-1] < losses[0]
    assert cli.main(["-q", "evaluate", "run", "--widths", "0.5,1.0"]) == 0
    sweep = json.loads(Path("run/sweep.json").read_text())
    assert sweep["facts"]["dataset"] == "generated"
    assert cli.main(["-q", "morph", "run", "--width", "0.5", "--output", "half"]) == 0
    assert cli.main(["-q", "evaluate", "half", "--config", "run/recipe.yaml"]) == 0

    reset_accelerate()
    monkeypatch.setattr(generation, "sample_tokens", None)  # kept: nothing is written again
    train(self_taught(words, output_dir="again"))
    assert Path("again/model.safetensors").read_bytes() == Path("run/model.safetensors").read_bytes()
    reset_accelerate()
    with pytest.raises(TypeError):
        train(self_taught(words, data={"data_seed": 1}, output_dir="other"))


def test_a_run_goes_on_with_the_text_in_its_folder(words, monkeypatch, tmp_path):
    train(self_taught(words, output_dir="whole"))
    reset_accelerate()
    assert train(self_taught(words, train={"stop_after_steps": 3})) is None
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "elsewhere")
    shutil.rmtree(words)
    reset_accelerate()
    train(self_taught(words), resume=True)
    assert Path("run/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    shutil.rmtree("run/generated")
    assert cli.main(["-q", "evaluate", "run"]) == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"target": {"checkpoint": None}}, "data.tokenizer is left out"),
        ({"data": {"validation_split": "validation"}}, r"data\.validation_split='validation'.*does not apply to text"),
        ({"data": {"streaming": True}}, r"data\.streaming=True.*does not apply to text"),
        ({"data": {"generated_tokens": 0}}, r"data\.generated_tokens=0"),
        ({"data": {"generated_temperature": 0}}, r"data\.generated_temperature=0"),
        ({"data": {"tokenizer": "characters"}}, r"data\.tokenizer=characters"),
        ({"data": {"tokenizer": "words"}, "target": {"checkpoint": None}, "pretrain": LOOP}, r"target\.checkpoint"),
    ],
)
def test_what_says_nothing_of_generated_text_is_refused(words, changed, message):
    values = self_taught(words).to_dict()
    for key, entries in changed.items():
        values[key] = {**(values[key] or {}), **entries}
    with pytest.raises(DataError, match=message):
        train(recipe_from_dict(values))
    assert not Path("run").exists()


def test_only_language_models_write(tmp_path):
    with pytest.raises(DataError, match="the task is sentence-embedding"):
        train(encoder(tmp_path, data={"dataset": "generated"}))
