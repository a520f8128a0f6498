"""Train a family in several processes, each on its own share of the data, through Accelerate.

    accelerate launch --cpu --num_processes 2 examples/by_feature/several_processes.py --output outputs/several

On GPUs leave `--cpu` out. Lines that several processes need have a comment; one process runs them too. The family that
comes with the package trains on, and its largest network is the teacher. `--epochs 1` takes seconds.
"""

import argparse
import random
import sys

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader

import neumeta_hf
from neumeta_hf import NeuMetaModel, load_image_data, load_recipe
from neumeta_hf.data import collate

WIDTHS = [0.25 + step / 16 for step in range(13)]  # 0.25, 0.3125, ..., 1.0


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=64, help="of all processes together; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--output", help="folder for the family; default: it is not saved")
    return parser


def train_family(
    accelerator: Accelerator, family: NeuMetaModel, teacher: nn.Module, train: DataLoader, *, epochs: int, seed: int
) -> NeuMetaModel:
    """Train the hypernetwork; gradients are averaged over the processes."""
    optimizer = torch.optim.AdamW(family.train().hypernetwork.parameters(), lr=3e-4, weight_decay=0.0)
    model, optimizer, train = accelerator.prepare(family, optimizer, train)  # other images in every process
    sizes = random.Random(seed)  # the same sizes in every process: else they would wait for each other's slowest
    for epoch in range(epochs):
        seen = torch.zeros((), device=accelerator.device)
        for batch in train:
            images, labels = batch["pixel_values"], batch["labels"]
            with torch.no_grad():
                target = teacher(images).logits.softmax(-1)
            losses = []
            for width in (max(WIDTHS), min(WIDTHS), sizes.choice(WIDTHS)):
                logits = model(images, width=width).logits
                losses.append(F.cross_entropy(logits, labels) + F.cross_entropy(logits, target))
            accelerator.backward(sum(losses))  # one backward: gradients are exchanged at every one
            optimizer.step()
            optimizer.zero_grad()
            seen += len(images)
        mean = accelerator.reduce(torch.stack(losses).detach(), "mean")  # of all processes
        count = int(accelerator.reduce(seen, "sum"))
        accelerator.print(f"epoch {epoch + 1}: loss {mean.mean():.3f}, {count} images")  # the main process alone
    return accelerator.unwrap_model(model).eval()


@torch.no_grad()
def measure(accelerator: Accelerator, network: nn.Module, test: DataLoader) -> tuple[float, int]:
    """Accuracy and number of the test images, of which every process measures its share."""
    right = []
    for batch in test:
        predicted = network(batch["pixel_values"]).logits.argmax(-1)
        # Of all processes, without the images that fill up the last batch.
        right += accelerator.gather_for_metrics(predicted == batch["labels"]).tolist()
    return sum(right) / len(right), len(right)


def main() -> int:
    """Train the family on, and measure sizes of it."""
    arguments = build_parser().parse_args()
    accelerator = Accelerator()
    set_seed(arguments.seed)  # the same order of the data in every process
    folder = neumeta_hf.example("digits-lenet")
    family = NeuMetaModel.from_pretrained(folder)
    teacher = family.morph(width=1.0).to(accelerator.device)
    data = load_image_data(load_recipe(folder / "recipe.yaml", []).data)
    share = arguments.batch_size // accelerator.num_processes  # loaders are asked for what one process takes
    train = DataLoader(data.train, share, shuffle=True, drop_last=True, collate_fn=collate)
    test = accelerator.prepare(DataLoader(data.test, share, collate_fn=collate))
    family = train_family(accelerator, family, teacher, train, epochs=arguments.epochs, seed=arguments.seed)
    for width in (1.0, 0.5, 0.25):
        score, count = measure(accelerator, family.morph(width=width).to(accelerator.device), test)
        accelerator.print(f"width {width}: {score:.1%} of {count} images")
    if arguments.output and accelerator.is_main_process:  # one process writes
        family.save_pretrained(arguments.output)
    accelerator.end_training()
    return 0


if __name__ == "__main__":
    sys.exit(main())
