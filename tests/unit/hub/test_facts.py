"""What the files of a run say is checked where it is read: each number in its range, each text of bounded length."""

import copy
import json
from pathlib import Path

import pytest

from neumeta_hf.errors import CheckpointError
from neumeta_hf.hub.facts import check_sweep, check_training, without_folders
from neumeta_hf.hub.run_files import read_processor, read_sweep, read_table, read_training

RESULTS = Path(__file__).parents[3] / "docs" / "results"
SWEEPS = [path for path in sorted(RESULTS.glob("*.json")) if "reference" in json.loads(path.read_text())]

ROW = {
    "width": 0.5,
    "accuracy": 0.9,
    "loss": 0.3,
    "num_parameters": 10,
    "macs": 20,
    "compression_rate": 0.5,
    "trained": True,
    "in_range": True,
}
SWEEP = {
    "facts": {
        "score": {"name": "accuracy", "label": "accuracy", "is_ratio": True, "hub_name": "accuracy"},
        "dataset": "mnist",
        "split": "test",
        "num_images": 300,
        "num_samples": 1,
        "noise": 0.0,
        "seed": 0,
        "calibrated": None,
        "device": "cpu",
        "date": "2026-01-02",
        "versions": {"torch": "2.13.0", "diffusers": None},
        "training": {"seed": 0},
    },
    "reference": {**ROW, "width": 1.0},
    "rows": [ROW, {**ROW, "width": {"conv1": 0.5, "conv2": 1}, "loss": None}],
}
TRAINING = {
    "environment": {"device": "cpu", "cores": 2, "date": "2026-01-02", "versions": {"torch": "2.13.0"}, "threads": 1},
    "seconds": {"train": 20.5},
    "seed": 3,
    "mixed_precision": "no",
    "num_parameters": {"reference": 12},
}

NUMBERS = [True, "1", [1], {"a": 1}, float("nan"), float("inf"), 10**400]
TEXTS = [5, ["cpu"], "x" * 201]
MANY = {str(number): "1" for number in range(65)}
SWEEP_FAULTS = {
    "rows.0.accuracy": [952, -0.1, 1.0001, *NUMBERS],
    "reference.accuracy": [952, -0.1, *NUMBERS],
    "rows.1.loss": NUMBERS,
    "rows.0.num_parameters": [-1, 1.5, None, *NUMBERS],
    "rows.0.macs": [-1, 2**63, None, *NUMBERS],
    "rows.0.compression_rate": [1.5, None, *NUMBERS],
    "rows.0.trained": [1, "yes", None],
    "rows.0.in_range": [0, None],
    "rows.0.width": [0, -1, 4.5, None, {}, True, "0.5", [0.5], float("nan")],
    "rows.1.width": [{"conv1": 0}, {"conv1": "0.5"}, {"conv1": float("nan")}, {"c" * 201: 0.5}],
    "rows.0": [None, [], "row", 5],
    "rows": [[], {}, None, [{**ROW, "width": (number + 1) / 5_001} for number in range(10_001)]],
    "reference": [[], "none", {}, 5],
    "facts": [None, [], "facts"],
    "facts.num_images": [-1, 0.5, None, *NUMBERS],
    "facts.num_samples": [-1, 1.5, *NUMBERS],
    "facts.noise": [-0.1, None, *NUMBERS],
    "facts.seed": [-1, 2**63, 0.5, None, *NUMBERS],
    "facts.calibrated": [-1, 0.5, *NUMBERS],
    "facts.dataset": TEXTS,
    "facts.split": TEXTS,
    "facts.device": TEXTS,
    "facts.date": TEXTS,
    "facts.versions": [[], "2.13", {"torch": 2.13}, {"torch": "2" * 201}, {"t" * 201: "2"}, MANY],
    "facts.score": [None, "accuracy", {}, {"name": "accuracy"}, {"label": "accuracy"}],
    "facts.score.name": ["width", "macs", "num_parameters", "trained", "", 5, "n" * 65],
    "facts.score.label": ["", 5, None, "l" * 101],
    "facts.score.is_ratio": ["yes", 1, None],
    "facts.score.larger_is_better": ["no", 0],
    "facts.score.hub_name": TEXTS,
    "facts.score.more": [1],
}  # fmt: skip
TRAINING_FAULTS = {
    "seed": [-1, 0.5, None, *NUMBERS],
    "seconds": [[], {"train": -1}, {"train": "20"}, {"train": float("nan")}, {"train": float("inf")}, {"t" * 201: 1}],
    "environment": [None, [], {}],
    "environment.device": [*TEXTS, None],
    "environment.date": [*TEXTS, None],
    "environment.cores": [-1, 0.5, True, "2"],
    "environment.versions": [[], {"torch": 2}, None],
    "environment.command": [5, ["neumeta"]],
    "num_parameters": [{"reference": -1}, {"reference": 0.5}, []],
    "mixed_precision": TEXTS,
}


def spoilt(values, place, value):
    values = copy.deepcopy(values)
    *path, leaf = [int(part) if part.isdigit() else part for part in place.split(".")]
    node = values
    for part in path:
        node = node[part]
    node[leaf] = value
    return values


def cases(faults):
    return [
        pytest.param(place, value, id=f"{place}-{index}")
        for place, values in faults.items()
        for index, value in enumerate(values)
    ]


@pytest.mark.parametrize(("place", "value"), cases(SWEEP_FAULTS))
def test_a_sweep_that_says_what_none_does_is_refused_by_name(place, value):
    check_sweep(SWEEP, "sweep.json")
    name = next(part for part in reversed(place.split(".")) if not part.isdigit())
    with pytest.raises(CheckpointError, match=rf"^sweep\.json.*({name}|row).*remove it, or write it anew"):
        check_sweep(spoilt(SWEEP, place, value), "sweep.json")


@pytest.mark.parametrize(("place", "value"), cases(TRAINING_FAULTS))
def test_facts_of_training_that_no_run_writes_are_refused_by_name(place, value):
    check_training(TRAINING, "training.json")
    with pytest.raises(CheckpointError, match=rf"^training\.json.*{place.split('.')[-1]}.*write it anew"):
        check_training(spoilt(TRAINING, place, value), "training.json")


@pytest.mark.parametrize("key", ["width", "accuracy", "num_parameters", "macs", "trained", "in_range"])
def test_what_a_row_must_say_is_missed(key):
    row = {name: value for name, value in ROW.items() if name != key}
    with pytest.raises(CheckpointError, match=rf"row 1 .*{key} is missing"):
        check_sweep({**SWEEP, "rows": [row]}, "sweep.json")


@pytest.mark.parametrize(
    "widths", [(0.5, 0.5), (1, 1.0), ({"conv1": 0.5, "conv2": 1}, {"conv2": 1.0, "conv1": 0.5})], ids=str
)
def test_two_rows_are_not_of_one_width(widths):
    rows = [{**ROW, "width": width} for width in (0.25, *widths)]
    with pytest.raises(CheckpointError, match="rows 2 and 3 are of one width"):
        check_sweep({**SWEEP, "rows": rows}, "sweep.json")


def test_a_score_that_is_no_ratio_has_any_size():
    facts = {"score": {"name": "psnr", "label": "PSNR (dB)"}}
    rows = [{**ROW, "psnr": 31.5}, {**ROW, "width": 0.25, "psnr": None}]
    check_sweep({"facts": facts, "rows": rows}, "sweep.json")


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_published_sweeps_are_read_as_they_are(path):
    assert read_sweep(path) == json.loads(path.read_text())


@pytest.mark.parametrize("read", [read_sweep, read_training, read_processor])
@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_words_for_no_number_are_refused_wherever_they_stand(read, word, tmp_path):
    path = tmp_path / "facts.json"
    path.write_text(f'{{"somewhere": [{{"deep": {word}}}]}}')
    with pytest.raises(CheckpointError, match=r"facts\.json is no JSON"):
        read(path)


PATHS = [
    "/secret/folder/x",
    "/srv/secret/my folder/x",
    "file:///secret/folder/x",
    "../../secret/folder/x",
    "~/secret/x",
    "$HOME/secret/x",
    "C:\\secret\\folder\\x",
    "D:/secret/my folder/x",
    "\\\\server\\secret\\x",
    "neumeta train --config /secret/r.yaml --set data.dataset=/secret/mnist x",
    "{'checkpoint': '/secret/my folder/x'}",
]


@pytest.mark.parametrize("path", PATHS)
def test_folders_of_a_machine_are_left_out_of_keys_and_values(path):
    kept = without_folders({path: [path, {"a": path}], "n": 1})
    assert "secret" not in json.dumps(kept)
    assert json.dumps(kept).count("x") >= 3
    assert without_folders(kept) == kept


def test_names_are_left_alone_and_folders_that_are_there_are_not(tmp_path, monkeypatch):
    names = ["org/name", "https://example.org/a/b", "0.25:1.0:0.125", "2.13.0+cpu", "loss (nats/image)", "1/2", "a=b"]
    assert without_folders(names) == names
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret" / "runs" / "x").mkdir(parents=True)
    for path in ("secret/runs/x", "secret/runs/x/", "./secret/runs/x", "secret/runs/../runs/x"):
        assert without_folders(path) == "x"
    assert without_folders("secret/" + "x" * 5000)  # longer than a file system takes


def test_a_table_is_read_without_folders(tmp_path):
    path = tmp_path / "sweep.csv"
    path.write_text('width,checkpoint\r\n0.5,"/secret/my folder/x"\r\n')
    assert read_table(path) == [["width", "checkpoint"], ["0.5", "x"]]
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"sweep\.csv is no CSV"):
        read_table(path)
    assert read_table(None) is None
