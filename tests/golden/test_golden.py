"""Checkpoints of format 1 load for ever, and give the same bits."""

import json
from pathlib import Path

import pytest
import torch
from make_golden import CASES, look
from safetensors.torch import load_file

from neumeta_hf import NeuMetaModel

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_of_format_1_gives_what_it_gave(name, tmp_path):
    facts = json.loads((HERE / name / "expected.json").read_text())
    expected = load_file(HERE / name / "expected.safetensors")
    # Kernels of other processors round otherwise.
    is_same_machine = torch.backends.cpu.get_cpu_capability() == facts["capability"]
    model = NeuMetaModel.from_pretrained(HERE / name)
    model.save_pretrained(tmp_path / "again")
    again = NeuMetaModel.from_pretrained(tmp_path / "again")
    for number, row in enumerate(facts["sizes"]):
        for family in (model, again):
            digests, outputs = look(family, expected["images"], row["size"])
            if is_same_machine:
                assert {"size": row["size"], **digests} == row
            for key, value in outputs.items():
                assert torch.allclose(value, expected[f"{number}.{key}"], rtol=1e-3, atol=1e-4)
                if is_same_machine:
                    assert torch.equal(value, expected[f"{number}.{key}"])
