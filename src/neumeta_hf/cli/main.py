"""From the process to a subcommand and back: logging, errors as one line, exit codes."""

import argparse
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence

from neumeta_hf.cli.arguments import build_parser
from neumeta_hf.cli.commands import COMMANDS
from neumeta_hf.cli.completion import print_completion
from neumeta_hf.errors import NeuMetaError, RecipeError, one_line
from neumeta_hf.printable import printable
from neumeta_hf.progress import on_terminal, show_progress


class _InertFormatter(logging.Formatter):
    """Shows control characters as escapes: messages quote names from checkpoints and data."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n\t")


def setup_logging(*, quiet: bool = False) -> None:
    """Let the library's log through, and silence what others say without being asked.

    Args:
        quiet: Warnings and errors only, no progress bars.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_InertFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("neumeta_hf").setLevel(logging.WARNING if quiet else logging.INFO)
    show_progress(not quiet)
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {one_line(message, most=2000)}", file=sys.stderr)
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging as transformers_logging

    hub_logging.set_verbosity_error()  # it tells of every try to reach the Hub; what they come to is in our error
    if quiet or not on_terminal():
        disable_progress_bars()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # what does not fit is an error of ours, with less to read


def run(function: Callable[[argparse.Namespace], None], arguments: argparse.Namespace) -> int:
    """Call a command's function; an error of the library becomes one line.

    Args:
        function: Takes the arguments.
        arguments: Parsed ones.

    Returns:
        Exit code: 0, 2 for bad input, 130 when interrupted.

    Raises:
        SystemExit: A run was stopped by SIGTERM; its code is 143.
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from tqdm.contrib.logging import logging_redirect_tqdm

    setup_logging(quiet=getattr(arguments, "quiet", False))
    try:
        with logging_redirect_tqdm():
            for name in getattr(arguments, "modules", ()):
                _import(name)
            function(arguments)
    # StrictDataclassError: a bad value in a config; OSError: a full disk, a folder that must not be written to; its
    # writer of weights says SafetensorError.
    except (NeuMetaError, StrictDataclassError, OSError, SafetensorError) as error:
        said = (isinstance(error, NeuMetaError) and error.command) or error
        print(f"neumeta: error: {one_line(said, most=2000)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("neumeta: interrupted", file=sys.stderr)
        return 130
    finally:
        show_progress(True)  # for who calls the command from Python, and goes on there
    return 0


def _import(name: str) -> None:
    if (here := os.getcwd()) not in sys.path:  # where one's own files are; it is there already for `python -m`
        sys.path.insert(0, here)
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise RecipeError(
            f"--import {name}: {one_line(error)}. Give the name of a module in this folder or of an installed one."
        ) from error


def main(argv: Sequence[str] | None = None) -> int:
    """The command.

    Args:
        argv: Arguments; None: those of the process.

    Returns:
        Exit code: 0, 2 after bad input, or 130 when interrupted.

    Raises:
        SystemExit: As `run`; or the arguments are not understood.
    """
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.version:
        import neumeta_hf

        print(f"neumeta_hf {neumeta_hf.__version__}")
        return 0
    if arguments.print_completion is not None:
        return run(lambda given: print_completion(parser, given.print_completion), arguments)
    if arguments.command is None:
        parser.print_help()
        return 2
    return run(COMMANDS[arguments.command], arguments)
