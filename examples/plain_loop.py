"""Train a family in a plain loop: what `neumeta train` does, without recipes, on one screen.

    accelerate launch --cpu examples/plain_loop.py --output outputs/plain

Trains a LeNet on scikit-learn's digits, makes a family of it, and trains the family's hypernetwork: at every step the
largest size, the smallest and a random one (the sandwich), each from the labels and from the reference (distillation).
A minute on one core; `--epochs 2 --reference-epochs 2` takes seconds. examples/by_feature adds one thing a file.
"""

import argparse
import random
import sys

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from neumeta_hf import DataConfig, NeuMetaModel, load_image_data, prepare
from neumeta_hf.data import collate
from neumeta_hf.targets import LeNetConfig, LeNetForImageClassification

DIGITS = DataConfig(dataset="digits", image_size=8, num_channels=1, mean=[0.305], std=[0.376], augmentation="crop")
WIDTHS = [0.25 + step / 16 for step in range(13)]  # 0.25, 0.3125, ..., 1.0
SHOWN = (1.0, 0.8, 0.5, 0.3, 0.25)  # 0.8 and 0.3 are never trained


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference-epochs", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=20, help="of the family; default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--learning-rate", type=float, default=0.01, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--output", help="folder for the family; default: it is not saved")
    return parser


def train_reference(accelerator: Accelerator, train: DataLoader, epochs: int) -> nn.Module:
    """Train the network that the family is made of: nothing here knows of families."""
    network = LeNetForImageClassification(LeNetConfig(kernel_size=3, image_size=8, num_labels=10))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.003)
    model, optimizer, train = accelerator.prepare(network, optimizer, train)
    for _ in range(epochs):
        for batch in train:
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return accelerator.unwrap_model(model).eval()


def make_family(reference: nn.Module) -> NeuMetaModel:
    """A hypernetwork that generates the reference at width 1.0, and networks of any other width."""
    # The same function, with the channels that matter most in front: a smaller network starts as the first channels.
    prepared, _ = prepare(reference, order="importance")
    hypernetwork = {
        "type": "grid",
        "positions": "absolute",
        "levels": 3,
    }  # levels let small sizes differ from large ones
    return NeuMetaModel.from_reference(prepared, hypernetwork=hypernetwork, trained_widths=WIDTHS)


def distillation(logits: Tensor, teacher: Tensor) -> Tensor:
    """What a size says against what the reference says."""
    return F.kl_div(
        F.log_softmax(logits, dim=-1), F.log_softmax(teacher, dim=-1), reduction="batchmean", log_target=True
    )


def train_family(
    accelerator: Accelerator,
    family: NeuMetaModel,
    reference: nn.Module,
    train: DataLoader,
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
) -> NeuMetaModel:
    """Train the hypernetwork: the only weights that learn, whatever the size."""
    family.train()
    optimizer = torch.optim.AdamW(family.hypernetwork.parameters(), lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=epochs * len(train))
    model, optimizer, train, schedule = accelerator.prepare(family, optimizer, train, schedule)
    reference = reference.to(accelerator.device)
    sizes = random.Random(seed)  # the same sizes in every process
    for epoch in range(epochs):
        for batch in train:
            images, labels = batch["pixel_values"], batch["labels"]
            with torch.no_grad():
                teacher = reference(images).logits
            losses = []
            for width in (max(WIDTHS), min(WIDTHS), sizes.choice(WIDTHS)):  # the sandwich
                logits = model(images, width=width).logits
                loss = F.cross_entropy(logits, labels) + distillation(logits, teacher)
                accelerator.backward(loss)  # size by size: their gradients add up
                losses.append(loss.item())
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        accelerator.print(f"epoch {epoch + 1}: loss {', '.join(f'{loss:.3f}' for loss in losses)}")
    return accelerator.unwrap_model(model).eval()


@torch.no_grad()
def measure(network: nn.Module, test: DataLoader) -> float:
    """Accuracy on the test images."""
    right = [(network(batch["pixel_values"]).logits.argmax(-1) == batch["labels"]) for batch in test]
    return torch.cat(right).float().mean().item()


def main() -> int:
    """Train a reference, then its family, and measure sizes of it."""
    arguments = build_parser().parse_args()
    accelerator = Accelerator()
    torch.manual_seed(arguments.seed)
    data = load_image_data(DIGITS)
    train = DataLoader(data.train, arguments.batch_size, shuffle=True, drop_last=True, collate_fn=collate)
    test = DataLoader(data.test, 256, collate_fn=collate)

    reference = train_reference(accelerator, train, arguments.reference_epochs)
    family = make_family(reference)
    family = train_family(
        accelerator,
        family,
        reference,
        train,
        epochs=arguments.epochs,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
    )
    if accelerator.is_main_process:
        family = family.cpu()
        print(f"reference: {measure(reference.cpu(), test):.1%}")
        for width in SHOWN:
            network = family.morph(width=width)  # a plain LeNet
            print(f"width {width}: {network.num_parameters():,} parameters, {measure(network, test):.1%}")
        if arguments.output:
            family.save_pretrained(arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
