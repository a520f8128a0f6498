"""The `neumeta` command: train, prepare, morph, evaluate, info, push."""

import argparse
import importlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neumeta_hf.errors import CheckpointError, DataError, NeuMetaError, RecipeError, SizeError, one_line

if TYPE_CHECKING:
    from neumeta_hf.data import ImageData
    from neumeta_hf.modeling_neumeta import NeuMetaModel
    from neumeta_hf.training import Recipe

_EPILOG = """\
examples:
  neumeta train --config examples/recipes/digits_lenet.yaml --set output_dir=outputs/digits
  neumeta info outputs/digits
  neumeta evaluate outputs/digits --widths 0.25:1.0:0.125
  neumeta morph outputs/digits --width 0.5 --output outputs/digits-0.5
  neumeta push outputs/digits org/digits --license apache-2.0
  neumeta push org/digits org/digits --widths 1.0,0.5,0.25
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command and its subcommands."""
    parser = argparse.ArgumentParser(
        prog="neumeta",
        description="Turn one trained network into a family, and take any size of it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bars, warnings and errors only")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_train(commands)
    _add_prepare(commands)
    _add_morph(commands)
    _add_evaluate(commands)
    _add_info(commands)
    _add_push(commands)
    for name, command in commands.choices.items():
        if name != "train":  # which has it among its arguments
            _add_import(command)
    return parser


def _add_train(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "train",
        help="run a recipe: reference, preparation, hypernetwork",
        description="Run a recipe, from data to a family in its output folder. For several processes use "
        "`accelerate launch examples/train.py` with the same arguments.",
    )
    add_train_arguments(parser)


def _add_prepare(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "prepare",
        help="make a trained network smooth: fuse BatchNorm, order its channels",
        description="Prepare a trained network for a family: fuse (or keep) BatchNorm and order the channels of every "
        "clique so that neighbouring weights are alike. What the network computes does not change; that is checked.",
    )
    parser.add_argument("model", help="folder or Hub id of a network of a registered target family")
    parser.add_argument("--output", required=True, help="folder for the prepared network; must not exist")
    parser.add_argument("--normalization", choices=("fuse", "keep"), default="fuse", help="default: %(default)s")
    parser.add_argument(
        "--order", choices=("path", "random", "identity", "importance"), default="path", help="default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")


def _add_morph(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "morph",
        help="write a plain network of any size",
        description="Write a plain network of the size asked for, a model of transformers or diffusers, with the "
        "family's image processor and a card that says where it comes from.",
    )
    parser.add_argument("checkpoint", help="folder or Hub id of a family")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--width",
        default="1.0",
        help="a ratio for all width groups (0.5), or one per group (stage3=0.25,stage2=0.5); default: %(default)s",
    )
    size.add_argument(
        "--max-macs", type=float, metavar="N", help="the largest width of at most N multiply-accumulates an image"
    )
    size.add_argument("--max-parameters", type=float, metavar="N", help="the largest width of at most N parameters")
    parser.add_argument(
        "--multiple-of",
        type=int,
        default=1,
        metavar="N",
        help="with one of these budgets: only widths with multiples of N channels, such as 8; default: any",
    )
    parser.add_argument("--output", required=True, help="folder for the network; must not exist")
    _add_sampling(parser)


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="measure scores against size: table, JSON, CSV and picture",
        description="Measure the scores of the task (accuracy, mean IoU, reconstruction error), parameters and MACs at "
        "many widths on the test split of the data that the family was trained on. Prints a table and writes "
        "PREFIX.json, PREFIX.csv and PREFIX.png.",
    )
    parser.add_argument("checkpoint", help="folder of a family, with the recipe.yaml of its run")
    parser.add_argument(
        "--widths", default="0.25:1.0:0.125", help="range first:last:step, or list a,b,c; default: %(default)s"
    )
    parser.add_argument("--split", choices=("validation", "test"), default="test", help="default: %(default)s")
    parser.add_argument("--dataset", help="data set to use instead of the recipe's, such as a local folder")
    _add_overrides(parser, "task.features=path/to/classifier")
    parser.add_argument(
        "--reference", help="plain network to compare with; default: the checkpoint's reference folder where it has one"
    )
    parser.add_argument("--output", help="PREFIX of the files; default: CHECKPOINT/sweep")
    parser.add_argument(
        "--figures",
        action="store_true",
        help="also PREFIX_images.png: what networks of these widths make of the same images",
    )
    _add_sampling(parser)


def _add_info(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "info", help="what a family is: target, what is generated, trained range, sizes, preparation"
    )
    parser.add_argument("checkpoint", help="folder or Hub id of a family")
    parser.add_argument("--json", action="store_true", help="as JSON")


def _add_push(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "push",
        help="share a family, or morphs of it, on the Hub",
        description="Upload a family as one commit: weights, config, image processor, facts of its run and a model "
        "card with its scores by size (run evaluate first). With --widths, upload plain networks of these sizes "
        "instead, each into a repo of its own (REPO-w50 for width 0.5) or, with --as-revisions, into a branch (w50) "
        "of REPO.",
    )
    parser.add_argument("checkpoint", help="folder or Hub id of a family")
    parser.add_argument("repo", help="organisation/name; made if it does not exist")
    parser.add_argument("--widths", help="range first:last:step, or list a,b,c: push morphs instead of the family")
    parser.add_argument("--as-revisions", action="store_true", help="with --widths: branches of one repo")
    parser.add_argument("--private", action="store_true", default=None, help="of repos that are made")
    parser.add_argument("--revision", help="branch to push the family to; default: main")
    parser.add_argument(
        "--license",
        help='of the weights, a Hub identifier such as apache-2.0; default: as the card there says, or "unknown"',
    )
    parser.add_argument("--message", help="of the commit")
    parser.add_argument("--overwrite-card", action="store_true", help="also what somebody wrote into the card by hand")
    parser.add_argument(
        "--with-code", action="store_true", help="add the code that lets people load it without this package"
    )


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of a training run, for the command and for `examples/train.py`.

    Args:
        parser: Gets the arguments.
    """
    parser.add_argument("--config", required=True, metavar="FILE", help="recipe, a YAML file; see examples/recipes")
    _add_overrides(parser, "train.epochs=3")
    _add_import(parser)
    parser.add_argument("--resume", action="store_true", help="go on with the run in the recipe's output folder")


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--import",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="import a Python module first, which registers a target family, hypernetwork or task of your own; may be "
        "given again",
    )


def _import(name: str) -> None:
    if (here := os.getcwd()) not in sys.path:  # where one's own files are; it is there already for `python -m`
        sys.path.insert(0, here)
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise RecipeError(
            f"--import {name}: {one_line(error)}. Give the name of a module in this folder or of an installed one."
        ) from error


def _add_overrides(parser: argparse.ArgumentParser, example: str) -> None:
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"override a key of the recipe, for example --set {example}; may be given again",
    )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--num-samples", type=int, default=1, help="noisy generations averaged per network; 1 is exact (default)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of that noise; default: %(default)s")
    parser.add_argument(
        "--calibrate",
        type=int,
        default=0,
        metavar="IMAGES",
        help="where BatchNorm was kept: measure its statistics on so many training images at every size",
    )


def parse_width(text: str) -> float | dict[str, float]:
    """Read the width of a morph.

    Args:
        text: "0.5", or "stage3=0.25,stage2=0.5".

    Returns:
        A ratio, or a ratio per width group.

    Raises:
        SizeError: The text is neither.
    """
    try:
        if "=" not in text:
            return float(text)
        ratios = [
            (group.strip(), float(ratio)) for group, _, ratio in (part.partition("=") for part in text.split(","))
        ]
        if len(dict(ratios)) < len(ratios):
            raise ValueError("a group is named twice")
        return dict(ratios)
    except ValueError as error:
        raise SizeError(
            f"width {text!r} is no size: give a ratio such as 0.5, or one per width group such as "
            "stage3=0.25,stage2=0.5."
        ) from error


def run_train(arguments: argparse.Namespace) -> None:
    """Run a recipe.

    Args:
        arguments: As from `add_train_arguments`.

    Raises:
        NeuMetaError: As `neumeta_hf.train`.
    """
    from neumeta_hf.training import load_recipe, train

    recipe = load_recipe(arguments.config, arguments.overrides)
    output = train(recipe, resume=arguments.resume)
    if output is None or int(os.environ.get("RANK", "0")) > 0:
        return
    if recipe.train is None:
        print(f"reference saved in {output / 'reference'}")
    else:
        print(f"family saved in {output}: try `neumeta evaluate {output}`")


def _prepare(arguments: argparse.Namespace) -> None:
    from neumeta_hf.preparation import prepare
    from neumeta_hf.targets import load_network

    output = _new_folder(arguments.output)
    model: Any = load_network(arguments.model)
    prepared, report = prepare(model, normalization=arguments.normalization, order=arguments.order, seed=arguments.seed)
    prepared.save_pretrained(output)
    (output / "preparation.json").write_text(json.dumps(report.to_dict(), indent=1) + "\n", encoding="utf-8")
    print(
        f"{len(report.cliques)} cliques ordered by {report.method}: total variation {report.tv_before:.1f} -> "
        f"{report.tv_after:.1f} ({report.tv_after / max(report.tv_before, 1e-12) - 1:+.1%}), largest relative change "
        f"of the outputs {report.max_relative_error:.1e}\nprepared network saved in {output}"
    )


def _morph(arguments: argparse.Namespace) -> None:
    from neumeta_hf.evaluation import count_parameters, find_width
    from neumeta_hf.hub import PROCESSOR, save_morph

    width = parse_width(arguments.width)
    budget = arguments.max_parameters if arguments.max_macs is None else arguments.max_macs
    if budget is None and arguments.multiple_of != 1:
        raise RecipeError(
            f"--multiple-of {arguments.multiple_of} chooses among the widths of a budget: name one with --max-macs or "
            "--max-parameters, or drop it."
        )
    output = _new_folder(arguments.output)
    family = _load_family(arguments.checkpoint)
    if budget is not None:
        cost = "parameters" if arguments.max_macs is None else "macs"
        width = find_width(family, budget, cost=cost, multiple_of=arguments.multiple_of)
    model = family.morph(
        width, num_samples=arguments.num_samples, seed=arguments.seed, calibration=_calibration(arguments, family)
    )
    save_morph(model, model.morph_origin, output)
    if not (output / PROCESSOR).is_file():
        print(f"note: no image processor is written, {arguments.checkpoint} has none", file=sys.stderr)
    chosen = "" if budget is None else f"of width {width:g} "
    print(f"{type(model).__name__} {chosen}with {count_parameters(model):,} parameters saved in {output}")


def _evaluate(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from neumeta_hf.data import load_image_data
    from neumeta_hf.evaluation import draw_networks, parse_widths, sweep
    from neumeta_hf.hub import RunSource, read_training
    from neumeta_hf.targets import load_network
    from neumeta_hf.training import task_of

    widths = parse_widths(arguments.widths)
    checkpoint = Path(arguments.checkpoint)
    prefix = Path(arguments.output) if arguments.output else checkpoint / "sweep"
    if arguments.output and not prefix.name:
        raise RecipeError(f"--output {arguments.output}: name the files too, for example {prefix / 'sweep'}.")
    if arguments.output and not prefix.parent.is_dir():
        raise RecipeError(f"--output {prefix}: the folder {prefix.parent} does not exist. Make it, or name another.")
    family = _load_family(arguments.checkpoint)
    recipe = _recipe_of(arguments)
    # How the family came about: command, seed, versions and sizes, as its run wrote them down.
    training = read_training(RunSource.of_folder(checkpoint).find("training.json"))
    task, data = task_of(recipe), load_image_data(recipe.data)
    folder = Path(arguments.reference) if arguments.reference else checkpoint / "reference"
    reference = None
    if arguments.reference or folder.is_dir():
        reference = load_network(str(folder))
    split = data.test if arguments.split == "test" else data.validation
    sampling: dict[str, Any] = {
        "num_samples": arguments.num_samples,
        "seed": arguments.seed,
        "calibration": _calibration(arguments, family, data),
    }
    loop = recipe.train or recipe.pretrain
    result = sweep(
        family,
        split,
        widths,
        task=task,
        reference=reference,
        num_workers=loop.num_workers if loop else 0,
        progress=not arguments.quiet,
        facts={
            "checkpoint": checkpoint.resolve().name,
            "dataset": Path(recipe.data.dataset).name,
            "split": arguments.split,
            "training": training,
        },
        **sampling,
    )
    Console().print(result.table())
    for suffix, write in ((".json", result.save_json), (".csv", result.save_csv), (".png", result.plot)):
        write(prefix.with_name(prefix.name + suffix))
    print(f"written: {prefix}.json, {prefix}.csv, {prefix}.png")
    if arguments.figures:
        path = prefix.with_name(f"{prefix.name}_images.png")
        draw_networks(family, split, widths, path, label_names=data.label_names, task=task, **sampling)
        print(f"written: {path}")


def _info(arguments: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from neumeta_hf.evaluation import count_parameters

    family = _load_family(arguments.checkpoint)
    config = family.config
    full_config: Any = config.target_config
    num_channels = family.target_family.num_channels(full_config)
    generated = family.num_generated_parameters
    widths = config.trained_widths
    facts = {
        "target family": family.target_family.name,
        "width groups": {group: num_channels[group] for group in family.width_groups},
        "trained widths": list(widths),
        "hypernetwork": config.hypernetwork,
        "hypernetwork parameters": count_parameters(family.hypernetwork),
        "generated parameters": generated,
        "static parameters": sum(tensor.numel() for tensor in family.static.parameters()),
        "hypernetwork / generated": round(count_parameters(family.hypernetwork) / generated, 2),
        "normalization": config.normalization,
        "widths with stored BatchNorm statistics": list(config.statistics_widths),
        "coordinate noise (channels)": config.coordinate_noise,
    }
    if config.preparation:
        facts["total variation before, after preparation"] = [
            round(config.preparation["tv_before"], 2),
            round(config.preparation["tv_after"], 2),
        ]
    if arguments.json:
        print(json.dumps(facts, indent=1))
        return
    table = Table(show_header=False, title=str(arguments.checkpoint))
    for name, value in facts.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
    Console().print(table)


def _push(arguments: argparse.Namespace) -> None:
    from neumeta_hf.evaluation import parse_widths

    if arguments.widths is None and arguments.as_revisions:
        raise RecipeError("--as-revisions is for morphs: name their sizes with --widths.")
    if arguments.widths is not None and (arguments.with_code or arguments.revision):
        raise RecipeError("--widths pushes plain networks: --with-code and --revision are for the family. Drop them.")
    widths = None if arguments.widths is None else parse_widths(arguments.widths)
    family = _load_family(arguments.checkpoint)
    options = {
        "private": arguments.private,
        "license": arguments.license,
        "commit_message": arguments.message,
        "overwrite_card": arguments.overwrite_card,
    }
    if widths is None:
        commit = family.push_to_hub(
            arguments.repo, revision=arguments.revision, with_code=arguments.with_code, **options
        )
        print(f"family pushed: {commit}")
        return
    # All of them first: a size that there is not must not be met when others were published.
    morphs = {width: family.morph(width) for width in widths}
    for width, morph in morphs.items():
        name = f"w{100 * width:g}"
        if arguments.as_revisions:
            commit = morph.push_to_hub(arguments.repo, revision=name, **options)
        else:
            commit = morph.push_to_hub(f"{arguments.repo}-{name}", **options)
        print(f"width {width:g} pushed: {commit}")


def _load_family(name: str) -> "NeuMetaModel":
    from transformers import AutoConfig

    from neumeta_hf.checkpoints import explain_loading_errors
    from neumeta_hf.configuration_neumeta import NeuMetaConfig
    from neumeta_hf.modeling_neumeta import family_class
    from neumeta_hf.targets import find_target

    config = explain_loading_errors(name, lambda: AutoConfig.from_pretrained(name))
    if config.model_type != NeuMetaConfig.model_type:
        raise CheckpointError(
            f"{name} is one network, of model type {config.model_type!r}, and no family: give the output folder of a "
            "training run."
        )
    family: Any = family_class(find_target(config.target_config).task).from_pretrained(name)
    return family


def _recipe_of(arguments: argparse.Namespace) -> "Recipe":
    """The recipe of a checkpoint's run, with what the command says about its data."""
    from neumeta_hf.training import load_recipe

    checkpoint = Path(arguments.checkpoint)
    path = checkpoint / "recipe.yaml"
    if not path.is_file():
        raise CheckpointError(
            f"{checkpoint} has no recipe.yaml, which says what data the family was trained on: give the output folder "
            "of a training run."
        )
    recipe = load_recipe(path, getattr(arguments, "overrides", ()))
    if getattr(arguments, "dataset", None):
        recipe.data.dataset = arguments.dataset
    return recipe


def _calibration(arguments: argparse.Namespace, family: "NeuMetaModel", data: "ImageData | None" = None) -> Any:
    """The images that --calibrate asks for, of the data where they are loaded already."""
    if not arguments.calibrate:
        return None
    if arguments.calibrate < 0:
        raise DataError(f"--calibrate {arguments.calibrate}: give a number of images from 1 up, or 0 for none.")
    if not family.statistic_names:
        raise DataError("--calibrate: this family generates no BatchNorm, so there is nothing to calibrate. Drop it.")
    from neumeta_hf.data import load_image_data
    from neumeta_hf.training import calibration_batches

    data = data or load_image_data(_recipe_of(arguments).data)
    return calibration_batches(data.train, arguments.calibrate)


def _new_folder(name: str) -> Path:
    output = Path(name)
    if output.exists():
        raise RecipeError(f"--output {name} exists already: name a new folder, or remove it.")
    return output


_RUN = {"train": run_train, "prepare": _prepare, "morph": _morph, "evaluate": _evaluate, "info": _info, "push": _push}


def setup_logging(*, quiet: bool = False) -> None:
    """Let the library's log through, and silence what others say without being asked.

    Args:
        quiet: Warnings and errors only, no progress bars of others.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("neumeta_hf").setLevel(logging.WARNING if quiet else logging.INFO)
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {one_line(message, most=2000)}", file=sys.stderr)
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging as transformers_logging

    hub_logging.set_verbosity_error()  # it tells of every try to reach the Hub; what they come to is in our error
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # what does not fit is an error of ours, with less to read


def run(function, arguments: argparse.Namespace) -> int:
    """Call a command's function; an error of the library becomes one line.

    Args:
        function: Takes the arguments.
        arguments: Parsed ones.

    Returns:
        Exit code: 0, 2 for bad input, 130 when interrupted.
    """
    from huggingface_hub.errors import StrictDataclassError
    from tqdm.contrib.logging import logging_redirect_tqdm

    setup_logging(quiet=getattr(arguments, "quiet", False))
    try:
        with logging_redirect_tqdm():
            for name in arguments.modules:
                _import(name)
            function(arguments)
    # StrictDataclassError: a bad value in a config; OSError: a full disk, a folder that must not be written to.
    except (NeuMetaError, StrictDataclassError, OSError) as error:
        print(f"neumeta: error: {one_line(error, most=2000)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("neumeta: interrupted", file=sys.stderr)
        return 130
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command.

    Args:
        argv: Arguments; None: those of the process.

    Returns:
        Exit code: 0, or 2 after bad input.
    """
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.version:
        import neumeta_hf

        print(f"neumeta_hf {neumeta_hf.__version__}")
        return 0
    if arguments.command is None:
        parser.print_help()
        return 2
    return run(_RUN[arguments.command], arguments)


if __name__ == "__main__":
    sys.exit(main())
