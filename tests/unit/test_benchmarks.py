"""What the benchmarks compute from their measurements."""

import importlib.util
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"


@pytest.fixture(scope="module")
def whole_network():
    spec = importlib.util.spec_from_file_location("whole_network", BENCHMARKS / "whole_network.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(method, width, accuracy, macs=100, seed=0, **facts):
    return {"method": method, "width": width, "accuracy": accuracy, "macs": macs, "seed": seed, **facts}


def test_a_family_is_measured_by_networks_alone_and_by_its_own_line(whole_network):
    stages = {"stage1": 0.3, "stage2": 0.9}
    rows = [
        row("individual", 1.0, 0.86),
        row("individual", 0.5, 0.82),
        row("individual", 0.5, 0.84, seed=1),
        row("family", 1.0, 0.87, macs=1000, trained=True),
        row("family", 0.5, 0.81, macs=10, trained=True),
        row("family", 0.5, 0.83, macs=10, seed=1, trained=True),
        row("family", 0.6, 0.82, macs=100, trained=False),
        row("family", 0.4, 0.70, macs=5, trained=False),
        row("family, random widths per stage", stages, 0.80, macs=100),
        row("individual, random widths per stage", stages, 0.79, macs=100),
        row("family, random widths per stage, calibrated on real images", stages, 0.815, macs=100),
    ]
    summary = whole_network.summarize(rows)
    assert summary["against_individual"] == {1.0: 1.0, 0.5: -1.0}
    assert summary["between"] == {0.6: -1.0}  # the line from 82 at 0.5 to 87 at 1.0 is at 83; 0.4 is not between
    assert summary["random"] == {"stage": {"worst": -2.0, "mean": -2.0}}
    assert summary["shapes"] == [1.0]
    assert summary["data_free"] == {"stage": 1.5}


def test_a_summary_of_what_is_not_yet_measured_is_empty(whole_network):
    summary = whole_network.summarize([row("individual", 1.0, 0.86)])
    assert summary == {"against_individual": {}, "between": {}, "shapes": [], "random": {}, "data_free": {}}
