"""A stream gives every block once a round, shares documents out among processes, and is gone on with to the block."""

import json

import datasets
import pytest
import torch
from tests.tiny_text import MaskedToken, NextToken, Pairs, save, sentences, word_tokenizer

from neumeta_hf.data import DataConfig, load_data, make_preprocessor
from neumeta_hf.errors import CheckpointError, DataError

FIELDS = {"streaming": True, "validation_split": "validation", "block_size": 7, "shuffle_blocks": 20}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def documents(num=100):
    """A block of seven tokens each, the last of which is the end; no two alike."""
    names = sentences(10, length=1)
    return [" ".join(names[int(digit)] for digit in f"{row:06d}") for row in range(num)]


@pytest.fixture(params=["one file", "files"])
def folder(tmp_path, request):
    texts, parts = documents(), 1 if request.param == "one file" else 4
    folder = save(tmp_path / "set", validation={"text": documents(9)}, test={"text": documents(9)})
    for part in range(parts):
        rows = texts[part * len(texts) // parts : (part + 1) * len(texts) // parts]
        datasets.Dataset.from_dict({"text": rows}).to_parquet(tmp_path / "set" / f"train-{part}.parquet")
    return folder


def stream(folder, task=NextToken, **fields):
    return load_data(DataConfig(dataset=str(folder), **{**FIELDS, **fields}), task(), word_tokenizer())


def loader(folder, *, batch_size=5, num_batches=20, state=None, fields=None, **options):
    made = stream(folder, **(fields or {})).train.loader(batch_size=batch_size, num_batches=num_batches, **options)
    if state is not None:
        made.load_state_dict(json.loads(json.dumps(state)))
    return made


def blocks_of(batches):
    return [tuple(row) for batch in batches for row in batch["input_ids"].tolist()]


def expected():
    tokenizer = word_tokenizer()
    return [(*tokenizer(text)["input_ids"], tokenizer.eos_token_id) for text in documents()]


def test_every_block_comes_once_a_round_and_in_another_order_each_time(folder):
    read = loader(folder)
    first, second = blocks_of(read), blocks_of(read)
    assert sorted(first) == sorted(second) == sorted(expected())
    assert first != second
    assert first != expected()
    assert blocks_of(loader(folder)) == first
    assert blocks_of(loader(folder, fields={"data_seed": 1})) != first
    assert blocks_of(loader(folder, fields={"shuffle_blocks": 1})) != first


@pytest.mark.parametrize("stop", [1, 7, 20, 39])
def test_a_stream_that_is_gone_on_with_is_one_that_never_stopped(folder, stop):
    whole = loader(folder, num_batches=50)
    wanted = blocks_of(whole)
    begun = loader(folder, num_batches=50)
    passes = iter(begun)
    first = [next(passes) for _ in range(stop)]
    state = begun.state_dict()
    rest = loader(folder, num_batches=50, state=state).rest(stop)
    assert blocks_of(first) + blocks_of(rest) == wanted


@pytest.mark.parametrize("num_processes", [2, 3])
def test_no_two_processes_see_a_document(folder, num_processes):
    parts = []
    for rank in range(num_processes):
        read = loader(folder, rank=rank, num_processes=num_processes, batch_size=1, num_batches=30)
        parts.append(set(blocks_of(read)))
        assert len(parts[-1]) == 30
    assert sum(map(len, parts)) == len(set.union(*parts))
    begun = loader(folder, rank=1, num_processes=num_processes)
    passes = iter(begun)
    taken = [next(passes) for _ in range(3)]
    again = loader(folder, rank=1, num_processes=num_processes, state=begun.state_dict())
    wanted = blocks_of(loader(folder, rank=1, num_processes=num_processes))
    assert blocks_of(taken) + blocks_of(again.rest(3)) == wanted


def test_a_sample_moves_no_stream(folder):
    split = stream(folder).train
    read = split.loader(batch_size=5, num_batches=20)
    passes = iter(read)
    found = [next(passes)]
    sample = split.sample(3)
    assert torch.equal(split.sample(3)["input_ids"], sample["input_ids"])
    assert sample["input_ids"].shape == (3, 7)
    found += passes
    assert blocks_of(found) == blocks_of(loader(folder))


def test_hidden_tokens_of_a_stream_are_gone_on_with_too(folder):
    split = stream(folder, MaskedToken).train
    one, other = (split.loader(batch_size=4, num_batches=8) for _ in range(2))
    batches = list(one)
    passes = iter(other)
    next(passes)
    again = split.loader(batch_size=4, num_batches=8)
    again.load_state_dict(other.state_dict())
    for batch, found in zip(batches[1:], again.rest(1), strict=True):
        assert all(torch.equal(batch[name], found[name]) for name in batch)
    assert len({tuple(row) for batch in batches for row in (batch["labels"] >= 0).tolist()}) > 5


def test_what_is_measured_on_stays(folder):
    data = stream(folder, kept_blocks=5)
    assert data.validation.blocks.tokens.tolist() == [list(row) for row in expected()[:5]]
    assert len(stream(folder).test) == 9


def test_bytes_are_counted_as_without_a_stream(folder):
    plain = load_data(
        DataConfig(dataset=folder, block_size=7, validation_split="validation"), NextToken(), word_tokenizer()
    )
    assert stream(folder).validation.blocks.num_bytes.tolist() == plain.validation.blocks.num_bytes.tolist()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"validation_split": None}, "data.validation_split=None"),
        ({"test_fraction": 0.1}, "data.test_fraction=0.1"),
        ({"test_split": "validation"}, "both 'validation'"),
        ({"text_column": "words"}, "data.text_column='words'.*text"),
        ({"test_split": "none"}, "split 'none'.*cannot be loaded"),
        ({"train_split": "train[:50%]"}, "cannot be loaded"),
        ({"shuffle_blocks": 0}, "data.shuffle_blocks=0"),
        ({"kept_blocks": 0}, "data.kept_blocks=0"),
        ({"block_size": 1000}, "validation split do not fill one block"),
    ],
)
def test_what_makes_no_sense_of_a_stream_is_refused(tmp_path, fields, message):
    texts = {"text": documents(9)}
    folder = save(tmp_path / "set", train=texts, validation=texts, test=texts)
    with pytest.raises(DataError, match=message):
        stream(folder, **fields)


def test_neither_pairs_nor_characters_are_streamed(folder):
    config = DataConfig(dataset=folder, **FIELDS, tokenizer="characters")
    with pytest.raises(DataError, match=r"data\.tokenizer=characters with data\.streaming"):
        make_preprocessor(config, NextToken(), None)
    with pytest.raises(DataError, match=r"data\.streaming=true: pairs"):
        stream(folder, Pairs, text_columns=["a", "b"], score_column="c")


def test_documents_that_fill_no_block_end_the_search(tmp_path):
    texts = {"text": documents(9)}
    folder = save(tmp_path / "set", train={"text": ["the cat"]}, validation=texts, test=texts)
    with pytest.raises(DataError, match="fill no block of data.block_size=7"):
        next(iter(loader(folder)))
    with pytest.raises(DataError, match="fewer processes"):
        next(iter(loader(folder, rank=1, num_processes=2)))


def test_a_row_without_a_text_is_refused(tmp_path):
    texts = {"text": documents(9)}
    folder = save(tmp_path / "set", train={"text": ["the cat", None]}, validation=texts, test=texts)
    with pytest.raises(DataError, match="train split has no text in column 'text'"):
        list(loader(folder))


@pytest.mark.parametrize(
    "change",
    [
        {"taken": -1},
        {"round": 1.5},
        {"window": "x"},
        {"start": None},
        {"start": {}},
        {"start": {"examples_iterable": {"shard_idx": "x"}, "epoch": 0}},
        {"start": {"epoch": -1}},
        {"more": 1},
    ],
)
def test_a_state_that_says_no_place_is_refused(folder, change):
    read = loader(folder)
    next(iter(read))
    with pytest.raises(CheckpointError, match="state of a stream"):
        list(loader(folder, state={**read.state_dict(), **change}))
