"""Which rows of a data set are for training, for selection and for testing."""

import glob
import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets.data_files import get_data_patterns

from neumeta_hf.data.config import DataConfig
from neumeta_hf.errors import DataError, one_line
from neumeta_hf.progress import on_terminal, progress_is_shown

_FORMATS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv", ".txt": "text"}
"""Ending of a file of text to what reads it."""


def load_splits(config: DataConfig, *, is_text: bool = False) -> dict[str, datasets.Dataset]:
    """Load the splits that a config names.

    Args:
        config: Says which.
        is_text: Whether it is of text, which may be one file; of plain files each is then a row.

    Returns:
        The data set of each role that is not cut from the training split: "train", and maybe "validation" and "test".

    Raises:
        DataError: A split cannot be loaded or has no row, or two of them share rows.
    """
    names = {"train": config.train_split}
    if config.test_fraction is None:
        names["test"] = config.test_split or "test"
    if config.validation_split is not None:
        names["validation"] = config.validation_split
    loaded = {role: _load(config, split, role, is_text=is_text) for role, split in names.items()}
    _refuse_overlaps({f"data.{role}_split={split!r}": loaded[role] for role, split in names.items()})
    return loaded


def open_streams(config: DataConfig, *, is_text: bool = False) -> dict[str, Any]:
    """Open the splits that a config names, each to be read as it comes.

    Args:
        config: Says which.
        is_text: As for `load_splits`.

    Returns:
        The iterable data set of each role: "train", "validation" and "test".

    Raises:
        DataError: A split cannot be opened, none is named for validation, or two of them are the same.
    """
    names = {"train": config.train_split, "validation": config.validation_split, "test": config.test_split or "test"}
    if config.validation_split is None or config.test_fraction is not None:
        raise DataError(
            f"data.validation_split={config.validation_split}, data.test_fraction={config.test_fraction}: nothing is "
            "cut from a stream. Name data.validation_split and data.test_split."
        )
    for one, other in itertools.combinations(names, 2):
        if names[one] == names[other]:
            raise DataError(f"data.{one}_split and data.{other}_split are both {names[one]!r}: name two splits.")
    return {role: _load(config, str(split), role, is_text=is_text, streaming=True) for role, split in names.items()}


def _load(config: DataConfig, split: str, role: str, *, is_text: bool, streaming: bool = False) -> Any:
    folder = os.path.expanduser(config.dataset)
    builder: str = folder
    options: dict[str, Any] = {"data_files": _literal_files(folder)}
    if is_text and os.path.exists(folder):
        builder, options = _text_files(folder) or (builder, options)
    # What reads like a path is none of the Hub's names, which has two parts at most.
    if not os.path.exists(folder) and (folder.startswith((".", "/")) or folder.strip("/").count("/") > 1):
        raise DataError(
            f"there is no folder {config.dataset!r} here: name one with {'texts' if is_text else 'images'}, or a data "
            "set of the Hub (data.dataset)."
        )
    if not (progress_is_shown() and on_terminal()):
        datasets.disable_progress_bars()
    try:
        dataset: Any = datasets.load_dataset(builder, config.subset, split=split, streaming=streaming, **options)
    except Exception as error:  # of each format that `datasets` reads, and of the network
        ways = "Splits are named by data.train_split, data.validation_split and data.test_split."
        if not os.path.exists(folder):
            ways = f"Without the network pass a local folder of the same data (data.dataset=path/to/folder). {ways}"
        if role == "test":
            ways += " Where there is none for testing, data.test_fraction=0.2 cuts one from the training split."
        reason = one_line(error, most=200).rstrip(".")
        raise DataError(f"split {split!r} of data set {config.dataset!r} cannot be loaded: {reason}. {ways}") from error
    if not streaming and len(dataset) == 0:
        raise DataError(f"data.{role}_split={split!r} has no row: name another split or slice.")
    return dataset


def _literal_files(folder: str, *, always: bool = False) -> dict[str, list[str]] | None:
    """The files of a folder whose path `datasets` would take for a pattern; None: it finds them by itself."""
    path = str(Path(folder).resolve())
    literal = glob.escape(path)
    if (literal == path and not always) or not os.path.isdir(path):
        return None
    return {
        str(split): [os.path.join(literal, pattern) for pattern in patterns]
        for split, patterns in get_data_patterns(literal).items()
    }


def _text_files(path: str) -> tuple[str, dict[str, Any]] | None:
    """What reads a file, or a folder of nothing but plain text, and how; None: `datasets` finds out by itself."""
    if os.path.isfile(path):
        if (reader := _FORMATS.get(Path(path).suffix.lower())) is None:
            raise DataError(
                f"data.dataset={path!r}: a file of text ends in {', '.join(_FORMATS)}. Name such a file, or a folder."
            )
        files: Any = {"train": glob.escape(str(Path(path).resolve()))}
    else:
        endings = {file.suffix.lower() for file in Path(path).rglob("*") if file.is_file() and file.stem != "README"}
        if endings != {".txt"}:
            return None
        reader, files = "text", _literal_files(path, always=True)
    return reader, {"data_files": files, **({"sample_by": "document"} if reader == "text" else {})}


def _refuse_overlaps(loaded: Mapping[str, datasets.Dataset]) -> None:
    """Refuse splits, by the keys that name them, which have rows in common with each other or with themselves."""
    rows = {key: _rows(dataset) for key, dataset in loaded.items()}
    for key, found in rows.items():
        if twice := len(found) - len(np.unique(found)):
            raise DataError(
                f"{key} names {twice} rows twice, and a cut could put them on both sides: name each row once."
            )
    for one, other in itertools.combinations(rows, 2):
        if shared := len(np.intersect1d(rows[one], rows[other])):
            raise DataError(
                f"{one} and {other} share {shared} rows, so a score on the second says nothing about new data. Leave "
                "one out and cut it from the training split with data.test_fraction or data.validation_fraction, or "
                "name slices without a common row."
            )


def _rows(dataset: datasets.Dataset) -> np.ndarray:
    """Rows of a split as numbers in the whole data set, all of whose splits lie one behind the other."""
    sizes = {name: info.num_examples for name, info in sorted((dataset.info.splits or {}).items())}
    starts = dict(zip(sizes, itertools.accumulate(sizes.values(), initial=0), strict=False))
    parts = datasets.ReadInstruction.from_spec(str(dataset.split)).to_absolute(sizes)
    return np.concatenate([starts[part.splitname] + np.arange(part.from_, part.to) for part in parts])


def check_fractions(config: DataConfig) -> None:
    """Refuse shares of the training split that are none, and sizes of what is kept of a stream.

    Args:
        config: Says them.

    Raises:
        DataError: One is out of range, or there is a share for testing beside a split.
    """
    for name in ("shuffle_blocks", "kept_blocks"):
        if not 1 <= getattr(config, name) <= 2**20:
            raise DataError(f"data.{name}={getattr(config, name)}: give a number from 1 to {2**20:,}.")
    if not 0 <= config.validation_fraction < 1:
        raise DataError(f"data.validation_fraction={config.validation_fraction}: give a fraction in [0, 1).")
    if config.test_fraction is None:
        return
    if not 0 < config.test_fraction < 1:
        raise DataError(f"data.test_fraction={config.test_fraction}: give a fraction between 0 and 1.")
    if config.test_split is not None:
        raise DataError(
            f"data.test_fraction={config.test_fraction} cuts the test split from the training split, and "
            f"data.test_split={config.test_split!r} names one: leave one out."
        )


def cut_test_rows(num_rows: int, classes: np.ndarray | None, fraction: float) -> np.ndarray:
    """Choose the rows of a training split that are for testing; the same for everybody, whatever the seeds of a run.

    Args:
        num_rows: Number of rows of the training split.
        classes: Class of each row, `[rows]`. None: rows have none, and are chosen as they come.
        fraction: How many, in (0, 1). Of each class as many, to within one row; of one with two rows or more there is a
            row on either side, and a class with one row stays in training.

    Returns:
        Numbers of rows, in their order.

    Raises:
        DataError: No row would be left on one of the two sides.
    """
    order = np.random.default_rng(0).permutation(num_rows)
    groups = [order] if classes is None else [order[classes[order] == label] for label in np.unique(classes)]
    sizes = np.array([len(group) for group in groups])
    most = sizes if classes is None else sizes - 1
    quotas = sizes * fraction
    counts = np.clip(np.floor(quotas).astype(np.int64), 0 if classes is None else np.minimum(1, most), most)
    # What is left goes to the largest remainders.
    left = max(0, round(num_rows * fraction) - int(counts.sum()))
    counts[np.argsort(np.where(counts < most, counts - quotas, np.inf), kind="stable")[:left]] += 1
    counts = np.minimum(counts, most)
    if not 0 < (total := int(counts.sum())) < num_rows:
        raise DataError(
            f"data.test_fraction={fraction} of {num_rows} rows leaves {total} for testing and {num_rows - total} for "
            "training: give a fraction that leaves some on both sides, or name data.test_split."
        )
    return np.sort(np.concatenate([group[:count] for group, count in zip(groups, counts, strict=True)]))


def cut_splits(
    num_rows: Mapping[str, int], config: DataConfig, classes: np.ndarray | None = None
) -> dict[str, tuple[str, np.ndarray]]:
    """Choose the rows of the training, validation and test splits, cut from the training split where they must be.

    Args:
        num_rows: Number of rows of each role that is loaded, "train" among them.
        config: Says how much is cut off, and by which seed.
        classes: Class of each row of the training split, `[rows]`. None: rows have none.

    Returns:
        Each role to the one that it is cut from, possibly itself, and the numbers of its rows there.

    Raises:
        DataError: As `cut_test_rows`.
    """
    cut = {role: (role, np.arange(num_rows[role])) for role in num_rows}
    rows = np.arange(num_rows["train"])
    if "test" not in num_rows:
        test_rows = cut_test_rows(num_rows["train"], classes, config.test_fraction or 0)
        cut["test"], rows = ("train", test_rows), np.setdiff1d(rows, test_rows)
    if "validation" not in num_rows:
        order = rows[np.random.default_rng(config.data_seed).permutation(len(rows))]
        num_validation = round(len(rows) * config.validation_fraction)
        cut["validation"], rows = ("train", np.sort(order[:num_validation])), np.sort(order[num_validation:])
    return {**cut, "train": ("train", rows)}
