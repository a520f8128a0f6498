"""Makes transformers' Auto classes know this package's models, without importing transformers before anybody else does.

`AutoModel.from_pretrained` must work after a mere `import neumeta_hf`, and that import must stay light. So registration
waits for the modules that hold the Auto classes, and happens right after one of them was loaded.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

_AUTO_CLASSES = "transformers.models.auto.modeling_auto"
_WATCHED = (
    _AUTO_CLASSES,
    # These two may be used alone; but they are also loaded on the way to what our models are made of.
    "transformers.models.auto.configuration_auto",
    "transformers.models.auto.image_processing_auto",
    # May be imported before all else, and are what our models need and what loads the Auto classes.
    "neumeta_hf.targets",
    "neumeta_hf.modeling_neumeta",
)
_MODELS = "neumeta_hf.modeling_tasks"
_NEEDED_BY_MODELS = tuple(
    f"neumeta_hf.{name}"
    for name in (
        "calibration",
        "checkpoints",
        "configuration_neumeta",
        "coordinates",
        "family_generation",
        "family_sizes",
        "family_statistics",
        "hypernetworks",
        "modeling_neumeta",
        "targets",
    )
)


class _LoadThenRegister(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader):
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        if not _is_too_early(module):
            importlib.import_module(_MODELS)


class _AutoClassesFinder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _WATCHED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _LoadThenRegister(spec.loader)
        return spec


def _is_too_early(loaded: ModuleType) -> bool:
    """Whether something that our models need is still being imported, further up the stack than a watched module."""
    needed = (_MODELS, *_NEEDED_BY_MODELS)
    if loaded.__name__ not in (_AUTO_CLASSES, *_WATCHED[-2:]):  # with these the bases of transformers are loaded
        needed += ("transformers.",)
    return any(
        name.startswith(needed)
        and module is not loaded
        and getattr(getattr(module, "__spec__", None), "_initializing", False)
        for name, module in list(sys.modules.items())
    )


def register_with_auto_classes() -> None:
    """Register now where the Auto classes are loaded, else as soon as they are."""
    if _AUTO_CLASSES in sys.modules:
        importlib.import_module(_MODELS)
    else:
        sys.meta_path.insert(0, _AutoClassesFinder())
