"""What a run tells Accelerate of its processes."""

from datetime import timedelta

import pytest
import torch
from accelerate.state import AcceleratorState

from neumeta_hf.training import Recipe
from neumeta_hf.training.processes import make_accelerator


class Asked(Exception):  # noqa: N818 - it stops before processes are looked for
    pass


@pytest.fixture
def launched(monkeypatch):
    """As one of two processes that a launcher started, in what Accelerate keeps too."""
    launcher = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    for name, value in {**launcher, "MASTER_PORT": "29500", "ACCELERATE_USE_CPU": "true"}.items():
        monkeypatch.setenv(name, value)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("launched")
def test_processes_wait_for_hours_before_they_give_another_one_up(monkeypatch, tmp_path):
    asked = {}

    def init(**options):
        asked.update(options)
        raise Asked

    monkeypatch.setattr(torch.distributed, "init_process_group", init)
    with pytest.raises(Asked):
        make_accelerator(Recipe(), tmp_path)
    assert timedelta(hours=1) < asked["timeout"] < timedelta(days=1)
