"""Train a family from a recipe, on one process or many.

    accelerate launch examples/train.py --config examples/recipes/digits_lenet.yaml
    accelerate launch examples/train.py --config examples/recipes/mnist_lenet.yaml --set data.dataset=path/to/mnist
    accelerate launch examples/train.py --config examples/recipes/mnist_lenet.yaml --resume

Two processes on CPUs, which `accelerate launch --cpu` would not give:

    ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no \
        --dynamo_backend no examples/train.py --config examples/recipes/digits_lenet.yaml
"""

import argparse
import sys

from neumeta_hf.cli import add_train_arguments, run, run_train


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_train_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(run(run_train, build_parser().parse_args()))
