import json

import pytest
from accelerate import Accelerator

from neumeta_hf.errors import RecipeError
from neumeta_hf.training import tracking
from neumeta_hf.training.tracking import JSONLTracker, check_trackers


def entries(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_accelerate_logs_is_one_object_a_line(tmp_path):
    path = tmp_path / "deep" / "log.jsonl"
    accelerator = Accelerator(cpu=True, log_with=[JSONLTracker(path)])
    accelerator.init_trackers("neumeta", config={"seed": 3})
    accelerator.log({"loss": 0.5}, step=7)
    accelerator.log({"loss": 0.25}, step=8)
    accelerator.end_training()
    first, second, third = entries(path)
    assert first["recipe"] == {"seed": 3}
    assert (second["step"], second["loss"]) == (7, 0.5)
    assert (third["step"], third["loss"]) == (8, 0.25)
    assert first["time"] <= third["time"]


def test_an_existing_log_goes_on(tmp_path):
    path = tmp_path / "log.jsonl"
    JSONLTracker(path).log({"loss": 1.0}, step=1)
    JSONLTracker(path).log({"loss": 2.0}, step=2)
    assert [entry["step"] for entry in entries(path)] == [1, 2]


def test_trackers_that_would_silently_do_nothing_are_refused(monkeypatch):
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["tensorboard"])
    check_trackers([])
    check_trackers(["tensorboard"])
    for name in ("wandb", "all", "nonsense"):
        with pytest.raises(RecipeError, match=f"'{name}' is not installed here or unknown .*available: tensorboard"):
            check_trackers(["tensorboard", name])
