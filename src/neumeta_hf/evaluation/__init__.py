"""Evaluation: metrics, cost, and sweeps over sizes."""

from neumeta_hf.evaluation.budget import find_width
from neumeta_hf.evaluation.cost import count_macs, count_macs_by_layer, count_parameters
from neumeta_hf.evaluation.environment import environment_facts
from neumeta_hf.evaluation.network import evaluate_network, make_evaluation_loader
from neumeta_hf.evaluation.pictures import draw_networks
from neumeta_hf.evaluation.plots import plot_sweep
from neumeta_hf.evaluation.sweep import Sweep, SweepRow, measure_network, sweep
from neumeta_hf.widths import parse_widths

__all__ = [
    "Sweep",
    "SweepRow",
    "count_macs",
    "count_macs_by_layer",
    "count_parameters",
    "draw_networks",
    "environment_facts",
    "evaluate_network",
    "find_width",
    "make_evaluation_loader",
    "measure_network",
    "parse_widths",
    "plot_sweep",
    "sweep",
]
