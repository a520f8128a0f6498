"""What is damaged, absurd or hostile ends in one clear error of this library; docs/security.md lists it."""

import json
import logging
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from config_changes import change_config
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from neumeta_hf import NeuMetaForImageClassification, NeuMetaModel
from neumeta_hf.data import DataConfig, load_image_data
from neumeta_hf.errors import CardError, CheckpointError, DataError, HubError, MissingCheckpointError, NeuMetaError
from neumeta_hf.hub import push

WEIGHTS = "model.safetensors"
KEY = "hypernetwork.mlps.0.first.bias"


@pytest.fixture
def checkpoint(make_case, tmp_path) -> Path:
    make_case("lenet").family().save_pretrained(tmp_path / "family")
    return tmp_path / "family"


# ---------------------------------------------------------------------------------------------------- checkpoints


def with_config(**values):
    """A change of config.json, as `change_config` makes it."""
    return lambda folder: change_config(folder, **values)


def with_target(model_type, **fields):
    return with_config(target_config={"model_type": model_type, **fields})


def with_text(text):
    return lambda folder: (folder / "config.json").write_text(text)


def with_bytes(change):
    return lambda folder: (folder / WEIGHTS).write_bytes(change((folder / WEIGHTS).read_bytes()))


def with_tensors(change):
    def write(folder):
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return write


def with_value(value):
    def change(tensors):
        tensors[KEY][0] = value

    return with_tensors(change)


def flipped(data, index):
    return data[:index] + bytes([data[index] ^ 0x40]) + data[index + 1 :]


def only_a_pickle(folder):
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def with_index(name):
    def write(folder):
        keys = list(load_file(folder / WEIGHTS))
        shutil.move(folder / WEIGHTS, folder.parent / "outside.safetensors")
        index = {"metadata": {}, "weight_map": dict.fromkeys(keys, name)}
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))

    return write


def with_broken_index(folder):
    (folder / WEIGHTS).unlink()
    (folder / f"{WEIGHTS}.index.json").write_text('{"weights": []}')


HUGE = 10**12
FAULTS = {
    "truncated weights": (with_bytes(lambda data: data[: len(data) // 2]), r"family: .*safetensors file is damaged"),
    "empty weights": (with_bytes(lambda data: b""), r"damaged, or is not one .*header too small"),
    "header with a flipped bit": (
        with_bytes(lambda data: flipped(data, 6)),
        r"damaged, or is not one .*download or save",
    ),
    "weight with a flipped bit": (with_bytes(lambda data: flipped(data, len(data) - 4)), r"not those that were saved"),
    "pickle under the name of safetensors": (
        with_bytes(lambda data: b"\x80\x04." * 100),
        r"file is damaged, or is not one",
    ),
    "nothing but a pickle": (only_a_pickle, r"no file named model.safetensors"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), r"no file named model.safetensors"),
    "missing key": (with_tensors(lambda tensors: tensors.pop(KEY)), rf"missing keys in the checkpoint: {KEY}"),
    "unknown key": (with_tensors(lambda tensors: tensors.update(more=torch.ones(2))), r"unexpected keys .*: more"),
    "shape that does not fit": (
        with_tensors(lambda tensors: tensors.update({KEY: torch.ones(2, 3)})),
        rf"mismatched keys .*{KEY}.*\[2, 3\]",
    ),
    "integers for weights": (
        with_tensors(lambda tensors: tensors.update({KEY: tensors[KEY].int()})),
        r"not those that were saved",
    ),
    "NaN": (with_value(float("nan")), rf"{KEY} holds NaN or infinite values"),
    "infinity": (with_value(float("inf")), rf"{KEY} holds NaN or infinite values"),
    "weights outside of the folder": (with_index("../outside.safetensors"), r"index.json names '../outside"),
    "weights at an absolute path": (with_index("/outside.safetensors"), r"index.json names '/outside"),
    "weights in a folder below": (with_index("below/outside.safetensors"), r"index.json names 'below/outside"),
    "index that is none": (with_broken_index, r"is no index of weights"),
    "no config": (lambda folder: (folder / "config.json").unlink(), r"family cannot be loaded: it has no config.json"),
    "config that is no JSON": (with_text("{"), r"config.json is no JSON"),
    "empty config": (with_text(""), r"config.json is no JSON"),
    "config that is a list": (with_text("[]"), r"config.json holds a list"),
    "another model type": (with_config(model_type="bert"), r"of model type 'bert', but a family's is 'neumeta'"),
    "unknown model type": (with_config(model_type="nonsense"), r"of model type 'nonsense'"),
    "newer format": (
        with_config(format_version=3, neumeta_version="9.1.0", more={}),
        r"format_version=3: this neumeta_hf reads formats 1 to 2.* install neumeta_hf 9\.1\.0",
    ),
    "format 2 without its space": (with_config(space=...), r"format 2 but has no space"),
    "space that is a list": (with_config(space=[]), r"config.json holds a value that does not fit"),
    "space of a word": (with_config(space__axes__conv1="wide"), r"space: axes: conv1='wide': it must be a mapping"),
    "axis of 10^12 channels": (
        with_config(space__axes__conv1__count=10**12),
        r"count=1000000000000: at most 1,048,576",
    ),
    "axis below zero": (with_config(space__axes__conv1__count=-4), r"conv1: count=-4: it must be a whole number"),
    "axis of another size": (with_config(space__axes__conv2__count=7), r"axis conv2 has count 7.* count 6"),
    "axis that there is not": (with_config(space__axes__conv9={"count": 4, "step": 1, "parent": None}), r"axis conv9"),
    "axis that lacks": (with_config(space__axes__conv3=...), r"axis conv3 is not there"),
    "target of another size": (with_config(target_config__hidden_channels=[4, 6, 9]), r"axis conv3 .* count 9"),
    "unknown hypernetwork": (with_config(hypernetwork__type="other"), r"'other' is unknown: choose one of field, grid"),
    "unknown option of the hypernetwork": (with_config(hypernetwork__depth=3), r"no option depth"),
    "option of another type": (with_config(hypernetwork__hidden_size="big"), r"hidden_size='big'"),
    "negative option": (with_config(hypernetwork__hidden_size=-1), r"hidden_size=-1"),
    "no layers": (with_config(hypernetwork__num_hidden_layers=0), r"num_hidden_layers=0"),
    "hypernetwork that is a word": (with_config(hypernetwork="inr"), r"config.json holds a value that does not fit"),
    "target of another kind": (with_config(target_config__model_type="beit"), r"no target family of model type 'beit'"),
    "unknown target": (with_config(target_config__model_type="nonsense"), r"target_config is of model type 'nonsense'"),
    "no target": (with_config(target_config=...), r"target_config names no model type"),
    "10^12 channels": (
        with_config(target_config__hidden_channels=[HUGE] * 3),
        r"channels=1000000000000: at most",
    ),
    "10^12 hidden units": (with_config(hypernetwork__hidden_size=HUGE), r"hidden_size=1000000000000: at most"),
    "10^12 frequencies": (with_config(hypernetwork__num_frequencies=HUGE), r"num_frequencies=1000000000000: at most"),
    "10^5 layers": (with_config(hypernetwork__num_hidden_layers=10**5), r"num_hidden_layers=100000: at most 1,024"),
    "10^6 layers a block": (
        with_target("neumeta_autoencoder_kl", vae={"block_out_channels": [32], "layers_per_block": 10**6}),
        r"target_config: vae: layers_per_block=1000000: at most 1,024",
    ),
    "10^4 blocks": (
        with_target("neumeta_autoencoder_kl", vae={"block_out_channels": [32] * 10**4}),
        r"target_config: vae: block_out_channels has 10,000 entries: at most 1,024",
    ),
    "10^4 hidden layers": (
        with_target("neumeta_mlp_vae", decoder_hidden_channels=[4] * 10**4),
        r"target_config: decoder_hidden_channels has 10,000 entries: at most 1,024",
    ),
    "10^4 scales of a head": (
        with_target("upernet", pool_scales=[1] * 10**4),
        r"target_config: pool_scales has 10,000 entries: at most 1,024",
    ),
    "levels that are no whole number": (
        with_config(hypernetwork={"type": "grid", "levels": 3.0}),
        r"levels=3.0: give a whole number",
    ),
    "resolution that is a word": (
        with_config(hypernetwork={"type": "grid", "resolution": "a"}),
        r"resolution='a': give the cells per channel",
    ),
    "10^12 images": (with_config(calibration_images=HUGE), r"calibration_images=1000000000000: at most"),
    "10^4 stored sizes": (with_config(statistics_widths=[0.5] * 10_000), r"statistics_widths has 10,000 entries"),
    "negative channels": (with_config(target_config__hidden_channels=[-1, 2, 3]), r"pass three counts from 1 up"),
    "nothing of that name to generate": (with_config(generated=["nope"]), r"'nope' matches no parameter of lenet"),
    "nothing to generate": (with_config(generated=[]), r"which generated=\[\] leaves static"),
    "unknown width group": (with_config(width_groups=["nope"]), r"lenet has conv1, conv2, conv3"),
    "unknown normalisation": (with_config(normalization="layer"), r"normalization='layer': choose one of"),
    "negative noise": (with_config(coordinate_noise=-1), r"coordinate_noise=-1: give a width in channels"),
    "noise that is a word": (with_config(coordinate_noise="much"), r"'coordinate_noise' with value 'much'"),
    "unknown alignment": (with_config(alignment="left"), r"alignment='left': choose one of"),
    "width of zero": (with_config(trained_widths=[0, 1]), r"trained_widths holds \[0\]"),
    "width that is none": (with_config(trained_widths=[True, 1]), r"'trained_widths'"),
    "classes that are a list": (
        with_config(id2label=[]),
        r"config.json: id2label=\[\], and it must be a mapping of class",
    ),
    "classes without a number": (with_config(id2label={"a": "b"}), r"id2label=\{'a': 'b'\}, and it must be"),
    "classes of the target that are a list": (
        with_config(target_config__id2label=[]),
        r"config.json: target_config: id2label=\[\], and it must be",
    ),
    "numbers of classes that are a word": (with_config(label2id="x"), r"label2id='x', and it must be"),
    "type that there is not": (with_config(dtype="x"), r"dtype='x', and it must be the name of a type of floats"),
    "type of integers": (with_config(dtype="int8"), r"dtype='int8', and it must be the name of a type of floats"),
    "type of the target that there is not": (with_config(target_config__dtype="x"), r"target_config: dtype='x'"),
    "quantised weights": (
        with_config(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}),
        r"quantization_config, so its weights are quantised",
    ),
    "quantised weights of the target": (with_config(target_config__quantization_config={}), r"quantised"),
    "no number of classes": (with_config(target_config__num_labels="many"), r"num_labels='many', and it must be"),
    "field that hides a method": (with_config(to_dict=1), r"'to_dict' is not a field of a config"),
    "preparation that reports nothing": (with_config(preparation={"a": 1}), r"preparation has tv_before=None"),
    "preparation of no number": (
        with_config(preparation={"tv_before": 1.0, "tv_after": "less"}),
        r"preparation has tv_after='less': it must be a number from 0 up",
    ),
    "preparation below zero": (with_config(preparation={"tv_before": -1, "tv_after": 0}), r"tv_before=-1"),
    "even kernel": (with_config(target_config__kernel_size=4), r"kernel_size=4: pass an odd number"),
    "scale of zero": (with_config(coordinate_scale=0), r"coordinate_scale=0: give a number of channels"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_checkpoint_is_refused_by_name(checkpoint, fault):
    spoil, said = FAULTS[fault]
    spoil(checkpoint)
    with pytest.raises(NeuMetaError, match=said):
        NeuMetaModel.from_pretrained(checkpoint)


def test_no_pickle_is_read_even_when_asked_for(checkpoint):
    torch.save(load_file(checkpoint / WEIGHTS), checkpoint / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"use_safetensors=False would read a pickle"):
        NeuMetaModel.from_pretrained(checkpoint, use_safetensors=False)


def test_the_checksum_is_of_the_weights_and_not_of_their_files_or_types(checkpoint):
    family = NeuMetaForImageClassification.from_pretrained(checkpoint)
    family.save_pretrained(checkpoint.parent / "shards", max_shard_size="10KB")
    assert len(list((checkpoint.parent / "shards").glob("*.safetensors"))) > 1
    again = NeuMetaModel.from_pretrained(checkpoint.parent / "shards")
    assert again.config.weights_digest == family.config.weights_digest
    half = NeuMetaModel.from_pretrained(checkpoint, dtype=torch.bfloat16)
    half.save_pretrained(checkpoint.parent / "half")
    assert NeuMetaModel.from_pretrained(checkpoint.parent / "half").dtype == torch.bfloat16


def test_what_is_missing_is_an_os_error_as_for_any_model(tmp_path):
    with pytest.raises(OSError, match="nowhere cannot be loaded") as caught:
        NeuMetaModel.from_pretrained(tmp_path / "nowhere")
    assert isinstance(caught.value, MissingCheckpointError)


# ---------------------------------------------------------------------------------------------------- the Hub


@pytest.fixture
def waits(monkeypatch, client_waits) -> list[float]:
    """Seconds that this library wanted to wait; neither it nor the client does."""
    seconds: list[float] = []
    monkeypatch.setattr(push, "time", SimpleNamespace(**{**vars(time), "sleep": seconds.append}))
    return seconds


ORG = "org/family"
COMMIT = rf"/api/models/{ORG}/commit/"
REFUSALS = {
    "a token that may not write": (lambda hub: hub.fail("POST", COMMIT, status=403), r"token may not write there"),
    "too many requests": (lambda hub: hub.fail("POST", COMMIT, times=9, status=429), r"429|limits the rate"),
    "commit that fails": (lambda hub: hub.fail("POST", COMMIT, times=9, status=500), r"500.* try again later"),
    "commit that is dropped": (lambda hub: hub.drop("POST", COMMIT, times=9), r"the connection failed"),
    "upload that fails": (lambda hub: hub.fail("PUT", "/lfs/", times=99, status=503), r"Error while uploading"),
    "upload that is dropped": (
        lambda hub: hub.drop("PUT", "/lfs/", times=99, after_bytes=99),
        r"Error while uploading",
    ),
    "repo that cannot be made": (lambda hub: hub.fail("POST", "repos/create", times=9, status=500), r"try again later"),
    "card that the Hub refuses": (
        lambda hub: hub.fail("POST", "validate-yaml", times=9, status=400),
        r"the card is refused: Invalid metadata",
    ),
    "card that cannot be read": (
        lambda hub: hub.fail("HEAD", "README.md", times=9, status=503),
        r"503.* try again later",
    ),
    "server that is gone": (lambda hub: hub.stop(), r"the connection failed"),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_push_that_fails_is_one_error_and_leaves_the_repo_as_it_was(hub, checkpoint, waits, refusal):
    family = NeuMetaForImageClassification.from_pretrained(checkpoint)
    hub.put(ORG, {"config.json": b"{}", "notes.txt": b"mine"})
    before = hub.files(ORG)
    spoil, said = REFUSALS[refusal]
    spoil(hub)
    with pytest.raises(HubError, match=rf"pushing to {ORG}: .*({said})"):
        family.push_to_hub(ORG)
    assert hub.files(ORG) == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda hub: hub.fail("POST", COMMIT, times=2, status=503),
        lambda hub: hub.drop("POST", COMMIT, times=2, after_bytes=10),
        lambda hub: hub.fail("PUT", "/lfs/", times=2, status=500),
        lambda hub: hub.fail("POST", "preupload", times=2, status=429, retry_after=1),
        lambda hub: hub.drop("PUT", "/lfs/", times=1, after_bytes=100),
        lambda hub: hub.fail("HEAD", "README.md", times=2, status=503),
    ],
    ids=["commit fails", "commit dropped", "upload fails", "too many requests", "upload dropped", "card unread"],
)
def test_a_push_that_fails_for_a_while_is_tried_again_and_commits_once(hub, checkpoint, waits, caplog, spoil):
    family = NeuMetaForImageClassification.from_pretrained(checkpoint)
    hub.put(ORG, {"notes.txt": b"mine"})
    commits = len(hub.commits(ORG))
    spoil(hub)
    with caplog.at_level(logging.WARNING, logger="neumeta_hf"):
        family.push_to_hub(ORG)
    assert len(hub.commits(ORG)) == commits + 1
    assert NeuMetaModel.from_pretrained(ORG).config.weights_digest == family.config.weights_digest


@pytest.mark.parametrize(
    ("name", "said"), [("a/b/c", r"Give organisation/name"), ("org/..", r"Give organisation/name")]
)
def test_a_name_that_no_repo_can_have(hub, checkpoint, name, said):
    with pytest.raises(HubError, match=said):
        NeuMetaForImageClassification.from_pretrained(checkpoint).push_to_hub(name)


BEGIN = b"<!-- neumeta: begin (rewritten by every push) -->\n"
END = b"<!-- neumeta: end -->\n"


def test_offline_is_said(hub, checkpoint, monkeypatch, waits):
    family = NeuMetaForImageClassification.from_pretrained(checkpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        family.push_to_hub(ORG)
    assert waits == []


def test_a_source_that_cannot_be_reached_is_named_and_nothing_is_pushed(hub, checkpoint, waits):
    NeuMetaForImageClassification.from_pretrained(checkpoint).push_to_hub(ORG)
    pulled = NeuMetaModel.from_pretrained(ORG)
    hub.fail("HEAD", "training.json", times=99, status=503)
    with pytest.raises(HubError, match=rf"reading training.json of {ORG}: .*503"):
        pulled.push_to_hub("other/family")
    assert set(hub.repos) == {ORG}


@pytest.mark.parametrize(
    ("card", "said"),
    [
        (
            b"---\nlicense: [\n---\n<!-- neumeta: begin (rewritten by every push) -->\n<!-- neumeta: end -->\n",
            "no YAML",
        ),
        (b"---\n- a\n---\n<!-- neumeta: begin (rewritten by every push) -->\n<!-- neumeta: end -->\n", "no mapping"),
        (b"<!-- neumeta: begin (rewritten by every push) -->\ntext\n", "no '<!-- neumeta: end -->' after it"),
    ],
)
def test_a_card_that_cannot_be_merged_is_not_written_over(hub, checkpoint, card, said):
    hub.put(ORG, {"README.md": card})
    family = NeuMetaForImageClassification.from_pretrained(checkpoint)
    with pytest.raises(CardError, match=said):
        family.push_to_hub(ORG)
    assert hub.files(ORG) == {"README.md": card}
    family.push_to_hub(ORG, overwrite_card=True)
    assert b"neumeta" in hub.files(ORG)["config.json"]


RUN_FAULTS = {
    "recipe that is no YAML": ("recipe.yaml", "data: [", r"recipe.yaml is no YAML"),
    "recipe that is a list": ("recipe.yaml", "[1, 2]", r"recipe.yaml holds a list"),
    "recipe whose data are none": (
        "recipe.yaml",
        "data: digits",
        r"recipe.yaml: data is 'digits', and must be a mapping",
    ),
    "training facts cut short": ("training.json", '{"seed": 7', r"training.json is no JSON .* Write it anew"),
    "training facts of another kind": ("training.json", "[]", r"training.json holds a list"),
    "training facts without a seed": (
        "training.json",
        '{"environment": {}, "seconds": {}}',
        r"training.json .* seed is missing",
    ),
    "sweep that is none": ("sweep.json", "{}", r"sweep.json .* facts is missing"),
    "sweep with a bare row": (
        "sweep.json",
        '{"facts": {}, "rows": [{"width": 1}]}',
        r"row 1 .* num_parameters is missing",
    ),
    "sweep with a strange score": (
        "sweep.json",
        '{"facts": {"score": {"name": "a", "label": "b", "c": 1}}, "rows": []}',
        r"sweep.json, score has an unknown key 'c'",
    ),
}


@pytest.mark.parametrize("fault", RUN_FAULTS)
def test_a_damaged_file_of_the_run_is_refused_before_anything_is_pushed(hub, checkpoint, fault):
    name, text, said = RUN_FAULTS[fault]
    (checkpoint / name).write_text(text)
    with pytest.raises(CheckpointError, match=said):
        NeuMetaForImageClassification.from_pretrained(checkpoint).push_to_hub(ORG)
    assert not hub.repos


# ---------------------------------------------------------------------------------------------------- pulling


@pytest.fixture
def shared(hub, checkpoint):
    NeuMetaForImageClassification.from_pretrained(checkpoint).push_to_hub(ORG)
    return hub


@pytest.mark.parametrize("revision", ["nowhere", "0" * 40])
def test_a_revision_that_is_not_there(shared, revision):
    with pytest.raises(MissingCheckpointError, match=f"{ORG} cannot be loaded"):
        NeuMetaModel.from_pretrained(ORG, revision=revision)


def test_a_repo_that_is_not_there(hub):
    with pytest.raises(MissingCheckpointError, match="org/nothing cannot be loaded .*looked for on the Hub"):
        NeuMetaModel.from_pretrained("org/nothing")


def test_a_hub_that_cannot_be_reached_is_asked_once_for_what_may_be_a_folder(hub):
    hub.drop("HEAD", "config.json", times=99)
    with pytest.raises(MissingCheckpointError, match=r"no folder of that name is here, and the Hub cannot be reached"):
        NeuMetaModel.from_pretrained("outputs/mine")
    assert len(hub.requests) == 1


def test_what_the_cache_holds_loads_while_the_hub_cannot_be_reached(shared):
    NeuMetaModel.from_pretrained(ORG)
    shared.drop("HEAD", "resolve", times=99)
    assert NeuMetaModel.from_pretrained(ORG).width_groups


@pytest.mark.parametrize("name", ["./mine", "../mine", "a/b/c", "/nowhere/mine", "~/nowhere/mine", "mine.safetensors"])
def test_a_name_that_reads_like_a_path_is_never_asked_of_the_hub(hub, name):
    with pytest.raises(MissingCheckpointError, match="there is no such folder here"):
        NeuMetaModel.from_pretrained(name)
    if not name.endswith(".safetensors"):
        with pytest.raises(DataError, match="there is no folder .* here"):
            load_image_data(DataConfig(dataset=name))
    assert not hub.requests


def test_weights_that_change_on_the_way_are_refused(shared):
    shared.corrupt(rf"resolve/.*/{WEIGHTS}", lambda data: flipped(data, len(data) - 3))
    with pytest.raises(CheckpointError, match="not those that were saved"):
        NeuMetaModel.from_pretrained(ORG)


def test_weights_that_arrive_short_are_not_kept(shared, client_waits):
    shared.corrupt(rf"resolve/.*/{WEIGHTS}", lambda data: data[:-100])
    with pytest.raises(NeuMetaError):
        NeuMetaModel.from_pretrained(ORG)
    shared.heal()
    assert NeuMetaModel.from_pretrained(ORG).width_groups


def test_a_dropped_download_is_taken_up_again(shared, client_waits):
    shared.drop("GET", rf"resolve/.*/{WEIGHTS}", times=2, after_bytes=1000)
    assert NeuMetaModel.from_pretrained(ORG).width_groups


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_fails_for_good_is_one_error(shared, client_waits, status):
    shared.fail("GET", rf"resolve/.*/{WEIGHTS}", times=99, status=status)
    with pytest.raises(NeuMetaError, match=ORG):
        NeuMetaModel.from_pretrained(ORG)
    shared.heal()
    assert NeuMetaModel.from_pretrained(ORG).width_groups  # nothing half-written in the cache


def test_a_repo_whose_index_leaves_its_folder(shared):
    files = shared.files(ORG)
    index = {"metadata": {}, "weight_map": dict.fromkeys([KEY], "../../../outside.safetensors")}
    files = {"config.json": files["config.json"], f"{WEIGHTS}.index.json": json.dumps(index).encode()}
    shared.put("org/hostile", files)
    with pytest.raises(CheckpointError, match=r"index.json names '\.\./\.\./\.\./outside"):
        NeuMetaModel.from_pretrained("org/hostile")
