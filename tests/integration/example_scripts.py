"""The scripts of examples/, as modules."""

import functools
import importlib.util
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
    spec.loader.exec_module(module)
    return module
