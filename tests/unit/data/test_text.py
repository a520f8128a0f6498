"""Documents become blocks of tokens, all of them once and in order; pairs become padded rows."""

import logging

import datasets
import numpy as np
import pytest
import torch
from tests.tiny_text import MaskedToken, NextToken, Pairs, save, sentences, word_tokenizer

from neumeta_hf.data import DataConfig, check_keys, load_data, make_preprocessor, packing
from neumeta_hf.data.masking import Masking
from neumeta_hf.data.tokenization import character_tokenizer, load_tokenizer
from neumeta_hf.errors import CheckpointError, DataError
from neumeta_hf.tasks import Task, build_task

LENGTH = 6


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def load(folder, tokenizer=None, task=NextToken, **fields):
    return load_data(DataConfig(dataset=str(folder), **fields), task(), tokenizer or word_tokenizer())


@pytest.fixture
def folder(tmp_path):
    return save(
        tmp_path / "set",
        train={"text": sentences(10)},
        validation={"text": sentences(4, offset=3)},
        test={"text": sentences(4, offset=5)},
    )


def tokens_of(split):
    return split.__getitems__(range(len(split)))["input_ids"].flatten().tolist()


def test_documents_are_packed_whole_and_in_order_with_an_end_between_them(folder, caplog):
    tokenizer = word_tokenizer()
    with caplog.at_level(logging.INFO):
        data = load(folder, tokenizer, block_size=8, validation_split="validation")
    expected = [token for text in sentences(10) for token in (*tokenizer(text)["input_ids"], tokenizer.eos_token_id)]
    assert tokens_of(data.train) == expected[: 8 * 8]
    assert len(expected) == 70
    assert "train: 6 tokens at the end fill no block of 8" in caplog.text
    batch = data.train.__getitems__([1, 0])
    assert batch["input_ids"].dtype == batch["labels"].dtype == torch.int64
    assert torch.equal(batch["labels"], batch["input_ids"])
    assert torch.equal(data.train[1]["input_ids"], batch["input_ids"][0])


def test_a_template_of_the_tokenizer_is_kept_and_gets_no_second_end(folder):
    tokenizer = word_tokenizer(start=True)
    tokens = tokens_of(load(folder, tokenizer, block_size=8, validation_split="validation").train)
    assert tokens[0] == tokenizer.bos_token_id
    assert tokens[LENGTH + 1 : LENGTH + 3] == [tokenizer.eos_token_id, tokenizer.bos_token_id]


def test_a_tokenizer_without_an_end_puts_none(folder):
    data = load(folder, word_tokenizer(eos_token=None), block_size=6, validation_split="validation")
    assert (
        data.train.__getitems__([1])["input_ids"].flatten().tolist() == word_tokenizer()(sentences(2)[1])["input_ids"]
    )


def test_what_a_document_writes_out_is_no_special_token(tmp_path):
    folder = save(tmp_path / "set", train={"text": ["the </s> cat"] * 4}, test={"text": ["the cat"] * 2})
    tokens = tokens_of(load(folder, block_size=2, validation_fraction=0).train)
    assert tokens.count(word_tokenizer().eos_token_id) == 4


@pytest.mark.parametrize("texts", [["ab", "cd\n"], ["é€𝄞 x", "x  y"], ["", "abc"]])
def test_bytes_are_those_of_the_text_that_tokens_foretell(tmp_path, texts):
    folder = save(tmp_path / "set", train={"text": texts}, test={"text": ["ab"]})
    tokenizer = character_tokenizer(texts)
    split = load(folder, tokenizer, block_size=3, validation_fraction=0).train
    batch = split.__getitems__(range(len(split)))
    for tokens, num_bytes in zip(batch["input_ids"], batch["num_bytes"], strict=True):
        text = tokenizer.decode(tokens[1:], skip_special_tokens=True)
        assert num_bytes == len(text.encode())


def test_spaces_that_no_token_holds_are_counted_too(tmp_path):
    folder = save(tmp_path / "set", train={"text": ["the  cat sat  "]}, test={"text": ["the cat sat"]})
    data = load(folder, block_size=4, validation_fraction=0)
    assert data.train[0]["num_bytes"] == len("  cat sat  ")


def test_text_is_tokenised_once(folder, monkeypatch):
    first = load(folder, block_size=8, validation_fraction=0.2)
    monkeypatch.setattr(packing.Encoder, "encode", None)
    again = load(folder, block_size=4, validation_fraction=0.2)
    assert tokens_of(again.train)[:40] == tokens_of(first.train)[:40]
    with pytest.raises(TypeError):
        load(folder, word_tokenizer(start=True), block_size=8, validation_fraction=0.2)


def test_splits_are_cut_by_document(folder):
    data = load(folder, word_tokenizer(eos_token=None), block_size=LENGTH, validation_fraction=0.3)
    cut = load(folder, word_tokenizer(eos_token=None), block_size=LENGTH, test_fraction=0.2, validation_fraction=0.3)
    whole = sorted(sorted(word_tokenizer()(text)["input_ids"]) for text in sentences(10))

    def documents(*splits):
        return sorted(sorted(block) for split in splits for block in split.blocks.tokens.tolist())

    assert documents(data.train, data.validation) == whole
    assert documents(cut.train, cut.validation, cut.test) == whole
    assert (len(cut.test), len(cut.validation), len(cut.train)) == (2, 2, 6)


def test_plain_files_are_documents(tmp_path):
    for split in ("train", "test"):
        (tmp_path / "set" / split).mkdir(parents=True)
        for number, text in enumerate(["the cat\nsat", "a dog ran"]):
            (tmp_path / "set" / split / f"{number}.txt").write_text(text, encoding="utf-8")
    data = load(tmp_path / "set", block_size=4, validation_fraction=0)
    ends = [row[-1] for row in data.train.blocks.tokens]
    assert ends == [word_tokenizer().eos_token_id] * 2


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv", "txt"])
def test_one_file_is_a_training_split(tmp_path, ending):
    table = datasets.Dataset.from_dict({"text": sentences(10)})
    path = tmp_path / f"texts.{ending}"
    if ending == "txt":
        path.write_text("\n".join(sentences(10)), encoding="utf-8")
        with pytest.raises(DataError, match="test_fraction"):
            load(path, block_size=4)
        return
    {"parquet": table.to_parquet, "jsonl": table.to_json, "csv": table.to_csv}[ending](path)
    data = load(path, block_size=7, test_fraction=0.2)
    assert (len(data.train), len(data.validation), len(data.test)) == (7, 1, 2)
    (tmp_path / "texts.docx").write_bytes(b"x")
    with pytest.raises(DataError, match=r"\.parquet.*\.txt"):
        load(tmp_path / "texts.docx")


@pytest.mark.parametrize(
    ("columns", "fields", "message"),
    [
        ({"a": ["x"] * 9, "b": ["y"] * 9}, {}, "2 columns of strings among a, b.*data.text_column"),
        ({"a": [1] * 9}, {}, "0 columns of strings"),
        ({"a": [1] * 9, "text": ["x"] * 9}, {"text_column": "a"}, "data.text_column='a'.*int64.*strings"),
        ({"text": ["x"] * 9}, {"text_column": "b"}, "data.text_column='b'.*columns text"),
        ({"text": ["x", None, "y"] * 3}, {}, "row 1 of the train split has no text"),
        ({"text": ["the cat"] * 9}, {"block_size": 1}, "data.block_size=1"),
        ({"text": ["the cat"] * 9}, {"block_size": 100}, "do not fill one block"),
        ({"text": ["x"] * 9}, {"validation_fraction": 1.5}, "validation_fraction=1.5"),
        ({"text": ["x"] * 9}, {"image_size": 8}, "data.image_size=8 is for images"),
        ({"text": ["x"] * 9}, {"labels": "mask"}, "data.labels='mask' is for images"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, columns, fields, message):
    folder = save(tmp_path / "set", train=columns, test=columns)
    with pytest.raises(DataError, match=message):
        load(folder, **{"validation_fraction": 0, "block_size": 2, **fields})


def test_a_column_must_be_there_in_every_split(tmp_path):
    folder = save(tmp_path / "set", train={"text": ["the cat"]}, test={"words": ["the cat"]})
    with pytest.raises(DataError, match=r"test|words"):
        load(folder, validation_fraction=0, block_size=2)


@pytest.mark.parametrize("key", ["text_column", "tokenizer"])
def test_keys_of_text_are_none_of_images(key):
    with pytest.raises(DataError, match=f"data.{key}='x' is for text.*image-classification reads images"):
        check_keys(DataConfig(**{key: "x"}), build_task("image-classification"))
    check_keys(DataConfig(labels="none"), NextToken())


# ---------------------------------------------------------------------------------------------------- masked tokens


def masked(folder, **fields):
    return load(folder, task=MaskedToken, block_size=8, validation_split="validation", **fields)


def test_hidden_tokens_are_the_labels_and_no_others(folder):
    split = masked(folder).train
    batch, tokens = split.__getitems__(range(len(split))), torch.from_numpy(split.blocks.tokens)
    chosen = batch["labels"] != -100
    assert torch.equal(batch["labels"][chosen], tokens[chosen].long())
    assert torch.equal(batch["input_ids"][~chosen], tokens[~chosen].long())
    assert not torch.isin(tokens[chosen], torch.tensor(split.tokenizer.all_special_ids)).any()
    assert chosen.any(1).all()


def test_training_hides_others_in_each_epoch_and_evaluation_the_same(folder):
    data = masked(folder)
    for split, is_fresh in ((data.train, True), (data.validation, False)):
        first = split.__getitems__([0, 1])["labels"]
        assert torch.equal(split.__getitems__([1, 0])["labels"].flip(0), first)
        split.set_epoch(1)
        assert torch.equal(split.__getitems__([0, 1])["labels"], first) != is_fresh
    assert not torch.equal(masked(folder, data_seed=1).validation[0]["labels"], data.validation[0]["labels"])


def test_as_many_are_hidden_as_the_probability_says():
    masking = Masking.of(word_tokenizer(), 0.15, seed=0)
    tokens = np.full((40, 500), 7, dtype=np.int32)
    inputs, labels = masking.hide(tokens, np.arange(40), epoch=0)
    chosen = labels != -100
    assert chosen.mean() == pytest.approx(0.15, abs=0.01)
    assert (inputs[chosen] == masking.mask).mean() == pytest.approx(0.8 + 0.1 / 15, abs=0.03)
    assert (inputs[chosen] == 7).mean() == pytest.approx(0.1 + 0.1 / 15, abs=0.03)


def test_nothing_is_hidden_without_a_mask(folder):
    with pytest.raises(DataError, match="no mask token"):
        load(folder, word_tokenizer(mask_token=None), task=MaskedToken)


# ------------------------------------------------------------------------------------------------ pairs of sentences

PAIRS = {"text_columns": ["one", "two"], "score_column": "score", "block_size": 5}


def pairs(num, **columns):
    return {
        "one": [" ".join(["cat"] * (1 + row % 3)) for row in range(num)],
        "two": ["the big dog"] * num,
        "score": [float(row) for row in range(num)],
        **columns,
    }


def test_pairs_are_padded_by_batch(tmp_path):
    folder = save(tmp_path / "set", train=pairs(6), test=pairs(6))
    split = load(folder, task=Pairs, validation_fraction=0.5, **PAIRS).test
    batch = split.__getitems__([0, 1])
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (4, 3)
    assert batch["attention_mask"].sum(1).tolist() == [1, 2, 3, 3]
    assert (batch["input_ids"][batch["attention_mask"] == 0] == word_tokenizer().pad_token_id).all()
    assert batch["labels"].tolist() == [0.0, 1.0]
    cat = word_tokenizer()("cat")["input_ids"][0]
    assert batch["input_ids"][0, 0] == batch["input_ids"][1, 0] == cat != batch["input_ids"][2, 0]


def test_training_needs_no_scores_and_measuring_does(tmp_path):
    missing = pairs(4, score=[None, 1.0, None, 2.0])
    folder = save(tmp_path / "set", train=missing, validation=pairs(4), test=pairs(4))
    data = load(folder, task=Pairs, validation_split="validation", **PAIRS)
    assert "labels" not in data.train.__getitems__([0, 1])
    assert "labels" in data.validation.__getitems__([0])
    with pytest.raises(DataError, match="row 0 of the validation split has no finite number"):
        load(folder, task=Pairs, validation_split="train[:2]", train_split="train[2:]", **PAIRS)


def test_long_sentences_are_cut_and_that_is_said(tmp_path, caplog):
    folder = save(tmp_path / "set", train=pairs(4), test=pairs(2, two=["the big red cat sat on a mat"] * 2))
    batch = load(folder, task=Pairs, validation_fraction=0, **PAIRS).test.__getitems__([0, 1])
    assert batch["input_ids"].shape == (4, 5)
    assert "test split are cut to data.block_size=5" in caplog.text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_columns": ["one"]}, "name the two columns"),
        ({"text_columns": ["one", "one"]}, "name the two columns"),
        ({"score_column": None}, "name the two columns"),
        ({"text_columns": ["one", "three"]}, "data.text_columns='three'.*one, two, score"),
        ({"score_column": "two"}, "data.score_column='two'.*numbers"),
    ],
)
def test_columns_of_pairs_are_checked(tmp_path, fields, message):
    folder = save(tmp_path / "set", train=pairs(4), test=pairs(4))
    with pytest.raises(DataError, match=message):
        load(folder, task=Pairs, validation_fraction=0, **{**PAIRS, **fields})


# ------------------------------------------------------------------------------------------------------ tokenizers


def test_the_tokenizer_is_the_checkpoint_s_unless_the_recipe_names_another(tmp_path, folder):
    word_tokenizer().save_pretrained(tmp_path / "network")
    word_tokenizer(start=True).save_pretrained(tmp_path / "other")
    network, other = str(tmp_path / "network"), str(tmp_path / "other")

    def made(source, *, prefer_source=False, **fields):
        config = DataConfig(dataset=folder, validation_split="validation", **fields)
        return make_preprocessor(config, NextToken(), source, prefer_source=prefer_source)

    assert made(network)("the cat")["input_ids"] == word_tokenizer()("the cat")["input_ids"]
    assert made(network, tokenizer=other)("the cat")["input_ids"][0] == 1
    assert made(network, tokenizer=other, prefer_source=True)("the cat")["input_ids"][0] != 1
    assert len(made(None, tokenizer="characters")) == 2 + len(set("".join(sentences(10))))
    with pytest.raises(DataError, match=r"data\.tokenizer is left out"):
        made(None)
    with pytest.raises(DataError, match=r"no tokenizer\.json"):
        made(str(tmp_path))


def test_characters_come_back_as_they_were(tmp_path):
    text = "a  b\n\tß — 𝄞 <|endoftext|>"
    character_tokenizer([text]).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path), what="it")
    tokens = packing.Encoder.of(tokenizer).encode([text])[0][0]
    assert len(tokens) == len(text) + 1
    assert tokenizer.decode(tokens, skip_special_tokens=True) == text


def test_a_tokenizer_runs_no_code_and_damage_is_said(tmp_path):
    word_tokenizer().save_pretrained(tmp_path)
    settings = tmp_path / "tokenizer_config.json"
    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass T: pass\n")
    text = settings.read_text()
    settings.write_text(text.replace("{", '{"auto_map": {"AutoTokenizer": ["evil.T", "evil.T"]}, ', 1))
    assert load_tokenizer(str(tmp_path), what="it")("cat")["input_ids"]
    assert not marker.exists()
    settings.write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json"):
        load_tokenizer(str(tmp_path), what="it")
    settings.write_text(text)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(DataError, match=r"tokenizer\.json of .* cannot be read"):
        load_tokenizer(str(tmp_path), what="it")


def test_tasks_read_images_unless_they_say_otherwise():
    assert Task.modality == "image"
