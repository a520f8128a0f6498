"""The scripts of examples/, as modules."""

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

EXAMPLES = Path(__file__).parents[2] / "examples"


@functools.cache
def load_script(name: str) -> ModuleType:
    """A script by its path in examples/, as a module: what stands under `if __name__ == "__main__"` is not run."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, EXAMPLES / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str((EXAMPLES / name).parent))  # as where it is run: scripts import what lies beside them
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module
