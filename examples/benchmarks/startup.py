"""What the command costs before it does anything: CPU seconds of `neumeta info` and `morph` beside bare imports.

    python examples/benchmarks/startup.py --before OTHER_CHECKOUT/src

measures each in fresh processes, in turn, and writes docs/results/startup.json and its figure: medians of user and
system time together, which another load on the machine changes less than the time on the clock. `--before` measures the
package of another checkout too.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from matplotlib.figure import Figure

from neumeta_hf.evaluation import environment_facts
from neumeta_hf.modeling_tasks import NeuMetaForImageClassification
from neumeta_hf.targets import LeNetConfig, find_target

ROOT = Path(__file__).parents[2]
IMPORTS = {
    "import torch, transformers": "import torch, transformers",
    "and what a model is made of": (
        "import torch, transformers; from transformers import AutoConfig, AutoModelForImageClassification, "
        "PreTrainedModel; from transformers.image_processing_utils import BaseImageProcessor"
    ),
}


def make_family(folder: Path) -> None:
    """Save a family of a few weights, untrained."""
    torch.manual_seed(0)
    config = LeNetConfig(hidden_channels=[2, 2, 2], kernel_size=3, image_size=8, num_labels=3)
    reference = find_target(config).build(config)
    model = NeuMetaForImageClassification.from_reference(
        reference, trained_widths=[0.5, 1.0], hypernetwork={"type": "grid"}
    )
    model.save_pretrained(folder)


def cpu_seconds(command: list[str], source: Path) -> float:
    """User and system time of a command in a process of its own, with the package of a source folder."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(source), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(sources: dict[str, Path], runs: int) -> dict[str, dict[str, float]]:
    """Median CPU seconds of each command, by what it measures, then by source."""
    seconds: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        family = Path(temporary) / "family"
        make_family(family)
        for run in range(runs):
            cases = {(name, "libraries"): (["-c", code], sources["now"]) for name, code in IMPORTS.items()}
            for name, source in sources.items():
                output = str(Path(temporary) / f"{name}-{run}")
                cases["neumeta info", name] = (["-m", "neumeta_hf.cli", "info", str(family)], source)
                morph = ["morph", str(family), "--width", "0.5", "--output", output]
                cases["neumeta morph", name] = (["-m", "neumeta_hf.cli", *morph], source)
            for (case, name), (arguments, source) in cases.items():
                found = cpu_seconds([sys.executable, *arguments], source)
                seconds.setdefault(case, {}).setdefault(name, []).append(found)
    return {
        case: {name: round(statistics.median(found), 2) for name, found in by_source.items()}
        for case, by_source in seconds.items()
    }


def draw(medians: dict[str, dict[str, float]]) -> Figure:
    """A bar for each case and source."""
    bars = [(f"{case}, {name}", seconds) for case, found in medians.items() for name, seconds in found.items()]
    figure = Figure(figsize=(7.2, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.bar_label(axes.barh([name for name, _ in bars], [seconds for _, seconds in bars], color="#1f5fa8"), padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("CPU seconds")
    return figure


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, metavar="SRC", help="source folder of another checkout, measured too")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results" / "startup.json")
    return parser


def main() -> None:
    """Measure and write."""
    arguments = build_parser().parse_args()
    sources = {"before": arguments.before} if arguments.before else {}
    medians = measure({**sources, "now": ROOT / "src"}, arguments.runs)
    facts = {"seed": 0, "runs": arguments.runs, **environment_facts(torch.device("cpu"))}
    arguments.output.write_text(json.dumps({"facts": facts, "cpu_seconds": medians}, indent=1) + "\n", encoding="utf-8")
    draw(medians).savefig(arguments.output.with_suffix(".png"), dpi=150)
    print(json.dumps(medians, indent=1))


if __name__ == "__main__":
    main()
