"""Programs in processes of their own, started in no time: forks of one that has loaded what is slow.

That one has torch, datasets and the base classes of transformers, and neither neumeta_hf nor the Auto classes.
"""

import json
import subprocess
import sys
import textwrap

import pytest

SERVER = """
    import importlib, json, os, sys, traceback
    import torch._dynamo, datasets, matplotlib.figure, sklearn.datasets, torch_pruning, accelerate
    import transformers.modeling_utils, transformers.image_processing_utils
    assert "transformers.models.auto.modeling_auto" not in sys.modules and "neumeta_hf" not in sys.modules
    for line in sys.stdin:
        read, write = os.pipe()
        if os.fork() == 0:
            os.dup2(1, 2)
            try:
                folder, program = json.loads(line)
                os.chdir(folder)
                exec(program, {"__name__": "case"})
                said = ""
            except BaseException:
                said = traceback.format_exc()
            os.write(write, (said[:2000] + said[-2000:] if len(said) > 4000 else said).encode())
            os._exit(0)
        os.close(write)
        os.wait()
        print("\\0" + json.dumps(os.read(read, 65536).decode()), flush=True)
        os.close(read)
"""
WITHOUT_LIBRARY = 'import sys; sys.modules["neumeta_hf"] = None\n'
"""First line of a program that cannot import neumeta_hf."""


class ForkServer:
    """A process that forks for each program. It starts with the first."""

    def __init__(self):
        self._process: subprocess.Popen | None = None

    def run(self, program: str, folder: object = ".") -> None:
        """Run a program in a folder; what it raises fails the test."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", textwrap.dedent(SERVER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(folder), textwrap.dedent(program)]) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("\0"):
                if said := json.loads(line[1:]):
                    pytest.fail(said)
                return
        pytest.fail("the server died")

    def stop(self) -> None:
        """End the process, if it was started."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()
