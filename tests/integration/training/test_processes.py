"""Two processes on one machine train what one process would."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from two_processes import make_loop, three_steps

from neumeta_hf import NeuMetaModel, load_recipe
from neumeta_hf.data import load_image_data
from neumeta_hf.errors import RecipeError
from neumeta_hf.training.state import read_manifest
from neumeta_hf.training.statistics import store_statistics

SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    output = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, output],
            env={
                **os.environ,
                "ACCELERATE_USE_CPU": "true",
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": port,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "OMP_NUM_THREADS": "1",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        for process in processes:
            _, said = process.communicate(timeout=120)
            if process.returncode:
                pytest.fail(said[-2000:], pytrace=False)
    finally:
        for process in processes:
            process.kill()
    return output


def assert_equal(first, second):
    assert list(first) == list(second)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_both_processes_hold_the_same_bits(folder):
    assert_equal(*(load_file(folder / f"three-2-{rank}.safetensors") for rank in (0, 1)))
    assert_equal(*(load_file(folder / f"run-{rank}.safetensors") for rank in (0, 1)))


def test_two_processes_share_a_stream_and_go_on_with_it(folder):
    seen = [json.loads((folder / f"stream-{rank}.json").read_text()) for rank in (0, 1)]
    blocks = [{tuple(block) for block in part["whole"]} for part in seen]
    assert [len(part) for part in blocks] == [32, 32]
    assert not blocks[0] & blocks[1]
    for part in seen:
        assert part["parts"] == part["whole"]
    weights = [load_file(folder / f"stream-{rank}.safetensors") for rank in (0, 1)]
    assert_equal(*weights)
    assert torch.equal(weights[0]["parts"], weights[0]["whole"])


def test_two_processes_equal_one_with_the_joint_batch(folder, tmp_path):
    three_steps(tmp_path, Accelerator(cpu=True))
    one, two = load_file(tmp_path / "three-1-0.safetensors"), load_file(folder / "three-2-0.safetensors")
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], atol=1e-6), name


def test_a_signal_to_one_process_stops_both_at_the_same_step_and_both_go_on_bit_equal(folder):
    stopped = [json.loads((folder / f"stopped-{rank}.json").read_text()) for rank in (0, 1)]
    assert stopped == [[3, signal.SIGTERM]] * 2  # of the second step, at the end of the epoch
    for rank in (0, 1):
        assert_equal(*(load_file(folder / f"{name}-{rank}.safetensors") for name in ("whole", "parts")))


def test_a_state_holds_the_random_numbers_of_every_process_and_is_of_as_many(folder, tmp_path):
    manifest = read_manifest(folder / "state-parts")
    assert len(manifest.random) == 2
    shutil.copytree(folder / "state-parts", tmp_path / "state-parts")
    with pytest.raises(RecipeError, match=r"with 2 process\(es\) .* now 1 process.*: resume with as many processes"):
        make_loop(tmp_path, Accelerator(cpu=True), name="parts", epochs=2).run(resume=True)


def test_sizes_agree_and_noise_differs(folder):
    first, second = (json.loads((folder / f"draws-{rank}.json").read_text()) for rank in (0, 1))
    assert len(first) == len(second) == 18
    assert [size for size, _ in first] == [size for size, _ in second]
    seeds = [options["seed"] for _, options in first + second]
    assert len(set(seeds)) == len(seeds)
    assert {options["noise"] for _, options in first + second} == {0.5}


def test_one_log_and_every_width_once(folder):
    entries = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    validations = [entry for entry in entries if "train/validation/accuracy" in entry]
    assert [entry["step"] for entry in validations] == [6]
    assert {f"train/validation/accuracy@{width}" for width in ("0.5", "0.75", "1")} <= set(validations[0])


def test_shared_work_is_whole_and_in_order_everywhere_and_fails_as_one(folder):
    first, second = (json.loads((folder / f"shared-{rank}.json").read_text()) for rank in (0, 1))
    letters = [["a", 0], ["b", 1], ["c", 0], ["d", 1], ["e", 0]]
    assert first == second == [letters, letters[:1], [], "of the second process"]


def test_two_processes_store_the_statistics_and_images_that_one_would(folder):
    recipe = load_recipe(folder / "run" / "recipe.yaml")
    one, two = (NeuMetaModel.from_pretrained(folder / "run" / name) for name in ("best", "."))
    store_statistics(recipe, one, load_image_data(recipe.data).train, Accelerator(cpu=True))
    assert len(one.config.statistics_widths) == 3
    assert two.config.statistics_widths == one.config.statistics_widths
    assert_equal(one.state_dict(), two.state_dict())
    assert {name.partition(".")[0] for name in two.state_dict()} >= {"statistics", "calibration"}
