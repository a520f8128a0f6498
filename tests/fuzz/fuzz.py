"""Damage what the command reads, many times over: `make fuzz`, or

    python tests/fuzz/fuzz.py --mutations 2000 --seed 0 --minutes 15

Whatever is changed in a family, a plain network, a run to resume or a recipe, the command does its work or refuses in
one line: no traceback, no other weights than those that were saved, no more than 2 GB, and no call over a minute.
Each mutation is a function of the seed and its number; `--only 1234` repeats one.
"""

import argparse
import collections
import dataclasses
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

# One thread, so that a process can be forked at any time; and no wait for a network that may not be there.
os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}

import torch
import yaml
from mutations import mutate_file
from safetensors.torch import load_file

from neumeta_hf import NeuMetaModel, calibrate
from neumeta_hf.checkpoints import save_network
from neumeta_hf.cli import main
from neumeta_hf.errors import NeuMetaError
from neumeta_hf.targets import CifarResNetConfig, LeNetConfig, build_image_processor, find_target
from neumeta_hf.training import load_recipe

MAX_MEMORY = 2 * 2**30
MAX_SECONDS = 60
REFUSED = 2

RECIPE = """\
output_dir: run
data: {dataset: digits, image_size: 8, mean: [0.305], std: [0.376], augmentation: crop, validation_fraction: 0.05}
target: {family: lenet, config: {hidden_channels: [4, 6, 8], kernel_size: 3, image_size: 8}}
pretrain: {epochs: 1, batch_size: 700, optimizer: {learning_rate: 0.01}}
preparation: {normalization: fuse, order: identity}
family: {hypernetwork: {type: grid}, coordinate_noise: 0.0}
sizes: {widths: [0.5, 1.0], sampler: sandwich, num_random: 0}
train: {epochs: 2, batch_size: 700, ema_decay: 0.9, evaluate_every: 2, stop_after_steps: 1}
"""


@dataclasses.dataclass(frozen=True)
class Case:
    """Something that the command reads.

    Attributes:
        name: Of its folder below the workplace.
        files: Patterns of the files that are changed.
        share: Of all mutations.
        run: What is done with it, in a process of its own in the case's folder; returns an exit code.
        result: The weights that come out, below the folder; they must be the same whatever was changed in `exact`.
        exact: Patterns of the files no change of which may change the weights.
    """

    name: str
    files: tuple[str, ...]
    share: float
    run: Callable[[], int]
    result: str | None = None
    exact: tuple[str, ...] = ()


def _info_and_morph() -> int:
    return main(["-q", "info", "."]) or main(["-q", "morph", ".", "--width", "0.5", "--output", "morph"])


def _prepare() -> int:
    return main(["-q", "prepare", ".", "--order", "identity", "--output", "prepared"])


def _resume() -> int:
    return main(["-q", "train", "--config", "recipe.yaml", "--set", "train.stop_after_steps=null", "--resume"])


def _read_recipe() -> int:
    try:
        load_recipe("recipe.yaml")
    except NeuMetaError as error:
        print(f"neumeta: error: {' '.join(str(error).split())}", file=sys.stderr)
        return REFUSED
    return 0


_RUN_FILES = ("config.json", "recipe.yaml", "training.json", "sweep.json", "preprocessor_config.json")

CASES = (
    Case("family", ("model.safetensors", *_RUN_FILES), 0.35, _info_and_morph, "morph", ("model.safetensors",)),
    Case("kept", ("model.safetensors", "config.json"), 0.2, _info_and_morph, "morph", ("model.safetensors",)),
    Case("network", ("*.safetensors", "*.json"), 0.1, _prepare, "prepared", ("*.safetensors",)),
    Case("resumed", ("run/state/*", "run/reference/*", "run/recipe.yaml"), 0.15, _resume, "run", ("run/state/*",)),
    Case("recipe", ("recipe.yaml",), 0.2, _read_recipe),
)


def make_cases(workplace: Path) -> None:
    """Write a whole example of every case.

    Args:
        workplace: An empty folder.
    """
    torch.manual_seed(0)
    lenet = LeNetConfig(hidden_channels=[4, 6, 8], kernel_size=3, image_size=8, num_labels=10)
    resnet = CifarResNetConfig(num_blocks=[1, 1, 1], stage_channels=[4, 6, 8], image_size=8, num_labels=3)
    for config in (lenet, resnet):
        reference = find_target(config).build(config).eval()
        kept = config is resnet
        normalization = "keep" if kept else "fuse"
        fields = {"trained_widths": [0.5, 0.75, 1.0], "hypernetwork": {"type": "grid"}, "normalization": normalization}
        if kept:
            images = torch.randn(16, 3, 8, 8)
            calibrate(reference, [images])
            save_network(reference, workplace / "network")
        family = NeuMetaModel.from_reference(reference, **fields).eval()
        if kept:
            family.calibrate([images], [0.5, 1.0])
            family.store_calibration_images(images.clamp(-3.9, 3.9))
        family.save_pretrained(workplace / ("kept" if kept else "family"))
    (workplace / "recipe").mkdir()
    for folder in ("recipe", "family"):
        (workplace / folder / "recipe.yaml").write_text(yaml.safe_dump(load_recipe(_write(workplace)).to_dict()))
    build_image_processor(num_channels=1, image_size=8, mean=[0.3], std=[0.4]).save_pretrained(workplace / "family")
    (workplace / "resumed").mkdir()
    shutil.move(workplace / "recipe.yaml", workplace / "resumed")
    _run(workplace / "resumed", lambda: main(["-q", "train", "--config", "recipe.yaml"]))
    for name in ("training.json", "sweep.json"):
        shutil.copyfile(Path(__file__).parent / name, workplace / "family" / name)


def _write(workplace: Path) -> Path:
    (workplace / "recipe.yaml").write_text(RECIPE)
    return workplace / "recipe.yaml"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one call.

    Attributes:
        code: Exit code; negative: the signal that ended the process.
        seconds: It took.
        memory: Bytes at most, over those of the process that it was forked from.
        said: On standard error.
    """

    code: int
    seconds: float
    memory: int
    said: str


def _run(folder: Path, call: Callable[[], int]) -> Outcome:
    """Call a function in a process of its own, in a folder."""
    said = folder / ".said"
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.chdir(folder)
            out = os.open(os.devnull, os.O_WRONLY)
            err = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(err, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            signal.alarm(MAX_SECONDS)
            code = call()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status, usage = os.wait4(child, 0)
    text = said.read_text(errors="replace") if said.is_file() else ""
    said.unlink(missing_ok=True)
    return Outcome(os.waitstatus_to_exitcode(status), time.monotonic() - started, usage.ru_maxrss * 1024, text)


def _weights(folder: Path) -> str:
    """A checksum of all weights in a folder's safetensors files."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        for name, tensor in sorted(load_file(path).items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _complaint(outcome: Outcome, *, same_weights: bool) -> str | None:
    """What is wrong with an outcome, or None."""
    lines = [line for line in outcome.said.splitlines() if not line.startswith("warning: ")]
    if outcome.code == -signal.SIGALRM:
        return f"still running after {MAX_SECONDS} seconds"
    if outcome.code not in (0, REFUSED):
        return f"exit code {outcome.code}"
    if outcome.memory > MAX_MEMORY:
        return f"{outcome.memory / 2**30:.1f} GB"
    if outcome.code == REFUSED and (not lines or not lines[-1].startswith("neumeta: error: ")):
        return "refused without a line"
    if "Traceback" in outcome.said:
        return "a traceback"
    if outcome.code == 0 and not same_weights:
        return "other weights were accepted"
    return None


def fuzz(workplace: Path, *, mutations: Sequence[int], seed: int, seconds: float) -> tuple[collections.Counter, int]:
    """Run mutations.

    Args:
        workplace: A folder for everything that is written.
        mutations: Their numbers.
        seed: Of the changes.
        seconds: Stop after so many.

    Returns:
        How often each outcome came of each case, and how many were wrong.
    """
    make_cases(workplace)
    known = {}
    for case in CASES:
        folder = Path(shutil.copytree(workplace / case.name, workplace / "whole" / case.name))
        outcome = _run(folder, case.run)
        if outcome.code != 0:
            raise SystemExit(f"{case.name} fails unchanged:\n{outcome.said}")
        known[case.name] = _weights(folder / case.result) if case.result else None
    counts: collections.Counter = collections.Counter()
    failures = 0
    end = time.monotonic() + seconds
    for number in mutations:
        if time.monotonic() > end:
            print(f"stopped after {seconds:.0f} seconds, before mutation {number}")
            break
        rng = random.Random(f"{seed} {number}")
        case = rng.choices(CASES, [case.share for case in CASES])[0]
        folder = Path(shutil.copytree(workplace / case.name, workplace / "changed", symlinks=True))
        pattern = rng.choice(case.files)
        path = rng.choice(sorted(path for path in folder.glob(pattern) if path.is_file()))
        told = mutate_file(path, rng)
        is_exact = any(path in folder.glob(exact) for exact in case.exact)
        outcome = _run(folder, case.run)
        same = True
        if outcome.code == 0 and is_exact and case.result:
            same = _weights(folder / case.result) == known[case.name]
        complaint = _complaint(outcome, same_weights=same)
        counts[case.name, "wrong" if complaint else "refused" if outcome.code else "done"] += 1
        if complaint:
            failures += 1
            print(f"\nmutation {number} of {case.name}, {told}: {complaint}\n{outcome.said[-1500:]}", flush=True)
        shutil.rmtree(folder)
    return counts, failures


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=2000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--minutes", type=float, default=15.0, help="stop after so many; default: %(default)s")
    parser.add_argument("--only", type=int, help="number of one mutation to repeat")
    return parser


if __name__ == "__main__":
    arguments = build_parser().parse_args()
    numbers = range(arguments.mutations) if arguments.only is None else [arguments.only]
    with tempfile.TemporaryDirectory() as temporary:
        counts, failures = fuzz(Path(temporary), mutations=numbers, seed=arguments.seed, seconds=60 * arguments.minutes)
    for (name, outcome), count in sorted(counts.items()):
        print(f"{name:10} {outcome:8} {count:6,}")
    print(f"{sum(counts.values()):,} mutations, {failures} wrong")
    sys.exit(failures > 0)
