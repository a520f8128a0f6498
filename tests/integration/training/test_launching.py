"""Training as a user starts it: as a process, with a recipe and overrides."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

from neumeta_hf import NeuMetaModel

ROOT = Path(__file__).parents[3]
RECIPE = ROOT / "examples" / "recipes" / "digits_lenet.yaml"
TINY = [
    "target.config={hidden_channels: [4, 6, 8], kernel_size: 3, image_size: 8}",
    "sizes.widths=[0.5, 0.75, 1.0]",
    "validation_widths=[0.5, 1.0]",
    "family.coordinate_noise=0.5",
    "pretrain.epochs=1",
    "train.epochs=2",
    "train.evaluate_every=1",
]


def start(*command, output, overrides=(), resume=False):
    """Run a training command; returns what it said."""
    settings = [f"--set={setting}" for setting in (*TINY, f"output_dir={output}", *overrides)]
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        [*command, "--config", str(RECIPE), *settings, *(["--resume"] if resume else [])],
        env=environment,
        cwd=output.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def check_family(output):
    family = NeuMetaModel.from_pretrained(output)
    images = torch.rand(2, 1, 8, 8)
    for width in (0.5, 0.6, 1.0):
        morph = family.morph(width)
        assert morph(images).logits.shape == (2, 10)
        morph.save_pretrained(output.parent / f"morph-{width}")
        reloaded = AutoModelForImageClassification.from_pretrained(output.parent / f"morph-{width}")
        assert torch.equal(reloaded(images).logits, morph(images).logits)


TORCHRUN = ("torchrun", "--nproc_per_node=2", "--master_port=0", "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0")


def assert_equal(first, second):
    for name in ("model", "last/model", "state/model"):
        tensors, others = (load_file(folder / f"{name}.safetensors") for folder in (first, second))
        assert list(tensors) == list(others)
        for key, tensor in tensors.items():
            assert torch.equal(tensor, others[key]), (name, key)


def test_accelerate_launch_and_the_command_train_the_same_family(tmp_path):
    launch = ("accelerate", "launch", "--num_processes=1", "--mixed_precision=no", "--dynamo_backend=no", "--cpu")
    example, command = tmp_path / "example", tmp_path / "command"
    said = start(*launch, str(ROOT / "examples" / "train.py"), output=example)
    assert f"family saved in {example}" in said
    said = start("neumeta", "train", output=command)
    assert f"family saved in {command}" in said
    assert_equal(example, command)
    check_family(command)


def test_two_processes_train_stop_and_resume(tmp_path):
    script = str(ROOT / "examples" / "train.py")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    said = start(*TORCHRUN, script, output=whole)
    assert said.count("family saved in") == 1
    said = start(*TORCHRUN, script, output=parts, overrides=["train.stop_after_steps=4"])
    assert "stopped after 4 steps" in said
    assert not (parts / "model.safetensors").exists()
    start(*TORCHRUN, script, output=parts, resume=True)
    assert_equal(whole, parts)
    check_family(whole)
