"""The arguments of the `neumeta` command and its subcommands."""

import argparse
import os
import textwrap

PATH = os.path.expanduser
"""Also where no shell has done it: after an "=", or in a list of arguments."""

EVALUATED_WIDTHS = "0.25:1.0:0.125"
"""Where `neumeta evaluate` is not told which."""

_EPILOG = """\
examples:
  neumeta recipes
  neumeta init --output mine.yaml
  neumeta train --config digits_lenet --set output_dir=outputs/digits
  neumeta info outputs/digits
  neumeta evaluate outputs/digits --widths 0.25:1.0:0.125
  neumeta morph outputs/digits --width 0.5 --output outputs/digits-0.5
  neumeta push outputs/digits org/digits --license apache-2.0 --dry-run
  neumeta push org/digits org/digits --widths 1.0,0.5,0.25
"""


class _WholeWords(argparse.RawDescriptionHelpFormatter):
    """Breaks lines between words alone: a flag that is cut at its dashes is no flag."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return _wrap(text, width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = [text] if "\n" not in text else text.splitlines()  # the examples have lines of their own
        return "\n".join(indent + part for line in lines for part in _wrap(line, width - len(indent)))


def _wrap(text: str, width: int) -> list[str]:
    if len(text) <= width:
        return [text]
    return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False, break_long_words=False)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command and its subcommands."""
    parser = argparse.ArgumentParser(
        prog="neumeta",
        description="Turn one trained network into a family, and take any size of it.",
        epilog=_EPILOG,
        formatter_class=_WholeWords,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bars, warnings and errors only")
    parser.add_argument(
        "--print-completion",
        metavar="SHELL",
        help="print a script that completes commands and flags in bash, zsh or tcsh: "
        'eval "$(neumeta --print-completion bash)"; needs the extra `completion`',
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_train(commands)
    _add_prepare(commands)
    _add_morph(commands)
    _add_evaluate(commands)
    _add_info(commands)
    _add_push(commands)
    _add_recipes(commands)
    _add_init(commands)
    _add_docs(commands)
    _add_example(commands)
    for name, command in commands.choices.items():
        command.formatter_class = _WholeWords
        if name in ("prepare", "morph", "evaluate", "info", "push"):  # train has them among its arguments
            _add_import(command)
            _add_quiet(command)
    return parser


def _add_train(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "train",
        help="run a recipe: reference, preparation, hypernetwork",
        description="Run a recipe, from data to a family in its output folder. It trains on a GPU where there is one, "
        "and otherwise as Accelerate is configured: ACCELERATE_USE_CPU=true keeps it on the CPU. For several processes "
        "use `accelerate launch -m neumeta_hf train` with the same arguments.",
    )
    add_train_arguments(parser)


def _add_prepare(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "prepare",
        help="make a trained network smooth: fuse BatchNorm, order its channels",
        description="Prepare a trained network for a family. BatchNorm is fused (or kept), and the channels of every "
        "clique are ordered so that neighbouring weights are alike. What the network computes does not change; that "
        "is checked.",
    )
    parser.add_argument("model", type=PATH, help="folder or Hub id of a network of a registered target family")
    parser.add_argument("--output", type=PATH, required=True, help="folder for the prepared network; must not exist")
    parser.add_argument("--normalization", choices=("fuse", "keep"), default="fuse", help="default: %(default)s")
    parser.add_argument(
        "--order", choices=("path", "random", "identity", "importance"), default="path", help="default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    _add_device(parser, "the CPU")


def _add_morph(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "morph",
        help="write a plain network of any size",
        description="Write a plain network of one size: a model of transformers or diffusers, the family's image "
        "processor, and a card that says where the network comes from.",
    )
    parser.add_argument("checkpoint", type=PATH, help="folder or Hub id of a family")
    parser.add_argument("--output", type=PATH, required=True, help="folder for the network; must not exist")
    sizes = parser.add_argument_group("which size")
    size = sizes.add_mutually_exclusive_group()
    size.add_argument(
        "--width",
        default="1.0",
        help="a ratio for all width groups (0.5), or one per group (stage3=0.25,stage2=0.5); default: %(default)s",
    )
    size.add_argument(
        "--max-macs",
        metavar="N",
        help="the largest width whose network takes at most N multiply-accumulates an image; k, M and G stand for "
        "thousands, millions and thousand millions, as in 200k or 1.5M",
    )
    size.add_argument(
        "--max-parameters",
        metavar="N",
        help="the largest width whose network has at most N parameters, written as for --max-macs",
    )
    sizes.add_argument(
        "--multiple-of",
        type=int,
        default=1,
        metavar="N",
        help="only widths with multiples of N channels in every group, such as 8: the largest within a budget, or the "
        "nearest to a uniform --width and within N channels of it; default: any width",
    )
    sizes.add_argument(
        "--depth",
        default="1.0",
        help="for networks with blocks: the ratio of blocks to keep in all stacks (0.67), or a number of blocks per "
        "stack (stage3=2); default: %(default)s",
    )
    _add_sampling(parser)
    _add_device(parser, "the CPU")


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="measure scores against size: table, JSON, CSV and picture",
        description="Measure many widths of a family: the task's scores (accuracy, mean IoU, reconstruction error), "
        "parameters and MACs, on the test split of its training data. Or measure one plain network, such as a morph "
        "that was trained on. Prints a table and writes PREFIX.json, PREFIX.csv and PREFIX.png.",
    )
    parser.add_argument("checkpoint", type=PATH, help="folder or Hub id of a family or of a plain network")
    what = parser.add_argument_group("what is measured on")
    sizes = parser.add_argument_group("which sizes")
    files = parser.add_argument_group("what is written")
    what.add_argument(
        "--config",
        type=PATH,
        metavar="FILE",
        help="recipe with the data and the task to measure by, a YAML file or the name of one that comes with the "
        "package; default: recipe.yaml in the checkpoint's folder, or in the run's folder where the checkpoint is its "
        "reference, best, last or pretrained",
    )
    sizes.add_argument(
        "--widths",
        help=f"widths of a family to measure: a range first:last:step, or a list a,b,c; default: {EVALUATED_WIDTHS}",
    )
    sizes.add_argument(
        "--depths",
        help="depths of a family to measure, if its networks can leave blocks out: ratios of blocks, written as for "
        "--widths; every width is measured at each depth; default: 1.0",
    )
    what.add_argument("--split", choices=("validation", "test"), default="test", help="default: %(default)s")
    what.add_argument(
        "--dataset",
        type=PATH,
        help="data set to use instead of the recipe's, such as a local folder; its classes are matched with the "
        "family's by name",
    )
    _add_overrides(what, "task.features=path/to/classifier")
    sizes.add_argument(
        "--reference",
        type=PATH,
        help="plain network to compare with, with the family's classes in the same order; default: the checkpoint's "
        "reference folder, if it has one",
    )
    files.add_argument("--output", type=PATH, help="PREFIX of the files; default: CHECKPOINT/sweep")
    files.add_argument(
        "--figures",
        action="store_true",
        help="also write PREFIX_images.png: what the reference and networks of these widths make of the same images",
    )
    _add_sampling(parser)
    _add_device(parser, "a CUDA GPU where there is one, else the CPU")


def _add_info(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "info",
        help="what a family is: target, what is generated, trained range, sizes, preparation",
        description="Show what a family is, its parameters and MACs by width, and the scores that `neumeta evaluate` "
        "has measured. For a folder, show its disk use as well. Nothing is generated or run.",
    )
    parser.add_argument("checkpoint", type=PATH, help="folder or Hub id of a family")
    parser.add_argument("--json", action="store_true", help="as JSON")


def _add_push(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "push",
        help="share a family, or morphs of it, on the Hub",
        description="Upload a family as one commit: weights, config, image processor, facts of its run, and a model "
        "card with its scores by size (run evaluate first). With --widths, upload plain networks of these sizes "
        "instead. Each goes into a repo of its own (REPO-w50 for width 0.5) or, with --as-revisions, into a branch "
        "(w50) of REPO.",
    )
    parser.add_argument("checkpoint", type=PATH, help="folder or Hub id of a family")
    parser.add_argument("repo", help="organisation/name; made if it does not exist")
    morphs = parser.add_argument_group("morphs instead of the family")
    there = parser.add_argument_group("the repo")
    files = parser.add_argument_group("what goes up")
    morphs.add_argument("--widths", help="range first:last:step, or list a,b,c: push morphs instead of the family")
    morphs.add_argument(
        "--as-revisions", action="store_true", help="with --widths: push branches of one repo, not several repos"
    )
    _add_calibrate(morphs)
    there.add_argument("--private", action="store_true", default=None, help="make new repos private")
    there.add_argument("--revision", help="branch to push the family to; default: main")
    files.add_argument(
        "--license",
        help="licence of the weights, a Hub identifier such as apache-2.0; default: as the card there says, or "
        '"unknown"',
    )
    there.add_argument(
        "--space",
        action="store_true",
        help="also push a page to try the family on, as a Space of the same name (`neumeta docs guide_space`)",
    )
    there.add_argument("--message", help="of the commit")
    parser.add_argument(
        "--dry-run", action="store_true", help="show the card and the files that would go up, without reaching the Hub"
    )
    files.add_argument(
        "--overwrite-card", action="store_true", help="also replace what somebody wrote into the card by hand"
    )
    files.add_argument(
        "--with-code", action="store_true", help="add the code that lets people load it without this package"
    )


def _add_recipes(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "recipes",
        help="list the recipes that come with the package, or print one",
        description="List the recipes that come with the package, or print one of them.",
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="name of the recipe to print")


def _add_init(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "init",
        help="write a recipe to start from",
        description="Write a commented recipe for a family of your own network, or a copy of a recipe that comes with "
        "the package. A file that is there is not written over.",
    )
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="name of the recipe to copy, as `neumeta recipes` lists it"
    )
    parser.add_argument(
        "--output", type=PATH, metavar="FILE", help="file to write; default: mine.yaml, or NAME.yaml for a copy"
    )


def _add_docs(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "docs",
        help="list the guides that come with the package, or print one",
        description="List the guides that come with the package, such as how to add a target family, a hypernetwork "
        "or a task, or print one of them.",
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="name of the guide to print")


def _add_example(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "example",
        help="print the folder of a small trained family that comes with the package",
        description="Print the folder of a small trained family that comes with the package, for the other commands: "
        '`neumeta info "$(neumeta example digits-lenet)"`. Without a name, list them.',
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="of the family")


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of a training run, for the command and for `examples/train.py`.

    Args:
        parser: Gets the arguments.
    """
    parser.add_argument(
        "--config",
        type=PATH,
        required=True,
        metavar="FILE",
        help="recipe, a YAML file; or the name of one that comes with the package (see `neumeta recipes`), where there "
        "is no such file",
    )
    _add_overrides(parser, "train.epochs=3")
    _add_import(parser)
    _add_quiet(parser)
    parser.add_argument("--resume", action="store_true", help="go on with the run in the recipe's output folder")


def _add_quiet(parser: argparse.ArgumentParser) -> None:
    # Suppressed, so that what stands before the command is not undone.
    parser.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        default=argparse.SUPPRESS,
        help="the same as -q before the name of the command",
    )


def _add_device(parser: argparse.ArgumentParser, automatic: str) -> None:
    parser.add_argument(
        "--device", default="auto", help=f"cpu, cuda, cuda:1 (and so on) or mps; default: auto, which is {automatic}"
    )


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


def _add_overrides(parser: argparse._ActionsContainer, example: str) -> None:
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"override a key of the recipe, for example --set {example}; may be given again",
    )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    generation = parser.add_argument_group("how weights are generated")
    generation.add_argument(
        "--num-samples", type=int, default=1, help="noisy generations averaged per network; 1 is exact (default)"
    )
    generation.add_argument("--seed", type=int, default=0, help="seed of that noise; default: %(default)s")
    _add_calibrate(generation)


def _add_calibrate(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--calibrate",
        type=int,
        default=0,
        metavar="IMAGES",
        help="for families that keep BatchNorm: measure its statistics on this many training images at every size",
    )
