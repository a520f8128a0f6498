"""Loaders whose processes live on: they follow the epoch, take no random numbers, and end with their parent."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from neumeta_hf.data import DataConfig, ImageSplit
from neumeta_hf.data.splits import ArraySource
from neumeta_hf.data.workers import WithSharedEpoch, begin_pass, make_loader

CPU = torch.device("cpu")


@pytest.fixture
def split():
    pixels = torch.randint(0, 256, (20, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    config = DataConfig(image_size=16, num_channels=3, mean=[0.1] * 3, std=[0.5] * 3, augmentation="crop_flip")
    return ImageSplit(ArraySource(pixels, torch.arange(20)), np.arange(20), config, augmented=True, name="train")


class Processes:
    """Batches that are the number of the process that made them, which is told to stop while it does."""

    def __len__(self):
        return 4

    def __getitems__(self, positions):
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        return {"process": torch.full((len(positions),), os.getpid())}


def test_workers_that_live_on_follow_the_epoch(split):
    shared = WithSharedEpoch(split)
    loader = make_loader(shared, num_workers=2, device=CPU, batch_size=8)
    for epoch in (0, 3, 1):
        shared.set_epoch(epoch)
        seen = torch.cat([batch["pixel_values"] for batch in loader])
        split.set_epoch(epoch)
        assert torch.equal(seen, split.__getitems__(range(20))["pixel_values"])


def test_an_abandoned_pass_leaves_nothing_to_the_next(split):
    shared = WithSharedEpoch(split)
    loader = make_loader(shared, num_workers=2, device=CPU, batch_size=2)
    shared.set_epoch(0)
    next(iter(loader))
    shared.set_epoch(1)
    seen = torch.cat([batch["pixel_values"] for batch in loader])
    assert torch.equal(seen, split.__getitems__(range(20))["pixel_values"])


def test_every_pass_has_the_same_processes_whatever_signals_they_get():
    loader = make_loader(Processes(), num_workers=2, device=CPU, batch_size=1)
    passes = [{int(batch["process"]) for batch in loader} for _ in range(2)]
    assert len(passes[0]) == 2
    assert passes[0] == passes[1]
    assert os.getpid() not in passes[0]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_passes_take_from_the_global_random_numbers_what_a_plain_loader_takes(split, num_workers):
    torch.manual_seed(0)
    for _ in range(2):
        list(DataLoader(split, collate_fn=lambda batch: batch))
    expected = torch.rand(3)
    loader = make_loader(split, num_workers=num_workers, device=CPU, batch_size=8)
    torch.manual_seed(0)
    for _ in range(2):
        begin_pass()
        list(loader)
    assert torch.equal(torch.rand(3), expected)


def test_memory_is_pinned_for_cuda_alone(split):
    assert make_loader(split, num_workers=0, device=torch.device("cuda"), batch_size=8).pin_memory
    assert not make_loader(split, num_workers=0, device=CPU, batch_size=8).pin_memory


@pytest.mark.parametrize("end", ["", "raise RuntimeError"])
def test_a_process_ends_while_its_workers_live(end):
    script = f"""
import torch
from neumeta_hf.data.workers import make_loader

class Ones:
    def __len__(self):
        return 4
    def __getitems__(self, positions):
        return torch.ones(len(positions))

loader = make_loader(Ones(), num_workers=2, device=torch.device("cpu"), batch_size=1)
passing = iter(loader)
next(passing)
{end}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=180)
    assert done.returncode == bool(end), done.stderr
