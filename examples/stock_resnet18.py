"""A family of stock transformers ResNet-18s: prepare, train a little, morph, reload, and run in a pipeline.

    python examples/stock_resnet18.py --output outputs/stock_resnet18

The morphs are plain `ResNetForImageClassification` folders: they load without this package. A few minutes on two cores.
"""

import argparse
import sys
from pathlib import Path

from PIL import Image
from rich.console import Console
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from neumeta_hf import NeuMetaModel, load_image_data, load_recipe, sweep, train
from neumeta_hf.cli import setup_logging
from neumeta_hf.evaluation import evaluate_network

RECIPE = Path(__file__).parent / "recipes" / "digits_resnet18.yaml"
WIDTHS = (1.0, 0.75, 0.5)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="outputs/stock_resnet18", help="new folder; default: %(default)s")
    parser.add_argument("--result", help="PREFIX of a JSON file and a picture to write, too")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    return parser


def main() -> int:
    """Train, morph at three widths, reload each as anybody would, classify an image."""
    arguments = build_parser().parse_args()
    setup_logging()
    output = Path(arguments.output)
    recipe = load_recipe(RECIPE, [f"output_dir={output / 'family'}", *arguments.overrides])
    train(recipe)
    data = load_image_data(recipe.data)
    family = NeuMetaModel.from_pretrained(output / "family")
    processor = AutoImageProcessor.from_pretrained(output / "family")
    batch = data.test[0]
    seen = recipe.data.preprocessing
    pixels = (batch["pixel_values"][0] * seen.std[0] + seen.mean[0]).mul(255).round().byte()
    result = sweep(
        family,
        data.test,
        WIDTHS,
        reference=AutoModelForImageClassification.from_pretrained(output / "family" / "reference"),
        facts={"title": "stock ResNet-18", "dataset": recipe.data.dataset, "split": "test", "recipe_seed": recipe.seed},
    )
    for row in result.rows:
        folder = output / f"resnet18-{row.width:g}"
        family.morph(width=row.width).save_pretrained(folder)
        processor.save_pretrained(folder)
        model = AutoModelForImageClassification.from_pretrained(folder)  # as anybody would, without this package
        if evaluate_network(model, data.test)["accuracy"] != row.scores["accuracy"]:
            print(f"the reloaded morph of width {row.width:g} is another network", file=sys.stderr)
            return 1
        best = pipeline("image-classification", model=str(folder))(Image.fromarray(pixels.numpy()))[0]
        print(
            f"width {row.width:g}: {type(model).__name__}; the pipeline says {best['label']!r} ({best['score']:.0%}), "
            f"it is {data.label_names[int(batch['labels'])]!r}"
        )
    Console().print(*result.tables())
    if arguments.result:
        prefix = Path(arguments.result)
        result.save_json(prefix.with_name(prefix.name + ".json"))
        result.plot(prefix.with_name(prefix.name + ".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
