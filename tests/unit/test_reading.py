"""What somebody else wrote is read within bounds, and links lead nowhere else."""

import json
import os

import pytest
import yaml

from neumeta_hf.errors import CheckpointError, RecipeError
from neumeta_hf.reading import find_file, find_folder, parse_json, parse_yaml, read_json, read_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
)
MERGED = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 10)}]}}\n"
    for before, name in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret" / "key.json"
    path.parent.mkdir()
    path.write_text('{"secret": 1}')
    return path


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "theirs").mkdir()
    return tmp_path / "theirs"


# ---------------------------------------------------------------------------------------------------- files


def test_a_file_of_the_folder_is_found_and_one_that_is_not_there_is_none(folder, tmp_path):
    (folder / "below").mkdir()
    (folder / "below" / "a.json").write_text("{}")
    assert find_file(folder, "below/a.json") == folder / "below" / "a.json"
    assert find_file(folder, "b.json") is None
    (tmp_path / "link").symlink_to(folder)  # the folder itself may be one
    assert find_file(tmp_path / "link", "below/a.json") is not None
    assert find_folder(folder, "below") == folder / "below"
    assert find_folder(folder, "beside") is None


@pytest.mark.parametrize("target", ["absolute", "relative", "through a folder"])
def test_a_link_out_of_the_folder_is_refused_by_its_name_and_its_target(folder, secret, target):
    if target == "through a folder":
        (folder / "below").symlink_to(secret.parent)
        name = "below/key.json"
    else:
        (folder / "key.json").symlink_to(secret if target == "absolute" else "../secret/key.json")
        name = "key.json"
    with pytest.raises(CheckpointError, match=rf"theirs/{name} is a link to .*secret/key.json"):
        find_file(folder, name)


def test_a_folder_that_is_a_link_out_of_the_folder_is_refused(folder, secret):
    (folder / "reference").symlink_to(secret.parent)
    with pytest.raises(CheckpointError, match="reference is a link to .*secret"):
        find_folder(folder, "reference")


def test_a_link_within_the_folder_is_read(folder):
    (folder / "a.json").write_text("{}")
    (folder / "b.json").symlink_to("a.json")
    assert find_file(folder, "b.json") == folder / "b.json"


@pytest.mark.parametrize("target", ["nowhere", "b.json"])
def test_a_link_to_nothing_or_to_itself_is_refused(folder, target):
    (folder / "b.json").symlink_to(target)
    with pytest.raises(CheckpointError, match="b.json is a link that leads nowhere"):
        find_file(folder, "b.json")


def test_what_would_never_end_is_not_opened(folder):
    os.mkfifo(folder / "a.json")
    (folder / "b.json").symlink_to("/dev/zero")
    (folder / "c.json").mkdir()
    for name, said in (("a.json", "no regular file"), ("b.json", "/dev/zero"), ("c.json", "no regular file")):
        with pytest.raises(CheckpointError, match=said):
            find_file(folder, name)


def test_the_layout_of_the_hubs_cache_is_read(tmp_path):
    blobs, snapshot = tmp_path / "repo" / "blobs", tmp_path / "repo" / "snapshots" / "abc"
    (snapshot / "small").mkdir(parents=True)
    blobs.mkdir()
    (blobs / "123").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/123")
    (snapshot / "small" / "config.json").symlink_to("../../../blobs/123")
    assert find_file(snapshot, "config.json") is not None
    assert find_file(snapshot, "small/config.json") is not None
    assert find_file(snapshot / "small", "config.json") is not None


def test_what_only_looks_like_the_hubs_cache_is_refused(tmp_path, secret):
    snapshot = tmp_path / "repo" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "repo" / "blobs").symlink_to(secret.parent)  # blobs that are somewhere else
    (snapshot / "a.json").symlink_to("../../blobs/key.json")
    (snapshot / "b.json").symlink_to("../../../secret/key.json")  # not into the blobs
    for name in ("a.json", "b.json"):
        with pytest.raises(CheckpointError, match="secret/key.json"):
            find_file(snapshot, name)


# ---------------------------------------------------------------------------------------------------- JSON


JSON_FAULTS = {
    "cut short": ('{"a": 1', "no JSON"),
    "empty": ("", "no JSON"),
    "key twice": ('{"a": 1, "a": 2}', "the key 'a' twice"),
    "key twice below": ('{"b": [{"a": 1, "a": 2}]}', "the key 'a' twice"),
    "NaN": ('{"a": NaN}', "NaN"),
    "infinity": ('{"a": -Infinity}', "Infinity"),
    "float beyond all": ('{"a": 1e999}', "1e999"),
    "integer beyond all": ('{"a": ' + "9" * 10_000 + "}", "no JSON"),
    "nested past the parser": ("[" * 100_000, "nested too deeply"),
    "nested": ('{"a": ' + "[" * 500 + "]" * 500 + "}", "nested"),
    "list": ("[1]", "holds a list"),
    "word": ('"a"', "holds a str"),
}


@pytest.mark.parametrize("fault", JSON_FAULTS)
def test_bad_json_is_one_error(tmp_path, fault):
    text, said = JSON_FAULTS[fault]
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(CheckpointError, match=said):
        read_json(tmp_path / "a.json")


def test_json_that_is_no_text_or_too_long_is_refused(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(CheckpointError, match="no text"):
        read_json(tmp_path / "a.json")
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(10**12)  # sparse: takes no room, and would take all memory
    with pytest.raises(CheckpointError, match="bytes"):
        read_json(tmp_path / "a.json")


def test_good_json_reads_as_the_library_reads_it():
    values = {"a": [1, 2.5, None, True, "é"], "b": {"c": {"d": []}}, "e": -(2**70)}
    assert parse_json(json.dumps(values), "it") == values


# ---------------------------------------------------------------------------------------------------- YAML


YAML_FAULTS = {
    "cut short": ("a: [", "no YAML"),
    "key twice": ("a: 1\nb: 2\na: 3", "the key 'a' twice in one mapping"),
    "key twice below": ("c: {a: 1, a: 2}", "the key 'a' twice in one mapping"),
    "aliases of aliases": (BOMB, "aliases"),
    "merges of merges": (MERGED, "aliases"),
    "alias of itself": ("a: &a [*a]", "nested|aliases"),
    "nested past the parser": ("[" * 5000, "nested too deeply"),
    "nested": ("{a: " + "[" * 100 + "]" * 100 + "}", "nested"),
    "object of Python": ("a: !!python/object/apply:os.system ['true']", "no YAML"),
    "truth that is none": ("a: !!bool x", "no YAML"),
    "date that is none": ("a: 2020-99-99", "no YAML"),
    "time that is none": ("a: !!timestamp x", "no YAML"),
    "list": ("[1]", "holds a list"),
    "too long": ("a: " + "x" * 2**18, "bytes"),
}


@pytest.mark.parametrize("fault", YAML_FAULTS)
def test_bad_yaml_is_one_error(tmp_path, fault):
    text, said = YAML_FAULTS[fault]
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(RecipeError, match=said):
        read_yaml(tmp_path / "a.yaml", error=RecipeError)


def test_good_yaml_reads_as_the_library_reads_it():
    text = "a: &a {x: 1, y: [1, 2.5, no, 2020-01-01]}\nb: {<<: *a, z: null}\nc: *a\n"
    assert parse_yaml(text, "it") == yaml.safe_load(text)
    assert parse_yaml("", "it") is None


def test_an_empty_yaml_file_maps_nothing(tmp_path):
    (tmp_path / "a.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "a.yaml") == {}
