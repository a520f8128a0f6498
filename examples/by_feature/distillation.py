"""Let a family learn from a teacher of your own, at a temperature: here from a larger network than its reference.

    python examples/by_feature/distillation.py

The teacher is a LeNet of twice the channels, trained on scikit-learn's digits. The family is the one that comes with
the package; no label is used when it learns. Half a minute on one core; `--epochs 1` takes seconds.
"""

import argparse
import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

import neumeta_hf
from neumeta_hf import NeuMetaModel, load_image_data, load_recipe
from neumeta_hf.data import collate
from neumeta_hf.targets import LeNetConfig, LeNetForImageClassification

WIDTHS = (1.0, 0.5, 0.25)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5, help="of teacher and family; default: %(default)s")
    parser.add_argument("--temperature", type=float, default=4.0, help="default: %(default)s")
    return parser


def train_teacher(train: DataLoader, epochs: int) -> nn.Module:
    """Stands for what you have."""
    torch.manual_seed(0)
    teacher = LeNetForImageClassification(LeNetConfig(hidden_channels=[48, 96, 192], kernel_size=3, num_labels=10))
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=0.003)
    for _ in range(epochs):
        for batch in train:
            teacher(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return teacher.eval()


def distillation(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Divergence from the teacher's softened answer, in the scale of a gradient of labels."""
    said, taught = (F.log_softmax(values / temperature, dim=-1) for values in (logits, teacher))
    return F.kl_div(said, taught, reduction="batchmean", log_target=True) * temperature**2


@torch.no_grad()
def agreement(family: NeuMetaModel, teacher: nn.Module, test: DataLoader, width: float) -> float:
    """How often a size says what the teacher says."""
    network = family.morph(width=width)
    same = [
        network(batch["pixel_values"]).logits.argmax(-1) == teacher(batch["pixel_values"]).logits.argmax(-1)
        for batch in test
    ]
    return torch.cat(same).float().mean().item()


def main() -> int:
    """Train a teacher, then the family on what it says."""
    arguments = build_parser().parse_args()
    folder = neumeta_hf.example("digits-lenet")
    data = load_image_data(load_recipe(folder / "recipe.yaml", []).data)
    train = DataLoader(data.train, 64, shuffle=True, drop_last=True, collate_fn=collate)
    test = DataLoader(data.test, 256, collate_fn=collate)
    teacher = train_teacher(train, arguments.epochs)
    family = NeuMetaModel.from_pretrained(folder)
    before = {width: agreement(family, teacher, test, width) for width in WIDTHS}

    optimizer = torch.optim.AdamW(family.hypernetwork.parameters(), lr=0.001, weight_decay=0.0)
    family.train()
    for _ in range(arguments.epochs):
        for batch in train:
            with torch.no_grad():
                said = teacher(batch["pixel_values"]).logits
            for width in WIDTHS:
                logits = family(batch["pixel_values"], width=width).logits
                distillation(logits, said, arguments.temperature).backward()
            optimizer.step()
            optimizer.zero_grad()
    family.eval()
    family.calibrate(train)  # BatchNorm statistics belong to the weights that have changed
    for width in WIDTHS:
        after = agreement(family, teacher, test, width)
        print(f"width {width}: agrees with the teacher on {before[width]:.1%} of images before, {after:.1%} after")
    return 0


if __name__ == "__main__":
    sys.exit(main())
