"""What makes a network's input travels with its weights: an image processor, or a tokenizer."""

import json
from collections.abc import Callable
from pathlib import Path

from neumeta_hf.checkpoints import PROCESSOR, without_origin
from neumeta_hf.errors import CheckpointError
from neumeta_hf.hub.run_files import read_processor
from neumeta_hf.reading import parse_json, read_json

TOKENIZER = "tokenizer.json"
SETTINGS, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
"""A tokenizer, what transformers is to do with it, and how conversations become text, where it says so."""


def read_preprocessor(find: Callable[[str], Path | None]) -> dict[str, bytes]:
    """Read what makes a network's input, as others may read it: without code, and without folders of this machine.

    Args:
        find: Name of a file to where it lies; None: there is none.

    Returns:
        Name of a file to its content: the image processor's, else the tokenizer's, else none.

    Raises:
        CheckpointError: A file is damaged.
    """
    if (processor := read_processor(find(PROCESSOR))) is not None:
        # As image processors write it themselves, so that what needed no change is the same to the byte.
        return {PROCESSOR: (json.dumps(processor, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()}
    if (path := find(TOKENIZER)) is None:
        return {}
    files = {TOKENIZER: path.read_bytes()}
    if not isinstance(parse_json(_text(files[TOKENIZER], path), str(path)), dict):
        raise CheckpointError(f"{path} is no tokenizer: save it again.")
    if (path := find(SETTINGS)) is not None:
        files[SETTINGS] = (json.dumps(read_settings(path), indent=2, ensure_ascii=False) + "\n").encode()
    if (path := find(TEMPLATE)) is not None:
        files[TEMPLATE] = _text(path.read_bytes(), path).encode()
    return files


def read_settings(path: Path) -> dict:
    """Read what transformers is to do with a tokenizer.

    Args:
        path: The file.

    Returns:
        Its values without what names code, and without the files that it was made of.

    Raises:
        CheckpointError: It is no JSON, or maps no keys to values.
    """
    return {key: value for key, value in without_origin(read_json(path)).items() if not key.endswith("_file")}


def write_preprocessor(files: dict[str, bytes], folder: Path) -> None:
    """Write what `read_preprocessor` has read into a folder.

    Args:
        files: Name to content.
        folder: Exists.
    """
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _text(content: bytes, path: Path) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is no text in UTF-8: save it again.") from error
