"""Preview decoders of any width: the decoder of TAESD as a family, distilled from the original's outputs on photos.

    python examples/benchmarks/taesd.py --checkpoint path/to/taesd --photos path/to/camvid path/to/more

Each folder of --photos is a data set with a training split of images. Crops of them are what the decoder is distilled
on, with the encoder as it is; the validation split of the first folder, in whole images, is what is measured: PSNR of
the images that come out of encoder and decoder. Beside the family stand decoders that are cut to a size, the same first
channels of the same prepared reference, and distilled alone for as many steps. Work is kept in --runs: an interrupted
call goes on where it was, and what is finished is not trained again. Writes PREFIX.json and PREFIX.png (one photo at
each width), and saves the morphs beside the runs: diffusers alone loads those of one width.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from neumeta_hf import NeuMetaModel, load_recipe, train
from neumeta_hf.cli import setup_logging
from neumeta_hf.evaluation import count_macs, count_parameters, environment_facts
from neumeta_hf.targets import find_target, load_network
from neumeta_hf.tasks import build_task

ROOT = Path(__file__).parents[2]
FAMILY = find_target("autoencoder_tiny")
TASK = build_task(FAMILY.task)
CUT_OFF = 0.05
"""Of the crops, for validation and for the test of a run, each."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="folder or Hub id of an AutoencoderTiny")
    parser.add_argument("--photos", required=True, nargs="+", help="data sets of images; the first is measured on")
    parser.add_argument("--runs", default="outputs/taesd", help="folder of all work; default: %(default)s")
    parser.add_argument(
        "--steps", type=int, default=6000, help="of the family and of each decoder; default: %(default)s"
    )
    parser.add_argument("--batch-size", type=int, default=16, help="default: %(default)s")
    parser.add_argument("--crop", type=int, default=64, help="pixels, a multiple of 8; default: %(default)s")
    parser.add_argument("--crops", type=int, default=20_000, help="at most, over all data sets; default: %(default)s")
    parser.add_argument("--alone", type=float, nargs="*", default=[0.75, 0.5], help="default: %(default)s")
    parser.add_argument("--widths", type=float, nargs="+", default=[1.0, 0.875, 0.75, 0.6, 0.5], help="%(default)s")
    parser.add_argument("--images", type=int, help="that are measured; default: all of the validation split")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="of recipes")
    parser.add_argument("--output", default=str(ROOT / "docs/results/taesd"), help="PREFIX; default: %(default)s")
    return parser


def read_images(folder: str, split: str) -> Any:
    """The images of a split, as a column that decodes one at a time."""
    data = datasets.load_dataset(folder, split=split)
    assert isinstance(data, datasets.Dataset)
    column = next(name for name, feature in data.features.items() if isinstance(feature, datasets.Image))
    return data[column]


def make_crops(folders: list[str], number: int, side: int) -> list[Image.Image]:
    """Crops of training images, the same at every call, in turn from each data set.

    Args:
        folders: Data sets.
        number: How many.
        side: Height and width in pixels. Images that are smaller are enlarged; of larger ones a random part is taken,
            at a random scale from where it just fits up to the image's own.

    Returns:
        RGB images.
    """
    rng, sources = np.random.default_rng(0), [read_images(folder, "train") for folder in folders]
    crops = []
    for index in range(number):
        source = sources[index % len(sources)]
        image = source[int(rng.integers(len(source)))].convert("RGB")
        smallest = side / min(image.size)
        scale = smallest if smallest >= 1 else float(rng.uniform(smallest, 1.0))
        width, height = (max(side, round(edge * scale)) for edge in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
        crops.append(image.crop((left, top, left + side, top + side)))
    return crops


def plan_steps(steps: int, batch_size: int, most_crops: int) -> tuple[int, int]:
    """How many crops and epochs make up a number of steps, as nearly as whole epochs can.

    Returns:
        Crops, those included that a run cuts off, and epochs.
    """
    wanted = round((steps + 1) * batch_size / (1 - 2 * CUT_OFF)) + 1
    crops = max(min(most_crops, wanted), round(1 / CUT_OFF) * 2)
    per_epoch = max(1, (crops - 2 * round(CUT_OFF * crops)) // batch_size)
    return crops, max(1, round(steps / per_epoch))


class Benchmark:
    """Runs, and what was measured of them.

    Args:
        arguments: Of the command.
    """

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.runs = Path(arguments.runs)
        self.crops, self.epochs = plan_steps(arguments.steps, arguments.batch_size, arguments.crops)
        self.photos = self.runs / f"photos-{arguments.crop}-{self.crops}"
        photos = read_images(arguments.photos[0], "validation")
        self.images = [to_tensor(photos[index]) for index in range(arguments.images or len(photos))]

    def prepare_photos(self) -> None:
        """Write the crops, unless they are there."""
        file = self.photos / "train.parquet"
        if file.is_file():
            return
        self.photos.mkdir(parents=True, exist_ok=True)
        crops = make_crops(self.arguments.photos, self.crops, self.arguments.crop)
        features = datasets.Features({"image": datasets.Image()})
        datasets.Dataset.from_dict({"image": crops}, features=features).to_parquet(file)

    def trained(self, name: str, *overrides: str) -> Path:
        """The folder of a run, which is started, resumed or taken as it is."""
        folder = self.runs / f"{name}-{self.arguments.steps}-seed{self.arguments.seed}"
        if not (folder / "training.json").is_file():
            path = self.runs / f"{folder.name}.yaml"
            path.write_text(yaml.safe_dump(self.recipe(folder), sort_keys=False), encoding="utf-8")
            recipe = load_recipe(path, [*self.arguments.overrides, *overrides])
            train(recipe, resume=(folder / "recipe.yaml").is_file())
        return folder

    def recipe(self, output: Path) -> dict[str, Any]:
        """The recipe of the family."""
        return {
            "output_dir": str(output),
            "seed": self.arguments.seed,
            "mixed_precision": "auto",
            "data": {
                "dataset": str(self.photos),
                "labels": "none",
                "image_size": self.arguments.crop,
                "num_channels": 3,
                "mean": [0.5] * 3,
                "std": [0.5] * 3,
                "test_fraction": CUT_OFF,
                "validation_fraction": CUT_OFF,
            },
            "target": {"family": FAMILY.name, "checkpoint": self.arguments.checkpoint},
            "preparation": {"normalization": "keep", "order": "importance"},
            "family": {
                "hypernetwork": {"type": "grid", "positions": "absolute", "levels": 3},
                "generated": ["decoder"],
                "coordinate_noise": 0.0,
            },
            "sizes": {"widths": "0.5:1.0:0.0625", "sampler": "sandwich", "num_random": 1},
            # What the original decodes is the target, not the image.
            "losses": {"task": 0.0, "reconstruction": 0.0, "regularization": 0.0, "distillation": 1.0},
            "train": {
                "epochs": self.epochs,
                "batch_size": self.arguments.batch_size,
                "optimizer": {"name": "adamw", "learning_rate": 0.001, "weight_decay": 0.0},
                "schedule": {"name": "one_cycle", "warmup": 0.1},
                "clip": 1.0,  # without normalisation a narrow slice of the reference may put out huge values at first
                "ema_decay": 0.995,
                "evaluate_every": max(1, self.epochs // 4),
            },
            "validation_widths": [0.5, 1.0],
        }

    def family(self) -> NeuMetaModel:
        """The family of decoders."""
        return NeuMetaModel.from_pretrained(self.trained("family"))

    def alone(self, width: float) -> nn.Module:
        """A decoder of one width, cut from the reference and distilled alone."""
        changes = (
            f"sizes={{widths: [{width}], sampler: uniform, num_random: 1}}",
            f"validation_widths=[{width}]",
            "family.hypernetwork={type: grid, positions: absolute}",
        )
        return NeuMetaModel.from_pretrained(self.trained(f"alone-{width:g}", *changes)).morph(width)

    def measure(self, method: str, width: float, network: nn.Module, **facts: Any) -> dict[str, Any]:
        """PSNR and the like of whole images, and what the network costs."""
        meter = TASK.make_meter(FAMILY, network, "validation")
        with torch.inference_mode():
            for image in self.images:
                meter.add(FAMILY.forward(network, image), {"pixel_values": image})
        row = {
            **{"method": method, "width": width, **meter.compute(), **facts},
            "num_parameters": count_parameters(network),
            "macs": count_macs(network, self.images[0], family=FAMILY),
        }
        print(f"{method}, width {width:g}: {row['psnr']:.2f} dB, {row['num_parameters']:,} parameters", flush=True)
        return row


def to_tensor(image: Image.Image) -> Tensor:
    """An image in [-1, 1], `[1, 3, height, width]`, its edges cut to multiples of 8 pixels."""
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).movedim(-1, 0)[None]
    height, width = (edge // 8 * 8 for edge in pixels.shape[-2:])
    return pixels[..., :height, :width].float() / 127.5 - 1


def main(argv: list[str] | None = None) -> int:
    """Train, measure and write."""
    arguments = build_parser().parse_args(argv)
    setup_logging()
    benchmark = Benchmark(arguments)
    benchmark.prepare_photos()
    family, original = benchmark.family(), load_network(arguments.checkpoint).float()
    rows = [benchmark.measure("original", 1.0, original)]
    shown = {"original": original}
    for width in arguments.widths:
        morph = family.morph(width)
        trained = width in (family.config.trained_widths or [])
        rows.append(benchmark.measure("family", width, morph, trained=trained))
        morph.save_pretrained(benchmark.runs / "morphs" / f"{width:g}")
        shown[f"{width:g}"] = morph
    rows += [benchmark.measure("alone", width, benchmark.alone(width)) for width in arguments.alone]
    by_method = {(row["method"], row["width"]): row["psnr"] for row in rows}
    summary = {
        "full_width_against_original": round(by_method.get(("family", 1.0), np.nan) - rows[0]["psnr"], 3),
        "against_alone": {
            f"{width:g}": round(by_method["family", width] - by_method["alone", width], 3)
            for width in arguments.alone
            if ("family", width) in by_method
        },
    }
    print(json.dumps(summary, indent=1))
    facts = {
        **environment_facts("cpu"),
        **{"checkpoint": Path(arguments.checkpoint).name, "photos": [Path(name).name for name in arguments.photos]},
        **{name: vars(arguments)[name] for name in ("steps", "batch_size", "crop", "seed", "overrides")},
        **{"crops": benchmark.crops, "epochs": benchmark.epochs, "num_images": len(benchmark.images)},
    }
    prefix = Path(arguments.output)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"facts": facts, "summary": summary, "rows": rows}, indent=1)
    Path(f"{prefix}.json").write_text(text + "\n", encoding="utf-8")
    photo = benchmark.images[len(benchmark.images) // 2]
    TASK.draw(FAMILY, shown, {"pixel_values": photo}, (photo + 1) / 2, []).savefig(f"{prefix}.png", dpi=150)
    return 0


if __name__ == "__main__":
    sys.exit(main())
