"""A state is loaded whole, bit for bit, or not at all, and nothing in it runs."""

import copy
import dataclasses
import hashlib
import json
import math
import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from neumeta_hf.errors import CheckpointError
from neumeta_hf.training.average import WeightAverage
from neumeta_hf.training.optimization import build_optimizer, build_schedule
from neumeta_hf.training.randomness import RandomState
from neumeta_hf.training.recipe import OptimizerRecipe, ScheduleRecipe
from neumeta_hf.training.state import LoopState, Progress, read_manifest

CPU = torch.device("cpu")
OPTIMIZERS = {
    "adamw": OptimizerRecipe(name="adamw", learning_rate=0.01, weight_decay=0.1),
    "sgd": OptimizerRecipe(name="sgd", learning_rate=0.1, momentum=0.9),
    "plain sgd": OptimizerRecipe(name="sgd", learning_rate=0.1, momentum=0.0),
}


class Network(nn.Module):
    """Everything that a state may have to hold: a name twice, a buffer, a parameter that nothing moves."""

    def __init__(self, channels: int = 3):
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3)
        self.norm = nn.BatchNorm2d(channels)
        self.unused = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.again = self.first

    def forward(self, images):
        return self.norm(self.again(images)).square().mean()


def make_state(optimizer="adamw", *, average=True, seed=0, schedule="cosine", channels=3):
    torch.manual_seed(seed)
    module = Network(channels)
    made = build_optimizer(module, OPTIMIZERS[optimizer])
    parameters = [parameter for group in made.param_groups for parameter in group["params"]]
    return LoopState(
        module=module,
        optimizer=made,
        schedule=build_schedule(made, ScheduleRecipe(name=schedule, warmup=0.2), total_steps=10),
        average=WeightAverage(parameters, decay=0.9) if average else None,
    )


def train(state, steps):
    for _ in range(steps):
        state.module(torch.rand(2, 1, 5, 5)).backward()
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.schedule.step()
        if state.average is not None:
            state.average.step(parameters_of(state))


def parameters_of(state):
    return [parameter for group in state.optimizer.param_groups for parameter in group["params"]]


def everything(state):
    """All that the next steps depend on, as plain values that can be compared."""
    values = {
        "module": state.module.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "schedule": {key: value for key, value in state.schedule.state_dict().items() if "called" not in key},
        "average": state.average and {**state.average.numbers(), "tensors": state.average.tensors},
    }
    return json.dumps(values, default=lambda tensor: [str(tensor.dtype), tensor.tolist()], sort_keys=True)


def save(state, folder, *, steps, processes=1):
    folder.mkdir()
    progress = Progress(batch=steps, step=steps, best_score=0.1 + 0.2, batches_per_epoch=7, seconds=1 / 3)
    state.save(folder, progress, [RandomState.of_now(CPU)] * processes)


def load(state, folder, rank=0):
    manifest = read_manifest(folder)
    state.load(folder, manifest, rank=rank, device=CPU).restore(CPU)
    return manifest


@pytest.fixture
def saved(tmp_path):
    """A folder with a state after three steps. Tests may write into it."""
    state = make_state()
    train(state, 3)
    save(state, tmp_path / "state", steps=3)
    return tmp_path / "state"


def refused(folder, message, state=None):
    """Loading says one line, and changes nothing: neither the objects nor what is drawn next."""
    state = state or make_state(seed=1)
    before, drawn = everything(state), (random.getstate(), np.random.get_state()[2], torch.get_rng_state())
    with pytest.raises(CheckpointError, match=message) as caught:
        load(state, folder)
    assert "\n" not in str(caught.value)
    assert everything(state) == before
    assert random.getstate() == drawn[0]
    assert np.random.get_state()[2] == drawn[1]
    assert torch.equal(torch.get_rng_state(), drawn[2])


# ------------------------------------------------------------------------------------------------ there and back


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle", "multi_step"])
@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_loaded_state_goes_on_as_the_saved_one_does(tmp_path, optimizer, average, schedule):
    options = {"optimizer": optimizer, "average": average, "schedule": schedule}
    state, other = make_state(**options), make_state(**options, seed=1)
    train(state, 4)
    random.gauss(0, 1)  # draws one ahead
    np.random.standard_normal()
    save(state, tmp_path / "state", steps=4)
    expected = everything(state)
    drawn = [random.gauss(0, 1), np.random.standard_normal(3).tolist(), torch.rand(3).tolist()]
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    manifest = load(other, tmp_path / "state")
    assert everything(other) == expected
    assert manifest.progress == Progress(batch=4, step=4, best_score=0.1 + 0.2, batches_per_epoch=7, seconds=1 / 3)
    assert drawn == [random.gauss(0, 1), np.random.standard_normal(3).tolist(), torch.rand(3).tolist()]
    torch.manual_seed(0)
    train(state, 3)
    torch.manual_seed(0)
    train(other, 3)
    assert everything(other) == everything(state)


def test_moments_have_the_memory_layout_of_their_parameters(tmp_path):
    state, other = make_state(), make_state(seed=1)
    for each in (state, other):
        each.module.first.to(memory_format=torch.channels_last)
    train(state, 2)
    save(state, tmp_path / "state", steps=2)
    load(other, tmp_path / "state")
    weight = other.module.first.weight
    assert other.optimizer.state[weight]["exp_avg"].stride() == weight.stride()
    assert everything(other) == everything(state)


def test_a_state_before_the_first_step_can_be_loaded(tmp_path):
    save(make_state(), tmp_path / "state", steps=0)
    other = make_state(seed=1)
    load(other, tmp_path / "state")
    assert everything(other) == everything(make_state())


def test_every_process_has_random_numbers_of_its_own(tmp_path):
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        random.seed(seed)
        states.append(RandomState.of_now(CPU))
    state = make_state()
    (tmp_path / "state").mkdir()
    state.save(tmp_path / "state", Progress(), states)
    for rank, seed in ((0, 1), (1, 2)):
        load(state, tmp_path / "state", rank)
        assert torch.rand(1).item() == torch.rand(1, generator=torch.Generator().manual_seed(seed)).item()
        assert random.random() == random.Random(seed).random()


def test_a_device_whose_random_numbers_cannot_go_on_is_told_of(tmp_path, caplog):
    numbers = dataclasses.replace(RandomState.of_now(CPU).numbers, device="cuda")
    tensors = {**RandomState.of_now(CPU).tensors, "device": torch.zeros(16, dtype=torch.uint8)}
    state = make_state()
    (tmp_path / "state").mkdir()
    state.save(tmp_path / "state", Progress(), [RandomState(tensors, numbers)])
    load(state, tmp_path / "state")
    assert "saved on cuda and goes on on cpu" in caplog.text


# ------------------------------------------------------------------------------------------------ damaged


def flip(path, position, bit=0):
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


FILES = ["model.safetensors", "optimizer.safetensors", "average.safetensors", "random.safetensors", "manifest.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found_wherever_it_is(saved, name):
    path = saved / name
    content = path.read_bytes()
    size = len(content)
    # Length of the header, header, its end, data, and a sample of the rest.
    positions = {0, 7, 8, 9, size // 2, size - 1, *random.Random(0).sample(range(size), 20)}
    for position in sorted(positions):
        flip(path, position, bit=position % 8)
        refused(saved, rf"{name}")
        path.write_bytes(content)
    load(make_state(seed=1), saved)


def test_any_byte_of_the_manifest_counts(saved):
    path = saved / "manifest.json"
    content = path.read_bytes()
    for position in random.Random(0).sample(range(len(content)), 200):
        flip(path, position, bit=position % 8)
        with pytest.raises(CheckpointError, match=r"manifest\.json|safetensors"):
            read_manifest(saved)
        path.write_bytes(content)
    for text in (content + b" ", content + b"\n", b" " + content, content.replace(b"\n", b"\r\n"), content[:-1], b""):
        path.write_bytes(text)
        with pytest.raises(CheckpointError, match="manifest.json is damaged"):
            read_manifest(saved)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_or_gone_or_grown_is_named(saved, name):
    path = saved / name
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", content[:-1], content + b"\0"):
        path.write_bytes(damaged)
        refused(saved, f"{name} is damaged")
    path.unlink()
    refused(saved, f"{name} is missing")


@pytest.mark.parametrize("name", ["notes.txt", "optimizer.bin", ".hidden", "model_1.safetensors"])
def test_a_file_too_many_is_named(saved, name):
    (saved / name).write_text("x")
    refused(saved, f"{name} does not belong")


@pytest.mark.parametrize("name", FILES)
def test_links_are_not_read(saved, name, tmp_path):
    (saved / name).rename(tmp_path / name)
    (saved / name).symlink_to(tmp_path / name)
    refused(saved, f"{name} is a link")


def test_a_state_that_is_a_link_is_not_read(saved, tmp_path):
    (tmp_path / "link").symlink_to(saved)
    refused(tmp_path / "link", "link is a link")


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file_is_not_read(saved, name):
    (saved / name).unlink()
    os.mkfifo(saved / name)  # reading it would wait for ever
    refused(saved, f"{name} is a link or not a file")


def test_a_folder_that_is_none_is_no_state(tmp_path):
    refused(tmp_path / "nothing", "no state to resume from")


# ------------------------------------------------------------------------------------------------ hostile


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


OF_EARLIER_VERSIONS = [
    *("optimizer.bin", "scheduler.bin", "sampler.bin", "dl_state_dict.bin", "pytorch_model.bin", "scaler.pt"),
    *("random_states_0.pkl", "custom_checkpoint_0.pkl", "custom_checkpoint_1.pkl", "custom_checkpoint_2.pkl"),
]


@pytest.mark.parametrize("with_manifest", [True, False])
@pytest.mark.parametrize("write", [pickle.dumps, torch.save])
def test_nothing_is_unpickled(saved, tmp_path, write, with_manifest):
    exploded = tmp_path / "exploded"
    pickle.loads(pickle.dumps(Bomb(exploded)))
    exploded.unlink()  # the bomb works
    for name in OF_EARLIER_VERSIONS:
        if write is torch.save:
            torch.save(Bomb(exploded), saved / name)
        else:
            (saved / name).write_bytes(write(Bomb(exploded)))
    if not with_manifest:
        (saved / "manifest.json").unlink()
    refused(saved, "does not belong" if with_manifest else "by an earlier version as a pickle")
    for name in FILES:
        (saved / name).write_bytes(pickle.dumps(Bomb(exploded)))
    for name in OF_EARLIER_VERSIONS:
        (saved / name).unlink()
    refused(saved, "manifest.json is damaged")
    assert not exploded.exists()


def forge(folder, change=lambda values: None):
    """Let the manifest say something else, as somebody who knows its checksums would."""
    values = json.loads((folder / "manifest.json").read_text())
    values["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in values["files"]}
    change(values)
    for checksum in ("", hashlib.sha256(json.dumps({**values, "checksum": ""}, indent=1).encode()).hexdigest()):
        (folder / "manifest.json").write_text(json.dumps({**values, "checksum": checksum}, indent=1))


def setter(*path, value):
    def change(values):
        for part in path[:-1]:
            values = values[part]
        values[path[-1]] = value

    return change


def test_a_forged_manifest_is_read_if_all_is_right(saved):
    forge(saved)
    load(make_state(seed=1), saved)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), 2, "is of format 2, and this version reads 1"),
        (("progress", "step"), -1, "progress.step"),
        (("progress", "step"), 3.0, "progress.step"),
        (("progress", "step"), "3", "progress.step"),
        (("progress", "step"), 2**60, "progress.step"),
        (("progress", "step"), 4, "lr is .* at step 4"),
        (("progress", "seconds"), math.nan, "progress.seconds|damaged"),
        (("progress", "best_score"), math.inf, "progress.best_score"),
        (("progress", "evaluated"), 1, "progress.evaluated"),
        (("optimizer", 0, "lr"), 1e9, "lr is 1000000000.0 at step 3"),
        (("optimizer", 0, "lr"), True, "lr is True"),
        (("optimizer", 0, "weight_decay"), 0.5, "weight_decay is 0.5"),
        (("optimizer",), [], "other groups"),
        (("optimizer", 0), {}, "other groups"),
        (("average",), None, "other groups"),
        (("average", "decay"), 0.5, "decay is 0.5"),
        (("average", "optimization_step"), 99, "optimization_step is 99"),
        (("random", 0, "numpy_position"), 625, "numpy_position"),
        (("random", 0, "device"), "cuda", "random.safetensors"),
        (("random", 0, "device"), "cpu", "random.safetensors"),
        (("random", 0, "device"), "\x1b[2J", "random.0.device"),
        (("random",), [], "random.safetensors"),
        (("more",), 1, "more"),
        (("files", "model.safetensors"), "0" * 64, "model.safetensors is damaged"),
        (("files", "../state/model.safetensors"), "0" * 64, "model.safetensors is missing"),
        (("files", "/etc/passwd"), "0" * 64, "/etc/passwd is missing"),
    ],
    ids=str,
)
def test_what_a_manifest_says_is_checked(saved, path, value, message):
    forge(saved, setter(*path, value=value))
    refused(saved, message)


def test_a_state_with_the_numbers_of_the_average_of_diffusers_is_read(saved):
    """As versions before this one wrote it."""
    more = {"min_decay": 0.0, "update_after_step": 0, "use_ema_warmup": False, "inv_gamma": 1.0, "power": 2 / 3}
    forge(saved, lambda values: values["average"].update(more))
    state = make_state(seed=1)
    load(state, saved)
    assert state.average.steps == 3


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"format": 1}', "{}", "null", "9" * 5000, '{"format": 1e400}', "\xff"]
)
def test_what_is_no_manifest_is_damaged(saved, text):
    (saved / "manifest.json").write_bytes(text.encode("latin1"))
    refused(saved, "manifest.json is damaged")


def test_a_manifest_of_a_gigabyte_is_not_read(saved):
    with (saved / "manifest.json").open("r+b") as file:
        file.truncate(2**30)
    refused(saved, "manifest.json is damaged: it has 1,073,741,824 bytes")


@pytest.mark.parametrize("name", FILES[:4])
def test_tensors_of_a_gigabyte_are_not_read(saved, name):
    with (saved / name).open("r+b") as file:
        file.truncate(2**30)
    refused(saved, f"{name} is damaged: it has 1,073,741,824 bytes")


TENSORS = {
    "another shape": lambda tensors, key: {**tensors, key: torch.zeros(7, 7)},
    "another type": lambda tensors, key: {**tensors, key: tensors[key].double()},
    "one less": lambda tensors, key: {name: tensor for name, tensor in tensors.items() if name != key},
    "one more": lambda tensors, key: {**tensors, "0.more": torch.zeros(1)},
    "other names": lambda tensors, key: {f"x{name}": tensor for name, tensor in tensors.items()},
    "nothing": lambda tensors, key: {},
}


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("model.safetensors", "first.weight"),
        ("optimizer.safetensors", "1.exp_avg"),
        ("optimizer.safetensors", "1.step"),
        ("average.safetensors", "0"),
        ("random.safetensors", "0.python"),
        ("random.safetensors", "0.numpy"),
        ("random.safetensors", "0.torch"),
    ],
)
@pytest.mark.parametrize("change", TENSORS)
def test_tensors_are_those_of_the_network_or_none_is_loaded(saved, name, key, change):
    changed = {part: tensor.contiguous() for part, tensor in TENSORS[change](load_file(saved / name), key).items()}
    save_file(changed, saved / name)
    forge(saved)
    if (name, change) == ("optimizer.safetensors", "nothing"):
        load(make_state(), saved)  # as before the first step
    else:
        refused(saved, name)


@pytest.mark.parametrize("key", ["0.python", "0.numpy", "0.torch"])
@pytest.mark.parametrize("value", [-1, 2**40, 255])
def test_random_states_that_are_none_are_refused(saved, key, value):
    tensors = load_file(saved / "random.safetensors")
    value = value % 256 if key == "0.torch" else value
    save_file({**tensors, key: torch.full_like(tensors[key], value)}, saved / "random.safetensors")
    forge(saved)
    if key != "0.torch" and value == 255:
        load(make_state(), saved)  # any numbers will do
    else:
        refused(saved, "random.safetensors holds no state of random numbers")


def test_the_state_of_another_loop_is_refused(saved):
    refused(saved, r"names average\.safetensors", make_state(average=False))
    refused(saved, r"first\.bias.* of shape \[3\], .* of shape \[5\]", make_state(channels=5))
    refused(saved, "momentum|lr is", make_state("sgd"))


def test_a_failed_load_can_be_followed_by_a_good_one(saved, tmp_path):
    good = tmp_path / "good"
    good.mkdir()
    for name in FILES:
        (good / name).write_bytes((saved / name).read_bytes())
    flip(saved / "average.safetensors", -1)
    state, expected = make_state(seed=1), make_state(seed=2)
    refused(saved, "average", state)
    load(state, good)
    load(expected, good)
    assert everything(state) == everything(expected)
    assert copy.deepcopy(state.schedule.get_last_lr()) == expected.schedule.get_last_lr()
