"""Evaluation: metrics, cost, and sweeps over sizes."""

from neumeta_hf.evaluation.classification import evaluate_classifier
from neumeta_hf.evaluation.cost import count_macs, count_parameters
from neumeta_hf.evaluation.environment import environment_facts
from neumeta_hf.evaluation.metrics import Accuracy
from neumeta_hf.evaluation.plots import plot_sweep
from neumeta_hf.evaluation.sweep import Sweep, SweepRow, sweep
from neumeta_hf.evaluation.widths import parse_widths

__all__ = [
    "Accuracy",
    "Sweep",
    "SweepRow",
    "count_macs",
    "count_parameters",
    "environment_facts",
    "evaluate_classifier",
    "parse_widths",
    "plot_sweep",
    "sweep",
]
