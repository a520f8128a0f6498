"""Families of a language model and of a sentence encoder, from real checkpoints, beside the same sizes trained alone.

    python examples/benchmarks/text_families.py stories260k --checkpoint path/to/stories260k
    python examples/benchmarks/text_families.py minilm --checkpoint path/to/all-MiniLM-L6-v2 --data path/to/stsb

`stories260k` is the recipe examples/recipes/stories260k_llama.yaml, on text that the network writes itself, `minilm`
is examples/recipes/minilm_bert.yaml. Measured on the test split, at full size, at small widths, at fewer layers and at
both:

- reference: the network of the checkpoint;
- family: its morphs, of one training;
- alone: the same size cut out of the prepared reference, and distilled for as many steps with the same settings (a
  family of that size alone);
- cut: the same size cut out, and not trained.

With each: parameters, multiply-accumulates and how many sentences or tokens a second one forward pass takes in; of the
language model also a text at four sizes, always the likeliest token. --steps says how many training steps each has, of
which an epoch is made that is as long, or several. --texts adds sentences of plain texts to the training pairs. Work is
kept in --runs: an interrupted call goes on where it was. Writes docs/results/NAME.json and its figure.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import nn

from neumeta_hf import NeuMetaModel, load_recipe, train
from neumeta_hf.cli import setup_logging
from neumeta_hf.data import generated_data, load_data, make_preprocessor
from neumeta_hf.evaluation import count_macs, count_parameters, environment_facts, evaluate_network
from neumeta_hf.family_sizes import ignore_size_warnings
from neumeta_hf.files import write_beside
from neumeta_hf.targets import find_target, load_network
from neumeta_hf.tasks.sampling import sample_tokens
from neumeta_hf.training import Recipe, task_of

ROOT = Path(__file__).parents[2]
RECIPES = {"stories260k": "stories260k_llama", "minilm": "minilm_bert"}
Size = tuple[float, float]  # width and depth
SIZES: dict[str, tuple[Size, ...]] = {
    "stories260k": ((1.0, 1.0), (0.75, 1.0), (0.5, 1.0), (0.75, 0.6)),
    "minilm": ((1.0, 1.0), (0.5, 1.0), (1.0, 0.67), (0.5, 0.67)),
}
PROMPT = "Once upon a time"
NEW_TOKENS = 120
TIMED_ROWS, ROUNDS = 32, 5
MARKERS = {"reference": "*", "family": "o", "alone": "s", "cut": "x"}
COLORS = {"reference": "#222222", "family": "#1f5fa8", "alone": "#777777", "cut": "#c0562b"}


class Benchmark:
    """What was measured so far, of one checkpoint.

    Args:
        arguments: Of the command.
    """

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.sizes = SIZES[arguments.name]
        self.runs = Path(arguments.runs or ROOT / "outputs" / "text_families" / arguments.name)
        self.runs.mkdir(parents=True, exist_ok=True)
        self.rows: list[dict[str, Any]] = []
        recipe = self.recipe()
        self.task, self.family = task_of(recipe), find_target(recipe.target.family)

    def recipe(self, *overrides: str) -> Recipe:
        """The recipe on the given data, as long as asked, with overrides; the last ones win."""
        asked, path = self.arguments, ROOT / "examples" / "recipes" / f"{RECIPES[self.arguments.name]}.yaml"
        said = [f"target.checkpoint={asked.checkpoint}", f"seed={asked.seed}"]
        if asked.data is not None:
            said.append(f"data.dataset={asked.data}")
        if asked.texts:
            said.append(f"data.dataset={self._pairs()}")
        recipe = load_recipe(path, [*said, *asked.overrides])
        return load_recipe(path, [*said, *asked.overrides, *self._lengths(recipe), *overrides])

    def _lengths(self, recipe: Recipe) -> list[str]:
        """Overrides for as many steps as asked: a part of an epoch, or whole ones."""
        steps, data, loop = self.arguments.steps, recipe.data, recipe.train
        if steps is None or loop is None:
            return []
        if data.dataset == "generated":
            kept = (1 - data.validation_fraction) * (1 - (data.test_fraction or 0.1))
            wanted = int(1.1 * steps * loop.batch_size * data.block_size / kept)
            epochs = -(-wanted // data.generated_tokens)
            least = 100 * data.block_size  # of which some are left for validation and test
            return [f"train.epochs={epochs}", f"data.generated_tokens={max(least, wanted // epochs)}"]
        rows = len(datasets.load_dataset(data.dataset, split="train"))
        epochs = -(-steps * loop.batch_size // rows)
        return [f"train.epochs={epochs}", f"data.train_split=train[:{steps * loop.batch_size // epochs}]"]

    def _pairs(self) -> Path:
        """The pairs of --data with pairs of neighbouring sentences of --texts for training, as another data set."""
        folder = self.runs / "pairs"
        if not (folder / "test.parquet").is_file():
            folder.mkdir(exist_ok=True)
            pairs: Any = datasets.load_dataset(self.arguments.data)
            texts: Any = datasets.load_dataset(self.arguments.texts, split="train")
            found = [sentence for text in texts["text"] for sentence in sentences(text)]
            columns = {"sentence1": found[::2], "sentence2": found[1::2]}
            count = min(map(len, columns.values()))
            columns = {name: values[:count] for name, values in columns.items()}
            # Nothing looks at scores of training pairs.
            added = datasets.Dataset.from_dict({**columns, "score": [None] * count}, features=pairs["train"].features)
            pairs["train"] = datasets.concatenate_datasets([pairs["train"], added]).shuffle(seed=0)
            for split, rows in pairs.items():
                rows.to_parquet(folder / f"{split}.parquet")
        return folder

    def trained(self, name: str, *overrides: str) -> Path:
        """The folder of a run, which is started, resumed or taken as it is."""
        folder = self.runs / f"{name}-seed{self.arguments.seed}"
        if not (folder / "training.json").is_file():
            recipe = self.recipe(f"output_dir={folder}", "keep_state=false", *overrides)
            train(recipe, resume=(folder / "recipe.yaml").is_file())
        return folder

    def run(self) -> dict[str, Any]:
        """Train and measure all.

        Returns:
            What is written.
        """
        folder = self.trained("family")
        recipe = self.recipe()
        tokenizer = make_preprocessor(recipe.data, self.task, str(folder))
        self.split = load_data(generated_data(recipe.data, self.task, folder), self.task, tokenizer).test
        family: Any = NeuMetaModel.from_pretrained(folder)
        reference = load_network(str(folder / "reference"))
        # Of any size, before a step of training.
        options = {**vars(recipe.family), "normalization": "keep", "block_ranking": family.config.block_ranking}
        start: Any = NeuMetaModel.from_reference(reference, **options)
        texts = {}
        self.measure("reference", (1.0, 1.0), reference)
        for size in self.sizes:
            width, depth = size
            with ignore_size_warnings():
                morph, cut = family.morph(width, depth=depth), start.morph(width, depth=depth)
            self.measure("family", size, morph)
            if self.task.name == "causal-lm":
                texts[f"width {width:g}, depth {depth:g}"] = written(morph, tokenizer)
            if size == (1.0, 1.0):
                continue
            self.measure("cut", size, cut)
            alone = self.trained(
                f"alone-{width:g}-{depth:g}",
                f"sizes={{widths: [{width}], depths: [{depth}], sampler: uniform, num_random: 1}}",
                f"validation_widths=[{width}]",
                "family.hypernetwork={type: grid, positions: absolute}",
            )
            one: Any = NeuMetaModel.from_pretrained(alone)
            self.measure("alone", size, one.morph(width, depth=depth))
        recipe.data.dataset = Path(recipe.data.dataset).name
        recipe.target.checkpoint = Path(str(recipe.target.checkpoint)).name
        facts = {
            **environment_facts("cpu"),
            "seed": self.arguments.seed,
            "checkpoint": recipe.target.checkpoint,
            "task": self.task.name,
            "score": self.task.scores[0].to_dict(),
            "steps": {path.name: steps_of(path) for path in sorted(self.runs.glob("*-seed*"))},
            "seconds": {
                path.name: round(sum(json.loads((path / "training.json").read_text())["seconds"].values()), 1)
                for path in sorted(self.runs.glob("*-seed*"))
            },
            "recipe": recipe.to_dict(),
        }
        return {"facts": facts, "rows": self.rows, **({"texts": texts} if texts else {})}

    def measure(self, method: str, size: Size, network: nn.Module) -> None:
        """Add a row."""
        scores = evaluate_network(network, self.split, task=self.task, family=self.family)
        batch = self.split.sample(TIMED_ROWS)
        example = self.family.inputs_of({name: tensor[:1] for name, tensor in batch.items()})
        self.rows.append(
            {
                "method": method,
                "width": size[0],
                "depth": size[1],
                "class": type(network).__name__,
                **{name: round(value, 6) for name, value in scores.items() if name != "num_samples"},
                "parameters": count_parameters(network),
                "macs": count_macs(network, example, family=self.family),
                "tokens_of_macs": example["input_ids"].numel(),
                **self._speed(network, batch),
            }
        )
        print(self.rows[-1], flush=True)

    def _speed(self, network: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        """How many rows and tokens a second the network reads; the best of some rounds."""
        found = []
        with torch.inference_mode():
            for _ in range(ROUNDS):
                start = time.perf_counter()
                self.family.forward(network, batch)
                found.append(time.perf_counter() - start)
        rows = batch["input_ids"]
        kind = "sentences" if "attention_mask" in batch else "blocks"
        return {f"{kind}_per_second": round(len(rows) / min(found), 1)}


def sentences(text: str) -> list[str]:
    """The sentences of a text: what ends with a full stop, a question or an exclamation mark."""
    return [found for part in re.split(r"(?<=[.!?])\s+", text) if 20 <= len(found := " ".join(part.split())) <= 300]


def written(network: nn.Module, tokenizer: Any) -> str:
    """What a network goes on with, always the likeliest token."""
    prompt = torch.tensor([tokenizer(PROMPT)["input_ids"]])
    end = tokenizer.eos_token_id
    (tokens,) = sample_tokens(network, prompt, num_tokens=NEW_TOKENS, temperature=0.0, seed=0, end=end)
    return tokenizer.decode(tokens, skip_special_tokens=True)


def draw(result: dict[str, Any], path: Path) -> None:
    """Write the picture of the first score against parameters, a marker per way and a label per size.

    Args:
        result: As written.
        path: Name of the file.
    """
    score = result["facts"]["score"]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for method, marker in MARKERS.items():
        rows = [row for row in result["rows"] if row["method"] == method]
        points = [row["parameters"] for row in rows], [row[score["name"]] for row in rows]
        axes.scatter(*points, label=method, marker=marker, color=COLORS[method], s=50)
        if method == "family":
            for row, *place in zip(rows, *points, strict=True):
                label = f"width {row['width']:g}, depth {row['depth']:g}"
                axes.annotate(label, place, xytext=(6, 6), textcoords="offset points", fontsize=7)
    axes.set(xlabel="parameters", ylabel=score["label"])
    axes.margins(x=0.2)
    axes.legend(frameon=False)
    with write_beside(path) as beside:
        figure.savefig(beside, dpi=130, format="png")


def steps_of(folder: Path) -> int:
    """How many optimiser steps a run took."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return max(line["step"] for line in lines if "step" in line)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--checkpoint", required=True, help="folder or Hub id of the network, with its tokenizer")
    parser.add_argument("--data", help="Hub id or folder of the pairs; default: the recipe's data set")
    parser.add_argument("--texts", help="Hub id or folder of texts, whose sentences are trained on beside the pairs")
    parser.add_argument("--steps", type=int, help="of each training, about so many; default: what the recipe says")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--runs", help="folder of the work; default: outputs/text_families/NAME")
    parser.add_argument("--output", help="the file to write; default: docs/results/NAME.json")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print, write."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.texts and (arguments.name != "minilm" or arguments.data is None):
        parser.error("--texts: of minilm alone, beside --data, the pairs that their sentences are added to.")
    setup_logging()
    result = Benchmark(arguments).run()
    name = result["facts"]["score"]["name"]
    table = Table("method", "width", "depth", name, "parameters", "MACs", "a second")
    for row in result["rows"]:
        speed = next(value for key, value in row.items() if key.endswith("_per_second"))
        cells = (f"{row['width']:g}", f"{row['depth']:g}", f"{row[name]:.4f}", f"{row['parameters']:,}")
        table.add_row(row["method"], *cells, f"{row['macs']:,}", f"{speed:g}")
    Console().print(table)
    output = Path(arguments.output or ROOT / "docs" / "results" / f"{arguments.name}.json")
    with write_beside(output) as beside:
        beside.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draw(result, output.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
