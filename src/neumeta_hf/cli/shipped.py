"""The commands that show or copy what comes with the package: recipes, guides and trained families."""

import argparse
import os
import textwrap
from pathlib import Path

from neumeta_hf.errors import RecipeError
from neumeta_hf.shipped import example, examples, find_shipped, guides, recipes, title_of

_STARTING_RECIPE = Path(__file__).with_name("starting_recipe.yaml")


def list_recipes(arguments: argparse.Namespace) -> None:
    """List the recipes, or print one.

    Args:
        arguments: With `name`.

    Raises:
        RecipeError: There is no recipe of this name.
    """
    _show("recipe", arguments.name, recipes())


def list_guides(arguments: argparse.Namespace) -> None:
    """List the guides, or print one.

    Args:
        arguments: With `name`.

    Raises:
        RecipeError: There is no guide of this name.
    """
    _show("guide", arguments.name, guides())


def show_examples(arguments: argparse.Namespace) -> None:
    """Print the folder of a trained family that comes with the package, or list them.

    Args:
        arguments: With `name`.

    Raises:
        RecipeError: There is none of this name.
    """
    print(*([example(arguments.name)] if arguments.name is not None else examples()), sep="\n")


def init(arguments: argparse.Namespace) -> None:
    """Write a recipe to start from.

    Args:
        arguments: With `name` and `output`.

    Raises:
        RecipeError: There is no recipe of this name, or the output is there already.
        OSError: It cannot be written.
    """
    source = find_shipped("recipe", arguments.name, recipes()) if arguments.name else _STARTING_RECIPE
    output = arguments.output or (f"{source.stem}.yaml" if arguments.name else "mine.yaml")
    text = source.read_text(encoding="utf-8")
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # nor through a link
    except FileExistsError as error:
        raise RecipeError(f"{output} exists already: name another file with --output, or remove it.") from error
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    print(f"recipe written to {output}: look through it, then run `neumeta train --config {output}`")


def _show(kind: str, name: str | None, known: dict[str, Path]) -> None:
    if name is not None:
        print(find_shipped(kind, name, known).read_text(encoding="utf-8"), end="")
        return
    for key, path in known.items():
        print(key, *textwrap.wrap(title_of(path), 76, break_on_hyphens=False), sep="\n    ")
