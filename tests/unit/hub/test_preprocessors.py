"""What makes inputs travels whole, and nothing of the machine or of code with it."""

import json

import pytest
from tests.tiny_text import word_tokenizer
from transformers import AutoTokenizer

from neumeta_hf.errors import CheckpointError
from neumeta_hf.hub.preprocessors import read_preprocessor, write_preprocessor
from neumeta_hf.reading import find_file


@pytest.fixture
def folder(tmp_path):
    tokenizer = word_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(tmp_path / "run")
    return tmp_path / "run"


def read(folder):
    return read_preprocessor(lambda name: find_file(folder, name))


def change(folder, **values):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_tokenizer_travels_whole(folder, tmp_path):
    (tmp_path / "morph").mkdir()
    write_preprocessor(read(folder), tmp_path / "morph")
    before, after = (AutoTokenizer.from_pretrained(place) for place in (folder, tmp_path / "morph"))
    assert after("the cat </s>")["input_ids"] == before("the cat </s>")["input_ids"]
    assert after.special_tokens_map == before.special_tokens_map
    assert after.chat_template == before.chat_template
    assert (tmp_path / "morph" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_neither_code_nor_places_travel(folder):
    change(folder, auto_map={"AutoTokenizer": ["evil.T", None]}, name_or_path="/home/me/x", tokenizer_file="/home/me/y")
    text = read(folder)["tokenizer_config.json"].decode()
    assert "evil" not in text
    assert "/home/me" not in text
    assert "</s>" in text


def test_an_image_processor_comes_alone(folder):
    (folder / "preprocessor_config.json").write_text('{"size": 8}')
    assert set(read(folder)) == {"preprocessor_config.json"}
    assert read(folder.parent) == {}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", b"[]"),
        ("tokenizer.json", b"\xff"),
        ("tokenizer.json", b"{"),
        ("tokenizer_config.json", b"[]"),
        ("chat_template.jinja", b"\xff"),
    ],
)
def test_damage_is_named(folder, file, content):
    (folder / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=file):
        read(folder)


def test_a_link_out_of_the_folder_is_not_followed(folder, tmp_path):
    (folder / "chat_template.jinja").unlink()
    (tmp_path / "secret").write_text("secret")
    (folder / "chat_template.jinja").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja"):
        read(folder)
