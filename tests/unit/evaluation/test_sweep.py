import csv
import dataclasses
import io
import json
import math
import types
import warnings

import pytest
import torch
from rich.console import Console
from torch.utils.data import DataLoader

from neumeta_hf.data import DataConfig, load_image_data
from neumeta_hf.errors import CheckpointError, DataError, RecipeError, SizeError
from neumeta_hf.evaluation import Sweep, count_macs, count_parameters, evaluate_network, sweep
from neumeta_hf.family_sizes import SizeWarning
from neumeta_hf.hub.facts import check_sweep
from neumeta_hf.modeling_tasks import NeuMetaForImageClassification
from neumeta_hf.scores import Score
from neumeta_hf.targets import CifarResNetConfig, LeNetConfig, find_target, resize

CONFIG = LeNetConfig(hidden_channels=[4, 8, 16], image_size=8, num_labels=10)


class Family:
    """What a sweep asks of a `NeuMetaModel`: random networks of any size, one seed per width."""

    device = torch.device("cpu")

    def __init__(self, trained_widths=(0.25, 0.5, 1.0)):
        self.config = types.SimpleNamespace(
            trained_widths=list(trained_widths), trained_depths=[1.0], target_config=CONFIG
        )
        self.target_family = find_target(CONFIG)
        self.space = self.target_family.space(CONFIG)
        self.calls = []

    def skeleton_at(self, size):
        return self.target_family.build(self.target_family.config_at(CONFIG, size))

    def size_at(self, width, *, depth=1.0):
        return self.space.size(width, depth=depth)

    def is_in_trained_range(self, size):
        low, high = (self.size_at(pick(self.config.trained_widths)) for pick in (min, max))
        return all(low[axis] <= size[axis] <= high[axis] for axis in size)

    def morph(self, width, *, depth=1.0, num_samples, seed, calibration):
        self.calls.append({"width": width, "num_samples": num_samples, "seed": seed, "calibration": calibration})
        warnings.warn("outside", SizeWarning, stacklevel=2)
        torch.manual_seed(round(1000 * width) if isinstance(width, float) else 0)
        network = self.target_family.build(resize(CONFIG, width)).eval()
        images = sum(map(len, calibration)) if calibration else None
        network.morph_origin = types.SimpleNamespace(noise=0.5, calibrated=images)
        return network


@pytest.fixture(scope="module")
def split():
    return load_image_data(DataConfig()).test.subset(60, seed=0)


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(1)
    return find_target(CONFIG).build(CONFIG).eval()


@pytest.fixture(scope="module")
def result(split, reference):
    facts = {"checkpoint": "digits-lenet", "dataset": "digits", "split": "test"}
    return sweep(Family(), split, [0.25, 0.5, 0.75, 1.0, 1.25], reference=reference, progress=False, facts=facts)


def test_a_row_holds_what_the_morph_of_its_width_scores_and_costs(result, split):
    row = result.rows[1]
    with pytest.warns(SizeWarning):
        network = Family().morph(0.5, num_samples=1, seed=0, calibration=None)
    scores = evaluate_network(network, split)
    assert (row.width, row.scores["accuracy"]) == (0.5, scores["accuracy"])
    assert row.scores["loss"] == pytest.approx(scores["loss"])
    assert row.num_parameters == count_parameters(network)
    assert row.macs == count_macs(network, torch.zeros(1, 1, 8, 8))


def test_compression_is_of_the_whole_network(result):
    full = count_parameters(find_target(CONFIG).build(CONFIG))
    for row in result.rows:
        assert row.compression_rate == 1 - row.num_parameters / full
    assert result.rows[3].compression_rate == 0
    assert result.rows[0].compression_rate > 0.9
    assert result.rows[4].compression_rate < 0


def test_trained_and_untrained_widths_are_told_apart(result):
    assert [row.kind for row in result.rows] == ["trained", "trained", "untrained", "trained", "outside"]


def test_a_network_counts_as_trained_by_its_channels_not_by_its_width(split):
    # 0.26 of 4, 8 and 16 channels are the 1, 2 and 4 of 0.25: the very network that training drew.
    every_group = dict.fromkeys(["conv1", "conv2", "conv3"], 0.5)
    widths = [0.26, 0.33, every_group, {**every_group, "conv3": 0.25}]
    rows = sweep(Family(), split, widths, progress=False).rows
    assert [row.kind for row in rows] == ["trained", "untrained", "trained", "untrained"]


def test_an_impossible_width_stops_the_sweep_before_anything_is_measured(split, reference):
    family = Family()
    with pytest.raises(SizeError, match="width=9"):
        sweep(family, split, [0.5, 9], reference=reference, progress=False)
    assert family.calls == []


def test_a_width_per_group_is_in_range_where_each_group_is(split):
    widths = [{"conv1": 0.25}, {"conv1": 1.5}]
    rows = sweep(Family(), split, widths, progress=False).rows
    assert [row.kind for row in rows] == ["untrained", "outside"]


def test_a_family_that_was_never_trained_has_no_trained_row(split):
    class Untrained(Family):
        def is_in_trained_range(self, config):
            return False

    assert [row.kind for row in sweep(Untrained([]), split, [1.0], progress=False).rows] == ["outside"]


def test_the_reference_is_measured_too(result, reference, split):
    assert result.reference.scores["accuracy"] == evaluate_network(reference, split)["accuracy"]
    assert result.reference.compression_rate == 0


def test_the_arguments_reach_every_morph_and_the_facts(split):
    family = Family()
    batches = (torch.zeros(1, 1, 8, 8) for _ in range(2))  # an iterator: every width must see all of it
    facts = sweep(family, split, [0.5, 1.0], num_samples=3, seed=7, calibration=batches, progress=False).facts
    assert [(call["num_samples"], call["seed"], len(call["calibration"])) for call in family.calls] == [(3, 7, 2)] * 2
    assert (facts["num_samples"], facts["seed"], facts["num_images"]) == (3, 7, 60)
    assert (facts["noise"], facts["calibrated"]) == (0.5, 2)
    assert facts["device"] == "cpu"


def test_a_sweep_starts_the_workers_asked_for_once(split, reference, monkeypatch):
    asked = []

    def spy(*args, num_workers, persistent_workers, **options):
        asked.append(num_workers)
        return DataLoader(*args, **options)

    monkeypatch.setattr("neumeta_hf.data.workers.DataLoader", spy)
    sweep(Family(), split, [0.5, 1.0], reference=reference, num_workers=3, progress=False)
    sweep(Family(), split, [0.5], progress=False)
    assert asked == [3, 0]


def test_warnings_of_sizes_outside_the_range_do_not_flood(split):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sweep(Family(), split, [0.5], progress=False)


def test_a_progress_bar_names_the_width(split, capfd):
    sweep(Family(), split, [0.5], progress=True)
    assert "width=0.5" in capfd.readouterr().err
    sweep(Family(), split, [0.5], progress=False)
    assert capfd.readouterr().err == ""


def test_a_sweep_of_nothing_is_refused(split):
    with pytest.raises(SizeError, match="widths is empty"):
        sweep(Family(), split, [])
    family = Family()
    with pytest.raises(DataError, match="empty"):
        sweep(family, split.subset(0, seed=0), [0.5], progress=False)


@pytest.mark.parametrize(
    ("widths", "options", "said"),
    [
        ([0.5, 1.0, 0.5], {}, "names 0.5 twice"),
        ([1, 1.0], {}, "names 1 twice"),
        ([{"conv1": 0.5, "conv2": 1}, {"conv2": 1, "conv1": 0.5}], {}, "names conv2=1,conv1=0.5 twice"),
        ([(number + 1) / 10_001 for number in range(10_001)], {}, "has 10,001 ratios"),
        ([0.5, float("nan")], {}, "width=nan"),
        ([0.5], {"seed": -1}, "seed=-1"),
        ([0.5], {"num_samples": 0}, "num_samples=0"),
    ],
)
def test_a_sweep_that_cannot_be_told_of_is_refused_before_anything_is_measured(split, widths, options, said):
    family = Family()
    with pytest.raises(SizeError, match=said):
        sweep(family, split, widths, progress=False, **options)
    assert family.calls == []


def test_a_score_does_not_take_the_place_of_something_else_in_a_row(split):
    family = Family()
    task = types.SimpleNamespace(name="counting", scores=[Score(name="macs", label="MACs")])
    with pytest.raises(RecipeError, match="counting has a score named 'macs'"):
        sweep(family, split, [0.5], task=task, progress=False)
    assert family.calls == []


def test_calibration_that_is_of_no_images_is_refused_before_anything_is_measured(split):
    family = Family()
    with pytest.raises(CheckpointError, match="holds uint8"):
        sweep(family, split, [0.5], calibration=[torch.zeros(1, 1, 8, 8).byte()], progress=False)
    assert family.calls == []


def test_a_reference_that_does_not_fit_says_so_before_any_morph(split):
    family = Family()
    wrong = find_target(CONFIG).build(LeNetConfig(hidden_channels=[4, 8, 16], image_size=8, num_labels=2))
    with pytest.raises(DataError, match="2 classes apart"):
        sweep(family, split, [0.5], reference=wrong, progress=False)
    assert family.calls == []


def test_a_real_family_can_be_swept(split, reference):
    model = NeuMetaForImageClassification.from_reference(
        reference, hypernetwork={"type": "inr"}, trained_widths=[0.5, 1.0]
    )
    found = sweep(model, split, [0.25, 0.5, 0.75], reference=reference, progress=False)
    assert (found.facts["noise"], found.facts["calibrated"]) == (0.0, None)
    assert sweep(model, split, [0.5], num_samples=2, progress=False).facts["noise"] == model.config.coordinate_noise
    rows = found.rows
    assert [row.kind for row in rows] == ["outside", "trained", "untrained"]
    assert rows[1].num_parameters == count_parameters(model.morph(0.5))


# ------------------------------------------------------------------------------------------------ files


def test_json_holds_facts_reference_and_rows(result, tmp_path):
    result.save_json(tmp_path / "sweep.json")
    read = json.loads((tmp_path / "sweep.json").read_text())
    assert read.keys() == {"facts", "reference", "rows"}
    for found, row in zip([read["reference"], *read["rows"]], [result.reference, *result.rows], strict=True):
        fields = dataclasses.asdict(row)
        assert fields.pop("depth") == 1  # of whole networks, as of families without blocks
        assert found == {**fields.pop("scores"), **fields}
    assert read["facts"]["checkpoint"] == "digits-lenet"


def test_csv_has_the_same_columns(result, tmp_path):
    result.save_csv(tmp_path / "sweep.csv")
    with (tmp_path / "sweep.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert list(read[0])[:4] == ["width", "accuracy", "loss", "num_parameters"]
    assert list(read[0]) == list(result.to_dict()["rows"][0])
    assert [float(row["width"]) for row in read] == [0.25, 0.5, 0.75, 1.0, 1.25]
    assert [float(row["accuracy"]) for row in read] == [row.scores["accuracy"] for row in result.rows]


def test_csv_writes_a_width_per_group_as_the_command_takes_it(result, tmp_path):
    row = dataclasses.replace(result.rows[0], width={"conv1": 0.25, "conv2": 0.3333333333})
    Sweep(rows=[row], reference=None, facts={}).save_csv(tmp_path / "sweep.csv")
    assert '"conv1=0.25,conv2=0.3333333333"' in (tmp_path / "sweep.csv").read_text()


def test_a_loss_that_is_not_finite_leaves_valid_json(result, tmp_path):
    rows = [
        dataclasses.replace(result.rows[0], scores={"accuracy": 0.5, "loss": loss}) for loss in (math.inf, math.nan)
    ]
    Sweep(rows=rows, reference=None, facts={}).save_json(tmp_path / "sweep.json")
    assert [row["loss"] for row in json.loads((tmp_path / "sweep.json").read_text())["rows"]] == [None, None]


def test_a_result_that_cannot_be_written_leaves_the_old_file(result, tmp_path):
    path = tmp_path / "sweep.json"
    path.write_text("old")
    broken = dataclasses.replace(result, facts={"seed": object()})
    with pytest.raises(TypeError):
        broken.save_json(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_table_shows_names_as_they_are(result):
    row = dataclasses.replace(result.rows[0], width={"[red]conv1\x1b[2J": 0.25})
    facts = {**result.facts, "checkpoint": "[bold]x[/bold]\x1b]0;t\x07", "dataset": "[/]"}
    console = Console(file=io.StringIO(), width=160, force_terminal=False)
    console.print(dataclasses.replace(result, rows=[row], facts=facts).tables(160)[0])
    text = console.file.getvalue()
    assert r"[bold]x[/bold]\x1b]0;t\x07, [/], test" in text
    assert r"[red]conv1\x1b[2J=0.25" in text
    assert "\x1b" not in text


def test_the_table_shows_the_reference_first_and_every_row(result):
    console = Console(file=io.StringIO(), width=120)
    console.print(*result.tables(120))
    text = console.file.getvalue()
    lines = [line for line in text.splitlines() if "%" in line]
    assert len(lines) == 6
    assert "reference" in lines[0]
    assert f"{result.rows[0].num_parameters:,}" in lines[1]
    assert "outside" in lines[5]
    assert "digits-lenet, digits, test" in text


class DeepFamily(Family):
    """One whose networks can leave blocks out; trained at widths 0.5 and 1, whole and at one block a stage."""

    def __init__(self):
        self.config = types.SimpleNamespace(trained_widths=[0.5, 1.0], trained_depths=[0.34, 1.0], target_config=DEEP)
        self.target_family = find_target(DEEP)
        self.space = self.target_family.space(DEEP)

    def skeleton_at(self, size):
        return self.target_family.build(self.target_family.config_at(DEEP, size))

    def is_in_trained_range(self, size):
        return True

    def morph(self, width, *, depth=1.0, num_samples, seed, calibration):
        network = self.skeleton_at(self.size_at(width, depth=depth)).eval()
        network.morph_origin = types.SimpleNamespace(noise=0.0, calibrated=None)
        return network


DEEP = CifarResNetConfig(
    num_blocks=[1, 2, 3], stage_channels=[4, 6, 8], image_size=8, num_input_channels=1, num_labels=10
)


@pytest.fixture(scope="module")
def deep(split):
    return sweep(DeepFamily(), split, [0.5, 1.0], depths=[1.0, 0.67, 0.34], progress=False)


def test_every_width_is_measured_at_every_depth(deep):
    assert [(row.width, row.depth) for row in deep.rows] == [
        (width, depth) for depth in (1.0, 0.67, 0.34) for width in (0.5, 1.0)
    ]
    family = DeepFamily()
    for row in deep.rows:
        network = family.skeleton_at(family.size_at(row.width, depth=row.depth))
        assert row.num_parameters == count_parameters(network)
    assert [row.kind for row in deep.rows] == 2 * ["trained"] + 2 * ["untrained"] + 2 * ["trained"]


def test_depths_are_in_what_is_written_and_shown(deep, tmp_path):
    deep.save_csv(tmp_path / "sweep.csv")
    with (tmp_path / "sweep.csv").open(newline="") as file:
        assert [(line["width"], line["depth"]) for line in csv.DictReader(file)][1:3] == [
            ("1.0", "1.0"),
            ("0.5", "0.67"),
        ]
    deep.save_json(tmp_path / "sweep.json")
    written = json.loads((tmp_path / "sweep.json").read_text())
    check_sweep(written, "sweep.json")
    assert [row["depth"] for row in written["rows"]] == [1.0, 1.0, 0.67, 0.67, 0.34, 0.34]
    deep.plot(tmp_path / "sweep.png")
    console = Console(file=io.StringIO(), width=100)
    console.print(*deep.tables(100))
    assert "0.5 depth 0.34" in console.file.getvalue()


def test_a_sweep_of_whole_networks_says_nothing_of_depth(result):
    assert "depth" not in result.to_dict()["rows"][0]


@pytest.mark.parametrize(
    ("change", "said"),
    [({"depth": 0}, "depth is 0"), ({"depth": 1.5}, "depth is 1.5"), ({"depth": 1.0}, "of one width, 0.5")],
)
def test_a_written_depth_that_no_sweep_measures_is_refused(deep, change, said):
    written = deep.to_dict()
    written["rows"][2] |= change
    with pytest.raises(CheckpointError, match=said):
        check_sweep(written, "sweep.json")


@pytest.mark.parametrize(
    ("depths", "said"),
    [([], "at least one"), ([1.0, 1.0], "each once"), ([0.1], "smallest possible"), ([2], "ratio in")],
)
def test_depths_that_cannot_be_measured_stop_the_sweep_before_it(split, depths, said):
    with pytest.raises(SizeError, match=said):
        sweep(DeepFamily(), split, [0.5], depths=depths, progress=False)
