"""Examples that are no benchmarks, each run on a tiny network."""

import json
import os
import re
import socket
import subprocess
import sys

import pytest
from example_scripts import EXAMPLES, load_script
from transformers import AutoModelForImageClassification

from neumeta_hf import NeuMetaModel, example
from target_axes import num_channels

TINY = (
    "target.config={embedding_size: 4, hidden_sizes: [4, 8], depths: [1, 1], layer_type: basic}",
    "pretrain.epochs=1",
    "train.epochs=1",
    "statistics_images=64",
)


def test_stock_resnets_are_trained_morphed_reloaded_and_run_in_a_pipeline(tmp_path, monkeypatch, capsys):
    script = load_script("stock_resnet18.py")
    overrides = [f"--set={override}" for override in TINY]
    folders = ["--output", str(tmp_path / "run"), "--result", str(tmp_path / "result")]
    monkeypatch.setattr(sys, "argv", ["stock_resnet18.py", *folders, *overrides])
    assert script.main() == 0
    said = capsys.readouterr().out
    for width in script.WIDTHS:
        assert f"width {width:g}: ResNetForImageClassification; the pipeline says" in said
    rows = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert [row["width"] for row in rows] == list(script.WIDTHS)
    assert (tmp_path / "result.png").is_file()
    half = AutoModelForImageClassification.from_pretrained(tmp_path / "run" / "resnet18-0.5")
    assert half.config.hidden_sizes == [2, 4]


def test_all_that_a_first_time_user_wants_is_done_in_one_go(tmp_path, monkeypatch, capsys):
    script = load_script("transfer.py")
    output = tmp_path / "out"
    sizes = ["--images", "40", "--channels", "4", "--epochs", "1"]
    monkeypatch.setattr(sys, "argv", ["transfer.py", "--output", str(output), *sizes])
    assert script.main() == 0
    assert "its logits differ" in capsys.readouterr().out
    own, tuned = (
        AutoModelForImageClassification.from_pretrained(output / name / "reference") for name in ("own", "tuned")
    )
    assert sorted(own.config.id2label.values()) == sorted(script.KNOWN.values())
    assert sorted(tuned.config.id2label.values()) == sorted(script.NEW.values())
    assert tuned.config.hidden_sizes == [2, 4]
    family = NeuMetaModel.from_pretrained(output / "mine")
    assert sorted(family.config.id2label.values()) == sorted(script.NEW.values())
    for group in family.width_groups:  # any size in the trained range, without data
        morph = AutoModelForImageClassification.from_pretrained(output / f"half-{group}")
        assert num_channels(family.target_family, morph.config)[group] < 8
    for name in ("own/reference", "half", "tuned/reference"):
        (row,) = json.loads((output / name / "sweep.json").read_text())["rows"]
        assert 0 <= row["accuracy"] <= 1
    assert (output / "half.onnx").is_file()


def test_the_family_that_comes_with_the_package_can_be_made_again(tmp_path, monkeypatch):
    script = load_script("ship_example.py")
    folders = ["--output", str(tmp_path / "again"), "--runs", str(tmp_path / "run")]
    tiny = ("pretrain.epochs=1", "train.epochs=1", "statistics_widths='0.25:1.0:0.125'", "calibration.images=0")
    overrides = [f"--set={override}" for override in tiny]
    monkeypatch.setattr(sys, "argv", ["ship_example.py", *folders, *overrides])
    assert script.main() == 0
    shipped, again = example("digits-lenet"), tmp_path / "again"
    assert {path.name for path in again.iterdir()} == {path.name for path in shipped.iterdir()}
    families = [NeuMetaModel.from_pretrained(folder) for folder in (shipped, again)]
    assert families[0].config.space == families[1].config.space
    assert families[0].config.hypernetwork == families[1].config.hypernetwork
    texts = [path.read_text(encoding="utf-8") for path in again.iterdir() if path.suffix != ".safetensors"]
    assert not [text for text in texts if str(tmp_path) in text]


# ---------------------------------------------------------------------------------- plain loops, one thing a file


def percentages(capsys, name, *arguments):
    """What a script prints in percent, by line."""
    script = load_script(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *arguments])
        assert script.main() == 0
    said = capsys.readouterr().out.splitlines()
    return {line.split(":")[0]: [float(value) for value in re.findall(r"([\d.]+)%", line)] for line in said}


def test_a_plain_loop_trains_a_family_of_every_width(tmp_path, capsys):
    options = ["--reference-epochs", "3", "--epochs", "3", "--output", str(tmp_path / "plain")]
    found = percentages(capsys, "plain_loop.py", *options)
    widths = [found[f"width {width}"][0] for width in load_script("plain_loop.py").SHOWN]
    assert min(widths) > 60  # ten classes; sliced without training the smallest are below 30
    assert NeuMetaModel.from_pretrained(tmp_path / "plain").morph(width=0.5).num_parameters() < 30_000


def test_distillation_brings_a_family_nearer_to_its_teacher(capsys):
    found = percentages(capsys, "by_feature/distillation.py", "--epochs", "4")
    before, after = zip(*(found[f"width {width}"] for width in (1.0, 0.5, 0.25)), strict=True)
    assert sum(after) >= sum(before)
    assert min(after) > 80


def test_statistics_are_measured_where_none_are_stored(capsys):
    found = percentages(capsys, "by_feature/batchnorm_statistics.py")
    measured = [values[0] for line, values in found.items() if line != "without statistics"]
    assert len(measured) == 4
    assert min(measured) > 95 > found["without statistics"][0]


def test_a_network_in_memory_becomes_a_family(capsys):
    found = percentages(capsys, "by_feature/own_network.py", "--epochs", "2")
    network, full, nearly, *_, half = (values[0] for values in found.values() if values)
    assert full == pytest.approx(network, abs=0.6)
    assert full >= nearly >= half


def test_axes_are_named_by_name_pattern_ratio_and_number(capsys):
    found = percentages(capsys, "by_feature/per_axis.py")
    del found["axes"]
    assert set(found) == set(load_script("by_feature/per_axis.py").SIZES)
    assert min(values[0] for values in found.values()) > 95


def test_two_processes_share_the_data_and_train_one_family(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    environment = {"ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    script = str(EXAMPLES / "by_feature" / "several_processes.py")
    processes = [
        subprocess.Popen(
            [sys.executable, script, "--epochs", "1", "--output", str(tmp_path / "family")],
            env={**os.environ, **environment, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        main, other = (process.communicate(timeout=240)[0] for process in processes)
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0]
    assert other == ""
    assert re.findall(r"(\d+) images", main) == ["1280", "359", "359", "359"]  # each once, whoever sees it
    assert min(float(value) for value in re.findall(r"([\d.]+)%", main)) > 90
    assert NeuMetaModel.from_pretrained(tmp_path / "family").morph(width=0.5).num_parameters() == 13_810


def test_a_budget_is_kept(capsys, monkeypatch):
    script = load_script("by_feature/budget.py")
    # Seconds that no other process disturbs.
    monkeypatch.setattr(script, "seconds", lambda network: network.num_parameters() * 1e-8)
    assert script.main() == 0
    lines = {line.split(":")[0]: line for line in capsys.readouterr().out.splitlines()}
    numbers = [
        [int(n.replace(",", "")) for n in re.findall(r"([\d,]+) (?:par|mul)", line)[-2:]] for line in lines.values()
    ]
    assert [numbers[0][1] <= 100_000, *(row[0] <= 10_000 for row in numbers[1:3])] == [True] * 3
    assert numbers[2][0] <= numbers[1][0]  # fewer sizes to choose from
    assert "width 1," in list(lines.values())[3]
