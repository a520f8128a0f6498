"""A family of stock transformers ResNet-18s: prepare, train a little, morph, reload, and run in a pipeline.

    python examples/stock_resnet18.py --output outputs/stock_resnet18

The morphs are plain `ResNetForImageClassification` folders: they load without this package. A few minutes on two cores.
"""

import argparse
import json
import sys
from pathlib import Path

from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from neumeta_hf import NeuMetaModel, load_image_data, load_recipe, train
from neumeta_hf.cli import setup_logging
from neumeta_hf.evaluation import count_parameters, environment_facts, evaluate_classifier
from neumeta_hf.files import write_beside

RECIPE = Path(__file__).parent / "recipes" / "digits_resnet18.yaml"


def main() -> int:
    """Train, morph at three widths, reload each as anybody would, classify an image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="outputs/stock_resnet18", help="new folder; default: %(default)s")
    parser.add_argument("--result", help="also write accuracies and facts to this JSON file")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    setup_logging()
    output = Path(arguments.output)
    recipe = load_recipe(RECIPE, [f"output_dir={output / 'family'}", *arguments.overrides])
    train(recipe)
    data = load_image_data(recipe.data)
    family = NeuMetaModel.from_pretrained(output / "family")
    processor = AutoImageProcessor.from_pretrained(output / "family")
    batch = data.test[0]
    pixels = (batch["pixel_values"][0] * recipe.data.std[0] + recipe.data.mean[0]).mul(255).round().byte()
    rows = []
    for width in (1.0, 0.75, 0.5):
        folder = output / f"resnet18-{width:g}"
        family.morph(width=width).save_pretrained(folder)
        processor.save_pretrained(folder)
        model = AutoModelForImageClassification.from_pretrained(folder)
        classify = pipeline("image-classification", model=str(folder))
        best = classify(Image.fromarray(pixels.numpy()))[0]
        scores = evaluate_classifier(model, data.test)
        rows.append(
            {
                "width": width,
                "class": type(model).__name__,
                "num_parameters": count_parameters(model),
                "accuracy": scores["accuracy"],
                "pipeline_label": best["label"],
                "true_label": data.label_names[int(batch["labels"])],
            }
        )
        print(
            f"width {width:g}: {type(model).__name__}, {count_parameters(model):,} parameters, accuracy "
            f"{scores['accuracy']:.2%}; the pipeline says {best['label']!r} ({best['score']:.0%}), it is "
            f"{data.label_names[int(batch['labels'])]!r}"
        )
    if arguments.result:
        with write_beside(arguments.result) as beside:
            facts = {**environment_facts(), "seed": recipe.seed, "dataset": "digits", "split": "test"}
            beside.write_text(json.dumps({"facts": facts, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
