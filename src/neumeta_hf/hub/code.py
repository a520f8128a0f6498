"""This package's modeling code as flat files, for `trust_remote_code=True` where the package is not installed."""

import importlib.util
import re
from pathlib import Path

_PACKAGE = __name__.split(".")[0]
_ROOTS = ("configuration_neumeta", "modeling_tasks")
_IMPORT = re.compile(rf"^(\s*)from {_PACKAGE}\.([\w.]+) import ", flags=re.MULTILINE)

AUTO_MAP = {
    "AutoConfig": "configuration_neumeta.NeuMetaConfig",
    "AutoModel": "modeling_neumeta.NeuMetaModel",
}
"""What config.json says of these files."""

TASK_CLASSES = {
    "image-classification": {"AutoModelForImageClassification": "modeling_tasks.NeuMetaForImageClassification"},
    "causal-lm": {"AutoModelForCausalLM": "modeling_tasks.NeuMetaForCausalLM"},
    "masked-lm": {"AutoModelForMaskedLM": "modeling_tasks.NeuMetaForMaskedLM"},
    "semantic-segmentation": {"AutoModelForSemanticSegmentation": "modeling_tasks.NeuMetaForSemanticSegmentation"},
}
"""What it says besides, by task: an Auto class that a family is not for must not load it."""


def remote_code() -> dict[str, str]:
    """List the modules that a family needs to load and morph, each as one file beside the weights.

    transformers follows relative imports between files of one folder and no others, so that the packages inside this
    one are laid flat: `targets.sizes` becomes `targets_sizes.py`.

    Returns:
        File name to source.
    """
    files: dict[str, str] = {}
    waiting = list(_ROOTS)
    while waiting:
        module = waiting.pop()
        name = f"{_flat(module)}.py"
        if name in files:
            continue
        source = _source_of(module)
        waiting += [found[2] for found in _IMPORT.finditer(source)]
        files[name] = _IMPORT.sub(lambda found: f"{found[1]}from .{_flat(found[2])} import ", source)
    # Nobody has registered the families of targets when a config is read.
    files["configuration_neumeta.py"] += "\nfrom .targets import find_target as find_target  # noqa: E402\n"
    return files


def _flat(module: str) -> str:
    return module.replace(".", "_")


def _source_of(module: str) -> str:
    spec = importlib.util.find_spec(f"{_PACKAGE}.{module}")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text(encoding="utf-8")
