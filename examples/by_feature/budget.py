"""Choose a size by a budget: of multiply-accumulates, of parameters, or of seconds on this machine.

    python examples/by_feature/budget.py

Takes the family that comes with the package. Nothing is trained; a few seconds.
"""

import sys
import time

import torch
from torch import nn

import neumeta_hf
from neumeta_hf import NeuMetaModel, find_width
from neumeta_hf.evaluation import count_macs

IMAGES = torch.zeros(64, 1, 8, 8)


@torch.no_grad()
def seconds(network: nn.Module) -> float:
    """The fastest of several runs on a batch: the least disturbed one."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        network(IMAGES)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> int:
    """Find the largest width within each budget."""
    family = NeuMetaModel.from_pretrained(neumeta_hf.example("digits-lenet"))
    full = 1.2 * seconds(family.morph())  # what the full network takes, and a little for what else goes on
    widths = {
        "100,000 multiply-accumulates": find_width(family, 100_000),
        "10,000 parameters": find_width(family, 10_000, cost="parameters"),
        "the same, in multiples of 8 channels": find_width(family, 10_000, cost="parameters", multiple_of=8),
        f"{1000 * full:.1f} ms a batch": find_width(family, full, cost=seconds),
    }
    for budget, width in widths.items():
        network = family.morph(width=width)
        print(
            f"{budget}: width {width:g}, {network.num_parameters():,} parameters, "
            f"{count_macs(network, IMAGES[:1]):,} multiply-accumulates"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
