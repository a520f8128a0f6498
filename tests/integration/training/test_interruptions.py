"""Runs that are killed, told to stop, crowded, or out of disk: nothing is lost or damaged, and one line says it."""

import copy
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from tiny_runs import RECIPE

from neumeta_hf.training.run_folder import LOCK, locked
from neumeta_hf.training.state import read_manifest

DRIVER = Path(__file__).with_name("interruption_driver.py")
KILLS = 10
FILES = {
    *("config.json", "model.safetensors", "preprocessor_config.json", "recipe.yaml", "training.json", "log.jsonl"),
    *("best", "last", "reference", "pretrained", "state", "state-pretrain"),
}


class Driver:
    """Runs commands in forks of one process, `folder / "run"` being the output folder of all of them."""

    def __init__(self, recipe: Path):
        self.recipe = recipe
        self.process = subprocess.Popen(
            [sys.executable, DRIVER, recipe],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        )
        assert self.process.stdout.readline() == "ready\n"

    def ask(self, *argv, **command):
        self.process.stdin.write(json.dumps({"argv": argv, **command}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        assert "Traceback" not in answer["stderr"], answer["stderr"][-3000:]
        return answer

    def train(self, output, *overrides, resume=False, **command):
        """A run; returns exit code, stderr and events."""
        settings = [f"--set={override}" for override in (f"output_dir={output}", *overrides)]
        argv = ["-q", "train", "--config", str(self.recipe), *settings, *(["--resume"] if resume else [])]
        return self.ask(*argv, **command)

    def refuse(self, output, *overrides, **command):
        """A run that fails with exit code 2; returns the one line that says why."""
        answer = self.train(output, *overrides, **command)
        assert answer["code"] == 2, answer["stderr"][-3000:]
        [line] = [line for line in answer["stderr"].splitlines() if line.startswith("neumeta: error: ")]
        return line

    def finish(self, output):
        """Go on with a run as its owner would; returns its folder."""
        has_begun = (output / "recipe.yaml").exists()
        answer = self.train(output, resume=has_begun)
        assert answer["code"] == 0, answer["stderr"][-3000:]
        return output


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    recipe = copy.deepcopy(RECIPE)
    recipe["pretrain"] |= {"batch_size": 431}  # three steps an epoch
    recipe["train"] |= {"batch_size": 431}
    path = tmp_path_factory.mktemp("recipes") / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    made = Driver(path)
    yield made
    made.process.kill()
    made.process.communicate()


@pytest.fixture(scope="module")
def whole(driver, tmp_path_factory):
    """A run that was never interrupted, and its events. Tests must not write into it."""
    output = tmp_path_factory.mktemp("whole") / "run"
    answer = driver.train(output)
    assert answer["code"] == 0
    assert {path.name for path in output.iterdir()} == FILES
    return output, answer["events"]


def paths(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def assert_equal(output, whole):
    """Bit for bit, without a file too many."""
    assert paths(output) == paths(whole)
    weights = sorted(path.relative_to(whole) for path in whole.rglob("*.safetensors"))
    assert len(weights) == 12
    for path in weights:
        assert (output / path).read_bytes() == (whole / path).read_bytes(), path
    for path in ("config.json", "best/config.json", "reference/preparation.json", "recipe.yaml"):
        assert (output / path).read_text().replace(str(output), str(whole)) == (whole / path).read_text(), path
    for line in (output / "log.jsonl").read_text().splitlines():
        json.loads(line)


def assert_intact(output):
    """All that there is under a name of its own is whole; nothing half-written lies about."""
    hidden = {path.name for path in output.rglob(".*")} - {LOCK}
    assert not hidden
    for name in ("state", "state-pretrain"):
        if (output / name).exists():
            read_manifest(output / name)
    for path in output.rglob("*.safetensors"):
        load_file(path)
    for line in (output / "log.jsonl").read_text().splitlines() if (output / "log.jsonl").exists() else []:
        json.loads(line)


# ------------------------------------------------------------------------------------------------ killed


@pytest.mark.parametrize("number", range(KILLS))
def test_a_run_that_is_killed_anywhere_goes_on_and_ends_bit_equal(driver, whole, tmp_path, number):
    expected, events = whole
    moment = random.Random(number).randrange(number * len(events) // KILLS, (number + 1) * len(events) // KILLS) + 1
    output = tmp_path / "run"
    assert driver.train(output, kill=moment)["code"] == -signal.SIGKILL
    assert_equal(driver.finish(output), expected)


@pytest.mark.parametrize("name", ["state", "last"])
def test_a_run_that_is_killed_between_two_renames_goes_on_and_ends_bit_equal(driver, whole, tmp_path, name):
    output = tmp_path / "run"
    # The second time, when there is an old one; at the second of the two renames.
    answer = driver.train(output, at=[[f"os.rename {output}/.{name}.partial", 2, signal.SIGKILL]])
    assert answer["code"] == -signal.SIGKILL
    assert (output / f".{name}.replaced").is_dir()
    assert not (output / name).exists()
    assert_equal(driver.finish(output), whole[0])


def test_a_family_that_is_half_replaced_is_noticed_and_mended(driver, whole, tmp_path):
    output = Path(shutil.copytree(whole[0], tmp_path / "run"))
    config = json.loads((output / "config.json").read_text())
    (output / "config.json").write_text(json.dumps({**config, "weights_digest": "sha256:" + 64 * "0"}))
    answer = driver.ask("-q", "info", str(output))
    assert answer["code"] == 2
    assert "model.safetensors are not those that were saved" in answer["stderr"]
    assert_equal(driver.finish(output), whole[0])


# ------------------------------------------------------------------------------------------------ told to stop


@pytest.mark.parametrize(
    ("number", "code", "step", "state"),
    [(signal.SIGINT, 130, 2, "state-pretrain"), (signal.SIGTERM, 143, 5, "state"), (signal.SIGTERM, 143, 9, "state")],
)
def test_a_signal_ends_the_step_writes_the_state_and_says_how_to_go_on(
    driver, whole, tmp_path, number, code, step, state
):
    output = tmp_path / "run"
    answer = driver.train(output, at=[["optimizer.step", step, number]])
    assert answer["code"] == code
    loop, steps = ("pretrain", step) if step < 4 else ("train", step - 3)
    assert f"{loop} stopped after {steps} steps; --resume goes on from there" in answer["stderr"]
    assert read_manifest(output / state).progress.step == steps
    assert_intact(output)
    assert_equal(driver.finish(output), whole[0])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_all_processes_leaves_the_step_its_data(driver, tmp_path, number, code):
    output = tmp_path / "run"
    answer = driver.train(output, "pretrain.num_workers=1", at=[["optimizer.step", 1, ["all", number]]])
    assert answer["code"] == code
    assert "pretrain stopped after 1 steps" in answer["stderr"]
    assert "worker" not in answer["stderr"]
    assert_intact(output)


def test_a_signal_during_an_evaluation_stops_it_and_it_is_done_again(driver, whole, tmp_path):
    output = tmp_path / "run"
    # As the best one is about to be written.
    answer = driver.train(output, at=[[f"os.mkdir {output}/.best.partial", 1, signal.SIGINT]])
    assert answer["code"] == 130
    assert "train stopped after 3 steps; --resume goes on" in answer["stderr"]
    assert not (output / "best").exists()
    assert_intact(output)
    assert_equal(driver.finish(output), whole[0])


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("open {output}/.recipe.partial", "nothing was written, start it again"),
        ("os.mkdir {output}/.reference.partial", "--resume goes on from the state in {output}/state-pretrain"),
        ("os.mkdir {output}/.family.partial", None),
    ],
)
def test_a_signal_outside_of_steps_ends_the_run_and_says_what_is_left(driver, whole, tmp_path, pattern, left):
    output = tmp_path / "run"
    answer = driver.train(output, at=[[pattern.format(output=output), 1, signal.SIGTERM]])
    if left is None:  # the family is written to its end
        assert answer["code"] == 0
        assert_equal(output, whole[0])
        return
    assert answer["code"] == 143
    assert left.format(output=output) in answer["stderr"]
    if output.exists():
        assert_intact(output)


def test_a_second_signal_stops_at_once(driver, tmp_path):
    output = tmp_path / "run"
    answer = driver.train(output, at=[["optimizer.step", 5, signal.SIGINT], ["optimizer.step", 5, signal.SIGINT]])
    assert answer["code"] == 130
    assert f"--resume goes on from the reference in {output}/reference" in answer["stderr"]
    assert_intact(output)


# ------------------------------------------------------------------------------------------------ no disk, no folder


@pytest.mark.parametrize(
    ("pattern", "times", "limit"),
    [
        (".recipe.partial.yaml", 1, 10),
        ("log.jsonl", 1, 10),
        ("log.jsonl", 5, 10),
        (".reference.partial", 1, 10),
        (".state-pretrain.partial", 2, 2000),
        (".state.partial", 10, 2000),
        (".family.partial", 2, 5000),
        (".training.partial", 2, 10),
    ],
)
def test_a_full_disk_is_one_line_and_what_was_there_is_intact(driver, whole, tmp_path, pattern, times, limit):
    output = tmp_path / "run"
    line = driver.refuse(output, at=[[pattern, times, ["full", limit]]])
    assert "too large" in line.lower()
    if output.exists():
        assert_intact(output)
    if times > 2 or pattern == ".family.partial":
        # Where there is nothing to go on with, it starts again in the same folder.
        answer = driver.train(output, resume=any((output / name).exists() for name in ("state-pretrain", "reference")))
        assert answer["code"] == 0
        assert_equal(output, whole[0])


@pytest.mark.parametrize(
    ("pattern", "times"), [("optimizer.step", 3), ("optimizer.step", 5), (".reference.partial", 1)]
)
def test_a_folder_that_is_removed_under_a_run_is_one_line_and_stays_removed(driver, tmp_path, pattern, times):
    output = tmp_path / "run"
    line = driver.refuse(output, at=[[pattern, times, ["move", str(output)]]])
    assert str(output) in line
    assert not output.exists()


@pytest.mark.parametrize(
    ("argv", "pattern", "limit"),
    [
        (["morph", "{run}", "--width=0.5", "--output={new}"], ".new.partial", 300),
        (["prepare", "{run}/reference", "--output={new}"], ".new.partial", 300),
        (["evaluate", "{run}", "--widths=0.5", "--output={old}/sweep"], "open {old}/.sweep.partial.csv", 10),
    ],
)
def test_other_commands_on_a_full_disk_leave_nothing_half_written(driver, whole, tmp_path, argv, pattern, limit):
    names = {"run": whole[0], "new": tmp_path / "new", "old": tmp_path / "old"}
    names["old"].mkdir()
    for name in ("sweep.json", "sweep.csv", "sweep.png"):
        (names["old"] / name).write_text("old")
    argv = [part.format(**names) for part in argv]
    answer = driver.ask("-q", *argv, at=[[pattern.format(**names), 1, ["full", limit]]])
    assert answer["code"] == 2
    [line] = [line for line in answer["stderr"].splitlines() if line.startswith("neumeta: error: ")]
    assert "too large" in line.lower()
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert {path.name for path in names["old"].iterdir()} == {"sweep.json", "sweep.csv", "sweep.png"}
    assert (names["old"] / "sweep.csv").read_text() == "old"


@pytest.mark.parametrize("output", ["/proc/run", "{tmp_path}/file/run", "{tmp_path}/file"])
def test_a_folder_that_cannot_be_made_is_one_line(driver, tmp_path, output):
    (tmp_path / "file").write_text("mine")
    driver.refuse(output.format(tmp_path=tmp_path))
    assert (tmp_path / "file").read_text() == "mine"


# ------------------------------------------------------------------------------------------------ crowded


def test_a_second_run_in_the_folder_is_one_line(driver, whole, tmp_path):
    output = Path(shutil.copytree(whole[0], tmp_path / "run"))
    before = paths(output)
    with locked(output):
        assert "another run is going on in it" in driver.refuse(output, resume=True)
        assert "another run is going on in it" in driver.refuse(output)
    assert paths(output) == before
    assert_equal(driver.finish(output), whole[0])


def test_a_run_that_failed_early_starts_again_with_its_recipe_mended(driver, whole, tmp_path):
    output = tmp_path / "run"
    broken = ("pretrain.optimizer={name: sgd, learning_rate: 1.0e+30}", "pretrain.evaluate_every=9")
    assert "Lower the learning rate" in driver.refuse(output, *broken)
    assert {path.name for path in output.iterdir()} == {"recipe.yaml", "log.jsonl"}
    assert driver.train(output)["code"] == 0
    assert_equal(output, whole[0])
    assert "is not empty" in driver.refuse(output)


# ------------------------------------------------------------------------------------------------ a stranger's folder


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def stopped(driver, whole, tmp_path):
    """The folder of a run that has a state, and whose family is not there yet."""
    output = Path(shutil.copytree(whole[0], tmp_path / "run"))
    for name in ("config.json", "model.safetensors", "preprocessor_config.json", "training.json"):
        (output / name).unlink()
    return output


def test_a_run_folder_from_a_stranger_runs_nothing(driver, stopped, tmp_path):
    exploded = tmp_path / "exploded"
    names = ["optimizer.bin", "scheduler.bin", "random_states_0.pkl", "pytorch_model.bin"]
    names += [f"custom_checkpoint_{number}.pkl" for number in range(3)]
    (stopped / "state" / "manifest.json").unlink()
    for name in names:
        (stopped / "state" / name).write_bytes(pickle.dumps(Bomb(exploded)))
    line = driver.refuse(stopped, resume=True)
    assert f"{stopped}/state/custom_checkpoint_0.pkl was written by an earlier version" in line
    assert f"Remove {stopped}/state, and --resume starts train anew" in line
    assert not exploded.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "random.safetensors", "manifest.json"])
def test_a_damaged_state_is_one_line_and_can_be_left_behind(driver, whole, stopped, name):
    path = stopped / "state" / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    line = driver.refuse(stopped, resume=True)
    assert f"{path} is damaged" in line
    assert f"Remove {stopped}/state, and --resume starts train anew" in line
    if name == "manifest.json":
        shutil.rmtree(stopped / "state")
        assert_equal(driver.finish(stopped), whole[0])


@pytest.fixture
def stranger(tmp_path):
    """A folder that links lead to, and that stays as it is."""
    folder = tmp_path / "stranger"
    folder.mkdir()
    for name in ("thesis.txt", "log.jsonl", "recipe.yaml"):
        (folder / name).write_text("mine: 1\n")
    yield folder
    assert {path.name: path.read_text() for path in folder.iterdir()} == dict.fromkeys(
        ("thesis.txt", "log.jsonl", "recipe.yaml"), "mine: 1\n"
    )


def test_links_where_a_run_writes_are_removed_themselves(driver, whole, stopped, stranger):
    shutil.rmtree(stopped / "state")  # so that all is written once more
    for name in ("family", "state", "best", "last"):
        (stopped / f".{name}.partial").symlink_to(stranger)
    (stopped / ".training.partial.json").symlink_to(stranger / "thesis.txt")
    assert_equal(driver.finish(stopped), whole[0])


@pytest.mark.parametrize(
    "name",
    ["family.partial", "state.partial", ".state.replaced", "state", "best", "reference", "log.jsonl", "recipe.yaml"],
)
def test_a_link_in_a_run_folder_is_refused_by_name(driver, stopped, stranger, name):
    path = stopped / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(stranger / name if path.suffix in (".jsonl", ".yaml") else stranger)
    before = paths(stopped)
    assert f"{name} is a link" in driver.refuse(stopped, resume=True)
    assert paths(stopped) == before
