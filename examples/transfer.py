"""From a network of one's own to a family for other classes, and from there to one size that is deployed.

    python examples/transfer.py --output outputs/transfer

A stock ResNet learns four kinds of digits; it gets a new head and learns three others; the result becomes a family.
Each of its width groups is halved on its own; half of all channels is measured, trained on alone, measured again and
exported to ONNX. Every step is a `neumeta` command. Needs the extra `onnx`; a few minutes on two cores.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_digits
from transformers import AutoModelForImageClassification

from neumeta_hf import NeuMetaModel
from neumeta_hf.cli import main as neumeta

KNOWN = {0: "zero", 1: "one", 2: "two", 3: "three"}
NEW = {7: "seven", 8: "eight", 9: "nine"}
DATA = {"image_size": 32, "num_channels": 3, "mean": [0.305] * 3, "std": [0.376] * 3, "test_fraction": 0.2}


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="outputs/transfer", help="new folder; default: %(default)s")
    parser.add_argument("--images", type=int, default=170, help="of each class; default: %(default)s")
    parser.add_argument("--channels", type=int, default=32, help="of the first stage; default: %(default)s")
    parser.add_argument("--epochs", type=int, default=8, help="of each training; default: %(default)s")
    return parser


def write_images(folder: Path, names: dict[int, str], most: int) -> None:
    """Write digits as an image folder: `train/seven/0.png` and so on."""
    digits: Any = load_digits()
    for label, name in names.items():
        (folder / "train" / name).mkdir(parents=True)
        for index, pixels in enumerate(digits.images[digits.target == label][:most]):
            Image.fromarray((pixels * 15.9).astype("uint8")).save(folder / "train" / name / f"{index}.png")


def run(*arguments: Any) -> None:
    """Run a command, and stop where it fails."""
    words = [str(argument) for argument in arguments]
    print("$ neumeta", *words, flush=True)
    if code := neumeta(words):
        sys.exit(code)


def write_recipe(path: Path, **sections: Any) -> Path:
    """Write a recipe, one YAML file."""
    path.write_text(yaml.safe_dump(sections, sort_keys=False), encoding="utf-8")
    return path


def main() -> int:
    """Do all of it."""
    arguments = build_parser().parse_args()
    output, channels = Path(arguments.output), arguments.channels
    loop = {
        "epochs": arguments.epochs,
        "batch_size": 32,
        "optimizer": {"name": "adamw", "learning_rate": 0.002},
        "schedule": {"name": "one_cycle", "warmup": 0.2},
    }
    for name, classes in (("known", KNOWN), ("new", NEW)):
        write_images(output / name, classes, arguments.images)

    own = write_recipe(
        output / "own.yaml",
        output_dir=str(output / "own"),
        data={"dataset": str(output / "known"), **DATA},
        target={
            "family": "resnet",
            "config": {
                "embedding_size": channels,
                "hidden_sizes": [channels, 2 * channels],
                "depths": [1, 1],
                "layer_type": "basic",
            },
        },
        pretrain=loop,
        preparation={"normalization": "keep", "order": "identity"},
        train=None,
    )
    run("train", "--config", own)
    run("evaluate", output / "own" / "reference")

    # The data's images are those that the network was trained on, so the recipe need not say how they are made.
    mine = write_recipe(
        output / "mine.yaml",
        output_dir=str(output / "mine"),
        data={"dataset": str(output / "new"), "test_fraction": 0.2},
        target={"family": "resnet", "checkpoint": str(output / "own" / "reference"), "new_head": True},
        pretrain=loop,
        preparation={"normalization": "keep", "order": "importance"},
        family={"hypernetwork": {"type": "grid", "positions": "absolute", "levels": 3}, "coordinate_noise": 0.0},
        sizes={"widths": "0.25:1.0:0.125", "sampler": "sandwich", "num_random": 1, "num_per_group": 2},
        losses={"task": 1.0, "reconstruction": 0.0, "regularization": 0.0, "distillation": 1.0},
        train=loop,
    )
    run("train", "--config", mine)
    run("info", output / "mine")
    run("evaluate", output / "mine", "--widths", "0.25,0.5,1.0")
    for group in NeuMetaModel.from_pretrained(output / "mine").width_groups:
        run("morph", output / "mine", "--width", f"{group}=0.5", "--output", output / f"half-{group}")

    run("morph", output / "mine", "--width", "0.5", "--output", output / "half")
    run("evaluate", output / "half", "--config", mine)
    tuned = write_recipe(
        output / "tuned.yaml",
        output_dir=str(output / "tuned"),
        data={"dataset": str(output / "new"), "test_fraction": 0.2},
        target={"family": "resnet", "checkpoint": str(output / "half")},
        pretrain={**loop, "optimizer": {"name": "adamw", "learning_rate": 0.0005}},
        preparation={"normalization": "keep", "order": "identity"},
        train=None,
    )
    run("train", "--config", tuned)
    run("evaluate", output / "tuned" / "reference")

    model = AutoModelForImageClassification.from_pretrained(output / "tuned" / "reference").eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    options: Any = {"dynamic_shapes": ({0: "batch"},), "output_names": ["logits"], "external_data": False}
    torch.onnx.export(model, (images,), output / "half.onnx", dynamo=True, **options)
    (logits,) = onnxruntime.InferenceSession(output / "half.onnx").run(["logits"], {"pixel_values": images.numpy()})
    with torch.no_grad():
        difference = (torch.from_numpy(logits) - model(images).logits).abs().max().item()
    print(f"exported to {output / 'half.onnx'}: its logits differ by at most {difference:.1e}")
    return 0 if difference < 1e-3 else 1


if __name__ == "__main__":
    sys.exit(main())
