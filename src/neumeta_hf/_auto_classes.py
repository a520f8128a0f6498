"""Makes transformers' Auto classes know this package's models, without importing transformers before anybody else does.

`AutoModel.from_pretrained` must work after a mere `import neumeta_hf`, and that import must stay light. So registration
waits for the module that holds the Auto classes, and happens right after it was loaded.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

_AUTO_CLASSES = "transformers.models.auto.modeling_auto"


class _LoadThenRegister(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader):
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        _import_models()


class _AutoClassesFinder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _AUTO_CLASSES:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _LoadThenRegister(spec.loader)
        return spec


def _import_models() -> None:
    if "neumeta_hf.targets" in sys.modules or "neumeta_hf.modeling_neumeta" in sys.modules:
        return  # Half-imported: one of them is what imports the Auto classes, and registers itself when it is done.
    importlib.import_module("neumeta_hf.modeling_neumeta")


def load_auto_classes() -> None:
    """Load the Auto classes, and with them this package's models, before any part of the package needs the other."""
    importlib.import_module(_AUTO_CLASSES)


def register_with_auto_classes() -> None:
    """Register now where the Auto classes are loaded, else as soon as they are."""
    if _AUTO_CLASSES in sys.modules:
        _import_models()
    else:
        sys.meta_path.insert(0, _AutoClassesFinder())
