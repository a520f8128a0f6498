"""Scripts that let a shell complete the command's names and flags."""

import argparse
from collections.abc import Iterator

from neumeta_hf.cli.arguments import PATH
from neumeta_hf.errors import RecipeError


def print_completion(parser: argparse.ArgumentParser, shell: str) -> None:
    """Print the script for a shell, which needs nothing of this package when it runs.

    Args:
        parser: Of the command.
        shell: Such as "bash".

    Raises:
        RecipeError: The shell is not known, or shtab is not installed.
    """
    try:
        import shtab  # pyright: ignore[reportMissingImports] - an extra
    except ImportError as error:
        raise RecipeError(
            "--print-completion: shtab, which writes the script, is not installed: pip install "
            "'neumeta_hf[completion]'."
        ) from error
    if shell not in shtab.SUPPORTED_SHELLS:
        raise RecipeError(f"--print-completion {shell}: give one of {', '.join(shtab.SUPPORTED_SHELLS)}.")
    for action in _actions(parser):
        if action.type is PATH:
            action.complete = shtab.FILE  # pyright: ignore[reportAttributeAccessIssue] - as shtab reads it
    print(shtab.complete(parser, shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
