"""Make a family of a network of your own, in memory and without training: what the reference alone gives.

    python examples/by_feature/own_network.py

The network is a stock ResNet of transformers, trained on scikit-learn's digits for a few epochs, in place of yours. Its
family generates it exactly at width 1. Smaller sizes are its most important channels, which is where training (see
examples/plain_loop.py) starts from. Half a minute on one core.
"""

import argparse
import sys

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import ResNetConfig, ResNetForImageClassification

from neumeta_hf import DataConfig, NeuMetaModel, calibrate, load_image_data, prepare
from neumeta_hf.data import collate

DIGITS = DataConfig(dataset="digits", image_size=32, num_channels=3, mean=[0.305] * 3, std=[0.376] * 3)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6, help="of the network; default: %(default)s")
    return parser


def train_network(train: DataLoader, epochs: int) -> nn.Module:
    """Stands for what you have: replace it by `from_pretrained`."""
    torch.manual_seed(0)
    sizes = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic", "num_labels": 10}
    network = ResNetForImageClassification(ResNetConfig(**sizes))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.004)
    for _ in range(epochs):
        for batch in train:
            network(pixel_values=batch["pixel_values"], labels=batch["labels"]).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    # Running averages lag behind the last steps; sizes below have theirs measured in the same way.
    return calibrate(network, train).eval()


@torch.no_grad()
def measure(network: nn.Module, test: DataLoader) -> float:
    """Accuracy on the test images."""
    right = [network(batch["pixel_values"]).logits.argmax(-1) == batch["labels"] for batch in test]
    return torch.cat(right).float().mean().item()


def main() -> int:
    """Train a network, make a family of it, and measure sizes of the family."""
    arguments = build_parser().parse_args()
    data = load_image_data(DIGITS)
    train = DataLoader(data.train, 64, shuffle=True, drop_last=True, collate_fn=collate)
    test = DataLoader(data.test, 256, collate_fn=collate)
    network = train_network(train, arguments.epochs)

    prepared, report = prepare(network, normalization="keep", order="importance")
    print(f"{len(report.cliques)} groups of channels that can only shrink together; the outputs did not change")
    family = NeuMetaModel.from_reference(
        prepared,
        normalization="keep",
        hypernetwork={"type": "grid", "positions": "absolute", "levels": 3},
        trained_widths=[0.25, 1.0],
    )
    print(f"your network: {measure(network, test):.1%}")
    for width in (1.0, 0.9, 0.75, 0.5):
        morph = family.morph(width=width, calibration=train)  # nothing has stored statistics of BatchNorm yet
        print(f"width {width}, untrained: {type(morph).__name__}, {measure(morph, test):.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
