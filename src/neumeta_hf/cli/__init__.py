"""The `neumeta` command: train, prepare, morph, evaluate, info, push."""

from neumeta_hf.cli.arguments import add_train_arguments, build_parser
from neumeta_hf.cli.commands import run_train
from neumeta_hf.cli.main import main, run, setup_logging
from neumeta_hf.cli.numbers import parse_width

__all__ = ["add_train_arguments", "build_parser", "main", "parse_width", "run", "run_train", "setup_logging"]
