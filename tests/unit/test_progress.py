import sys

import pytest

from neumeta_hf import progress
from neumeta_hf.progress import progress_bar, show_progress


@pytest.fixture(autouse=True)
def in_a_file(monkeypatch):
    """As where the standard error goes into a file, with a clock of the test's own."""
    clock = {"now": 0.0}
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock["now"])
    monkeypatch.setattr(progress, "on_terminal", lambda: False)
    yield clock
    show_progress(True)


def test_a_file_gets_a_line_a_minute_and_one_at_the_end(in_a_file, capsys):
    for _ in progress_bar(range(10_000), description="train", unit=" batches"):
        in_a_file["now"] += 0.02  # 200 seconds in all
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("train: ") and "\r" not in line for line in lines)
    assert lines[0].startswith("train: 3000 of 10000 batches in 01:00, 02:20 to go")
    assert lines[-1].startswith("train: 10000 of 10000 batches in 03:20")


def test_a_bar_that_does_not_stay_says_nothing_when_it_was_short(in_a_file, capsys):
    assert list(progress_bar(range(3), description="test", leave=False)) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_a_count_goes_on_from_where_it_was_and_says_what_else_there_is(in_a_file, capsys):
    with progress_bar(total=10, initial=8, description="train") as bar:
        bar.set_postfix({"loss": "0.5"})
        bar.update()
    assert capsys.readouterr().err.startswith("train: 9 of 10 steps in 00:00")


def test_what_ends_early_says_how_far_it_came(in_a_file, capsys):
    def stopped():
        with progress_bar(total=10, description="train") as bar:
            bar.update(4)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert capsys.readouterr().err.startswith("train: 4 of 10 steps")


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_switched_off_says_nothing(terminal, monkeypatch, capsys):
    monkeypatch.setattr(progress, "on_terminal", lambda: terminal)
    show_progress(False)
    assert list(progress_bar(range(3), description="train")) == [0, 1, 2]
    show_progress(True)
    assert list(progress_bar(range(3), description="train", shown=False)) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_that_is_written_over(monkeypatch, capsys):
    monkeypatch.setattr(progress, "on_terminal", lambda: True)
    assert list(progress_bar(range(3), description="train")) == [0, 1, 2]
    assert "\rtrain: " in capsys.readouterr().err


def test_a_log_that_cannot_be_written_does_not_end_the_run(monkeypatch):
    class Full:
        def write(self, text):
            raise OSError("no space left")

        def flush(self):
            raise OSError("no space left")

    monkeypatch.setattr(sys, "stderr", Full())
    assert list(progress_bar(range(3), description="train")) == [0, 1, 2]
