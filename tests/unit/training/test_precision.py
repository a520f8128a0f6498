import logging

import pytest
import torch

from neumeta_hf.training.precision import choose_precision, has_native_bf16

CPU = torch.device("cpu")


@pytest.fixture(params=[True, False], ids=["native", "emulated"])
def native(request, monkeypatch):
    capabilities = {"avx2": True, "avx512_f": True, "avx512_bf16": request.param, "num_physical_cores": 2}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    return request.param


def test_auto_is_bf16_only_where_the_cpu_multiplies_in_it(native):
    assert has_native_bf16(CPU) is native
    assert choose_precision("auto", CPU) == ("bf16" if native else "no")


def test_what_was_asked_for_by_name_is_kept_and_slow_emulation_is_named(native, caplog):
    with caplog.at_level(logging.WARNING):
        assert choose_precision("no", CPU) == "no"
        assert not caplog.records
        assert choose_precision("bf16", CPU) == "bf16"
    assert bool(caplog.records) is not native
    if not native:
        assert "mixed_precision=bf16" in caplog.text
        assert "mixed_precision=auto" in caplog.text


def test_a_gpu_that_emulates_has_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not has_native_bf16(torch.device("cuda"))


def test_devices_that_cannot_be_asked_have_none(monkeypatch):
    assert not has_native_bf16(torch.device("meta"))
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert choose_precision("auto", CPU) == "no"
