"""What each subcommand does, in the words of the command line."""

import argparse
import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neumeta_hf.cli.description import disk_facts, family_facts, say_unfinished, show_description, size_facts
from neumeta_hf.cli.devices import find_device
from neumeta_hf.cli.numbers import parse_budget, parse_depth, parse_width
from neumeta_hf.cli.shipped import init, list_guides, list_recipes, show_examples
from neumeta_hf.errors import CheckpointError, DataError, RecipeError, TargetError
from neumeta_hf.printable import printable

if TYPE_CHECKING:
    from neumeta_hf.checkpoints import Checkpoint
    from neumeta_hf.data import Data
    from neumeta_hf.modeling_neumeta import NeuMetaModel
    from neumeta_hf.tasks import Task
    from neumeta_hf.training import Recipe


logger = logging.getLogger(__name__)


def run_train(arguments: argparse.Namespace) -> None:
    """Run a recipe.

    Args:
        arguments: As from `add_train_arguments`.

    Raises:
        NeuMetaError: As `neumeta_hf.train`.
    """
    from neumeta_hf.shipped import find_recipe
    from neumeta_hf.training import load_recipe, train

    path = find_recipe(arguments.config)
    if path != Path(arguments.config):
        logger.info("recipe %s of the package: `neumeta recipes %s` prints it", path.stem, path.stem)
    recipe = load_recipe(path, arguments.overrides)
    output = train(recipe, resume=arguments.resume, go_on="--resume")
    if output is None or int(os.environ.get("RANK", "0")) > 0:
        return
    if recipe.train is None:
        print(f"reference saved in {output / 'reference'}")
    else:
        print(f"family saved in {output}: try `neumeta evaluate {output}`")


def _prepare(arguments: argparse.Namespace) -> None:
    from neumeta_hf.checkpoints import save_network
    from neumeta_hf.files import write_folder_beside
    from neumeta_hf.preparation import prepare
    from neumeta_hf.targets.masters import load_in_float32

    output = _new_folder(arguments.output)
    device = find_device(arguments.device, automatic="cpu")
    model: Any = load_in_float32(arguments.model).to(device)
    prepared, report = prepare(model, normalization=arguments.normalization, order=arguments.order, seed=arguments.seed)
    output.parent.mkdir(parents=True, exist_ok=True)
    with write_folder_beside(output) as beside:
        save_network(prepared.cpu(), beside)
        (beside / "preparation.json").write_text(json.dumps(report.to_dict(), indent=1) + "\n", encoding="utf-8")
    print(
        f"{len(report.cliques)} cliques ordered by {report.method}: total variation {report.tv_before:.1f} -> "
        f"{report.tv_after:.1f} ({report.tv_after / max(report.tv_before, 1e-12) - 1:+.1%}), largest relative change "
        f"of the outputs {report.max_relative_error:.1e}\nprepared network saved in {output}"
    )


def _morph(arguments: argparse.Namespace) -> None:
    from neumeta_hf.evaluation import count_parameters, find_width
    from neumeta_hf.evaluation.budget import nearest_width
    from neumeta_hf.hub import PROCESSOR, TOKENIZER, save_morph

    width, depth = parse_width(arguments.width), parse_depth(arguments.depth)
    budget, cost = None, "macs"
    if arguments.max_macs is not None:
        budget = parse_budget(arguments.max_macs, "--max-macs")
    elif arguments.max_parameters is not None:
        budget, cost = parse_budget(arguments.max_parameters, "--max-parameters"), "parameters"
    if isinstance(width, dict) and arguments.multiple_of != 1:
        raise RecipeError(
            f"--multiple-of {arguments.multiple_of} looks for uniform widths, but --width {arguments.width} has one "
            "per group: give a ratio, or drop --multiple-of."
        )
    output = _new_folder(arguments.output)
    device = find_device(arguments.device, automatic="cpu")
    family = _load_family(arguments.checkpoint).to(device)
    if budget is not None:
        width = find_width(family, budget, cost=cost, multiple_of=arguments.multiple_of, depth=depth)
    elif not isinstance(width, dict) and arguments.multiple_of != 1:
        width = nearest_width(family, width, multiple_of=arguments.multiple_of, depth=depth)
    model = family.morph(
        width,
        depth=depth,
        num_samples=arguments.num_samples,
        seed=arguments.seed,
        calibration=_calibration(arguments, family),
    )
    save_morph(model.cpu(), model.morph_origin, output)
    if not any((output / name).is_file() for name in (PROCESSOR, TOKENIZER)):
        kind = "tokenizer" if family.main_input_name == "input_ids" else "image processor"
        print(f"note: no {kind} is written, because {arguments.checkpoint} has none", file=sys.stderr)
    is_chosen = budget is not None or arguments.multiple_of != 1
    chosen = f"of width {width:g} " if is_chosen else ""
    print(f"{type(model).__name__} {chosen}with {count_parameters(model):,} parameters saved in {output}")


def _evaluate(arguments: argparse.Namespace) -> None:
    from neumeta_hf.checkpoints import open_checkpoint

    prefix = Path(arguments.output) if arguments.output else Path(arguments.checkpoint) / "sweep"
    if arguments.output and not prefix.name:
        raise RecipeError(f"--output {arguments.output}: name the files too, for example {prefix / 'sweep'}.")
    if arguments.output and not prefix.parent.is_dir():
        raise RecipeError(f"--output {prefix}: the folder {prefix.parent} does not exist. Make it, or name another.")
    is_plain = _is_plain(open_checkpoint(arguments.checkpoint))
    if not prefix.parent.is_dir():
        raise RecipeError(f"{arguments.checkpoint} is no folder to write into: name the files with --output.")
    (_evaluate_network if is_plain else _evaluate_family)(arguments, prefix)


def _evaluate_family(arguments: argparse.Namespace, prefix: Path) -> None:
    from neumeta_hf.cli.arguments import EVALUATED_WIDTHS
    from neumeta_hf.data import load_data, make_preprocessor
    from neumeta_hf.evaluation import draw_networks, parse_widths, sweep
    from neumeta_hf.evaluation.matching import match_data, name_data
    from neumeta_hf.hub import find_run_file, read_training
    from neumeta_hf.provenance import RunSource
    from neumeta_hf.training import task_of
    from neumeta_hf.training.agreement import take_preprocessing

    widths = parse_widths(EVALUATED_WIDTHS if arguments.widths is None else arguments.widths)
    depths = parse_widths(arguments.depths or "1.0", what="depths")
    device = find_device(arguments.device, automatic="gpu")
    family = _load_family(arguments.checkpoint).to(device)
    recipe = _recipe_of(arguments)
    if arguments.config:
        name = arguments.checkpoint
        recipe.data = take_preprocessing(recipe, name, family.reference_config, what=name)
    # How the family came about: command, seed, versions and sizes, as its run wrote them down.
    training = None
    if Path(arguments.checkpoint).is_dir():
        training = read_training(find_run_file(RunSource.of_folder(arguments.checkpoint), "training.json"))
    task = task_of(recipe)
    _check_task(arguments, family.target_family.task, task)
    reference = _reference(arguments, family, recipe, task)
    config = name_data(family.config, recipe.data, task)
    preprocessor = make_preprocessor(config, task, arguments.checkpoint, prefer_source=True)
    data = match_data(family.config, load_data(config, task, preprocessor), task)
    split = data.test if arguments.split == "test" else data.validation
    sampling: dict[str, Any] = {
        "num_samples": arguments.num_samples,
        "seed": arguments.seed,
        "calibration": _calibration(arguments, family, data),
    }
    result = sweep(
        family,
        split,
        widths,
        depths=depths,
        task=task,
        reference=reference,
        num_workers=_num_workers(recipe),
        facts={**_facts(arguments, recipe), "training": training},
        **sampling,
    )
    _write_sweep(result, prefix)
    if arguments.figures:
        path = prefix.with_name(f"{prefix.name}_images.png")
        draw_networks(
            family, split, widths, path, reference=reference, label_names=data.label_names, task=task, **sampling
        )
        print(f"written: {path}")


def _evaluate_network(arguments: argparse.Namespace, prefix: Path) -> None:
    from neumeta_hf.data import load_data, make_preprocessor
    from neumeta_hf.evaluation import measure_network
    from neumeta_hf.evaluation.matching import match_data, name_data
    from neumeta_hf.targets import config_of, find_target, load_network
    from neumeta_hf.training import task_of
    from neumeta_hf.training.agreement import take_preprocessing

    name = arguments.checkpoint
    for flag, is_given in (
        ("--widths", arguments.widths is not None),
        ("--depths", arguments.depths is not None),
        ("--reference", arguments.reference is not None),
        ("--figures", arguments.figures),
        ("--calibrate", arguments.calibrate != 0),
        ("--num-samples", arguments.num_samples != 1),
        ("--seed", arguments.seed != 0),
    ):
        if is_given:
            raise RecipeError(f"{flag} is for families, but {name} is one network of a single size. Drop it.")
    recipe = _recipe_of(arguments)
    network = load_network(name).to(find_device(arguments.device, automatic="gpu"))
    config, task = config_of(network), task_of(recipe)
    _check_task(arguments, find_target(config).task, task)
    recipe.data = take_preprocessing(recipe, name, config, what=name)
    recipe.data = name_data(config, recipe.data, task)
    data = load_data(recipe.data, task, make_preprocessor(recipe.data, task, name, prefer_source=True))
    data = match_data(config, data, task, them="the network")
    result = measure_network(
        network,
        data.test if arguments.split == "test" else data.validation,
        task=task,
        num_workers=_num_workers(recipe),
        facts=_facts(arguments, recipe),
    )
    _write_sweep(result, prefix)


def _check_task(arguments: argparse.Namespace, does: str, task: "Task") -> None:
    if does != task.name:
        raise TargetError(
            f"{arguments.checkpoint} does {does}, but the recipe is for {task.name}: name a recipe for {does} with "
            "--config."
        )


def _num_workers(recipe: "Recipe") -> int:
    loop = recipe.train or recipe.pretrain
    return loop.num_workers if loop else 0


def _facts(arguments: argparse.Namespace, recipe: "Recipe") -> dict[str, Any]:
    checkpoint = Path(arguments.checkpoint).resolve().name
    return {"checkpoint": checkpoint, "dataset": Path(recipe.data.dataset).name, "split": arguments.split}


def _write_sweep(result: Any, prefix: Path) -> None:
    from rich.console import Console

    console = Console()
    console.print(*result.tables(console.width))
    for suffix, write in ((".json", result.save_json), (".csv", result.save_csv), (".png", result.plot)):
        write(prefix.with_name(prefix.name + suffix))
    print(f"written: {prefix}.json, {prefix}.csv, {prefix}.png")


def _reference(arguments: argparse.Namespace, family: "NeuMetaModel", recipe: "Recipe", task: "Task") -> Any:
    """The network to compare with, of the family's classes and images; None where there is none."""
    from neumeta_hf.evaluation.matching import check_reference
    from neumeta_hf.reading import find_folder
    from neumeta_hf.targets import config_of, load_network
    from neumeta_hf.training.agreement import compare_preprocessing

    folder = arguments.reference or find_folder(arguments.checkpoint, "reference")
    if folder is None:
        return None
    name = str(folder)
    reference = load_network(name)
    check_reference(reference, family, task)
    if arguments.reference and recipe.target.preprocessing == "checkpoint":
        compare_preprocessing(recipe.data, name, config_of(reference))
    return reference


def _info(arguments: argparse.Namespace) -> None:
    if (unfinished := say_unfinished(arguments.checkpoint)) is not None:
        print(json.dumps({"unfinished": unfinished}) if arguments.json else printable(unfinished))
        return
    family = _load_family(arguments.checkpoint)
    facts, sizes, disk = family_facts(family), size_facts(family), disk_facts(arguments.checkpoint)
    if arguments.json:
        print(json.dumps({**facts, "sizes": sizes, "disk": disk}, indent=1))
    else:
        show_description(arguments.checkpoint, facts, sizes, disk, family)


def _push(arguments: argparse.Namespace) -> None:
    from neumeta_hf.evaluation import parse_widths

    if arguments.widths is None and arguments.as_revisions:
        raise RecipeError("--as-revisions is for morphs: name their sizes with --widths.")
    if arguments.widths is None and arguments.calibrate:
        raise RecipeError("--calibrate is for morphs: name their sizes with --widths.")
    if arguments.widths is not None and (arguments.with_code or arguments.revision):
        raise RecipeError("--widths pushes plain networks: --with-code and --revision are for the family. Drop them.")
    if arguments.space and (arguments.widths is not None or arguments.revision):
        raise RecipeError("--space shows the family that is on main: drop --widths and --revision.")
    widths = None if arguments.widths is None else parse_widths(arguments.widths)
    if widths is not None and (twice := [width for width in widths if widths.count(width) > 1]):
        raise RecipeError(f"--widths names {twice[0]:g} twice: each size is pushed once.")
    family = _load_family(arguments.checkpoint)
    options = {
        "private": arguments.private,
        "license": arguments.license,
        "commit_message": arguments.message,
        "overwrite_card": arguments.overwrite_card,
        "dry_run": arguments.dry_run,
    }
    if widths is None:
        commit = family.push_to_hub(
            arguments.repo, revision=arguments.revision, with_code=arguments.with_code, **options
        )
        _say_pushed("family", commit)
        if arguments.space:
            _push_space(arguments, arguments.repo if arguments.dry_run else family.name_or_path)
        return
    # All of them first: a size that there is not must not be met when others were published.
    images = _calibration(arguments, family)
    morphs = {width: family.morph(width, calibration=images) for width in widths}
    for width, morph in morphs.items():
        name = f"w{100 * width:g}"
        if arguments.as_revisions:
            commit = morph.push_to_hub(arguments.repo, revision=name, **options)
        else:
            commit = morph.push_to_hub(f"{arguments.repo}-{name}", **options)
        _say_pushed(f"width {width:g}", commit)


def _push_space(arguments: argparse.Namespace, family_id: str) -> None:
    from neumeta_hf.hub import push_space

    commit = push_space(
        family_id, private=arguments.private, commit_message=arguments.message, dry_run=arguments.dry_run
    )
    _say_pushed("Space", commit)
    if arguments.private:
        print("note: a private family needs a token in its Space's settings, as the secret HF_TOKEN", file=sys.stderr)


def _say_pushed(what: str, commit: Any) -> None:
    """Where a push has gone, or what would go up in a dry run."""
    from neumeta_hf.hub import PushPlan

    if not isinstance(commit, PushPlan):
        print(f"{what} pushed: {commit}")
        return
    print(f"{what} would be pushed to {commit.repo_id}; if a card is there, it keeps what somebody wrote in it:")
    for name, size in commit.files.items():
        print(f"  {size:>14,} bytes  {printable(name)}")
    print("README.md:", printable(commit.card, keep="\n"), sep="\n")


def _load_family(name: str) -> "NeuMetaModel":
    from neumeta_hf.checkpoints import open_checkpoint
    from neumeta_hf.configuration_neumeta import NeuMetaConfig
    from neumeta_hf.modeling_tasks import family_class
    from neumeta_hf.targets import find_target

    if (unfinished := say_unfinished(name)) is not None:
        raise CheckpointError(unfinished)
    checkpoint = open_checkpoint(name)
    if _is_plain(checkpoint):
        raise CheckpointError(
            f"{name} is one network, of model type {_kind(checkpoint)!r}, and not a family: give the output folder of "
            "a training run."
        )
    config, _ = checkpoint.make_config(NeuMetaConfig, {})
    family: Any = family_class(find_target(config.target_config).task).from_pretrained(name, config=config)
    return family


def _kind(checkpoint: "Checkpoint") -> Any:
    return checkpoint.config.get("model_type", checkpoint.config.get("_class_name"))


def _is_plain(checkpoint: "Checkpoint") -> bool:
    """Whether a checkpoint says that it is something else than a family."""
    from neumeta_hf.configuration_neumeta import NeuMetaConfig

    kind = _kind(checkpoint)
    return isinstance(kind, str) and kind != NeuMetaConfig.model_type


def _recipe_of(arguments: argparse.Namespace) -> "Recipe":
    """The recipe of --config or of a checkpoint's run, with what the command says about its data."""
    from neumeta_hf.data import generated_data
    from neumeta_hf.data.config import GENERATED
    from neumeta_hf.shipped import find_recipe
    from neumeta_hf.training import load_recipe, task_of

    named = getattr(arguments, "config", None)
    path = find_recipe(named) if named else _find_recipe(arguments.checkpoint)
    if path is None:
        advice = (
            "name one with --config" if hasattr(arguments, "config") else "give the output folder of a training run"
        )
        raise CheckpointError(
            f"{arguments.checkpoint} has no recipe.yaml, which says what data it was trained on: {advice}."
        )
    recipe = load_recipe(path, getattr(arguments, "overrides", ()))
    if getattr(arguments, "dataset", None):
        recipe.data.dataset = arguments.dataset
    if recipe.data.dataset == GENERATED:
        recipe.data = generated_data(recipe.data, task_of(recipe), Path(path).parent)
    return recipe


def _find_recipe(checkpoint: str) -> Path | None:
    """The recipe in a folder, or of the run that wrote the folder; None where there is none."""
    from neumeta_hf.reading import find_file
    from neumeta_hf.training.run_folder import BEST, LAST, PRETRAINED, RECIPE, REFERENCE

    path = find_file(checkpoint, RECIPE)
    folder = Path(os.path.abspath(checkpoint))
    if path is None and folder.name in (REFERENCE, BEST, LAST, PRETRAINED):
        path = find_file(folder.parent, RECIPE)
    return path


def _calibration(arguments: argparse.Namespace, family: "NeuMetaModel", data: "Data | None" = None) -> Any:
    """The images that --calibrate asks for, of the data where they are loaded already."""
    if not arguments.calibrate:
        return None
    if arguments.calibrate < 0:
        raise DataError(f"--calibrate {arguments.calibrate}: give a number of images from 1 up, or 0 for none.")
    if not family.statistic_names:
        raise DataError("--calibrate: this family generates no BatchNorm, so there is nothing to calibrate. Drop it.")
    from neumeta_hf.data import load_image_data
    from neumeta_hf.training import calibration_batches
    from neumeta_hf.training.statistics import images_of

    data = data or load_image_data(_recipe_of(arguments).data)
    return calibration_batches(images_of(data.train, arguments.calibrate), arguments.calibrate)


def _new_folder(name: str) -> Path:
    output = Path(name)
    if output.exists():
        raise RecipeError(f"--output {name} exists already: name a new folder, or remove it.")
    return output


COMMANDS = {
    "train": run_train,
    "prepare": _prepare,
    "morph": _morph,
    "evaluate": _evaluate,
    "info": _info,
    "push": _push,
    "recipes": list_recipes,
    "init": init,
    "docs": list_guides,
    "example": show_examples,
}
"""Name of a subcommand to what it does."""
