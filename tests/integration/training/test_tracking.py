import json
import resource

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


@pytest.mark.parametrize("half", ['{"step": 1}\n{"time": 1.5, "lo', '{"step": 1}\n{', '{"step": 1}\n'])
def test_half_a_line_that_a_machine_left_is_cut_off(tmp_path, half):
    path = tmp_path / "log.jsonl"
    path.write_text(half)
    tracker = JSONLTracker(path)
    tracker.log({"loss": 1.0}, step=2)
    tracker.log({"loss": 1.0}, step=3)
    assert [entry["step"] for entry in entries(path)] == [1, 2, 3]


def test_a_line_that_does_not_fit_on_the_disk_leaves_the_file_as_it_was(tmp_path):
    tracker = JSONLTracker(tmp_path / "log.jsonl")
    tracker.log({"loss": 1.0}, step=1)
    before = tracker.path.read_bytes()
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, most))
    try:
        with pytest.raises(OSError, match=r"too large.*log\.jsonl"):
            tracker.log({"loss": 2.0}, step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert tracker.path.read_bytes() == before
    tracker.log({"loss": 3.0}, step=3)
    assert [entry["step"] for entry in entries(tracker.path)] == [1, 3]


def test_a_log_is_not_written_through_a_link(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    (tmp_path / "log.jsonl").symlink_to(tmp_path / "thesis.txt")
    with pytest.raises(OSError, match="is a link"):
        JSONLTracker(tmp_path / "log.jsonl").log({"loss": 1.0}, step=1)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_log_that_was_removed_or_replaced_is_not_begun_anew(tmp_path):
    output = tmp_path / "run"
    output.mkdir()
    tracker = JSONLTracker(output / "log.jsonl")
    tracker.log({"loss": 1.0}, step=1)
    output.rename(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"log\.jsonl"):
        tracker.log({"loss": 2.0}, step=2)
    assert not output.exists()
    output.mkdir()
    JSONLTracker(output / "log.jsonl").log({"loss": 5.0}, step=5)  # of another run
    with pytest.raises(OSError, match="was replaced"):
        tracker.log({"loss": 2.0}, step=2)
    assert [entry["step"] for entry in entries(output / "log.jsonl")] == [5]


def test_trackers_that_would_silently_do_nothing_are_refused(monkeypatch):
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["tensorboard"])
    check_trackers([])
    check_trackers(["tensorboard"])
    for name in ("wandb", "all", "nonsense"):
        with pytest.raises(RecipeError, match=f"'{name}' is not installed here or unknown .*available: tensorboard"):
            check_trackers(["tensorboard", name])
