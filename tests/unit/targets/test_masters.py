"""Networks are read in float32, whatever they were saved in."""

import json
import logging

import pytest
import torch
from safetensors.torch import save_file

from neumeta_hf.targets import find_target
from neumeta_hf.targets.masters import load_in_float32

COARSE = [torch.bfloat16, torch.float16, torch.float64]


@pytest.mark.parametrize("dtype", COARSE, ids=str)
@pytest.mark.parametrize("name", ["lenet_batch_norm", "resnet", "upernet", "autoencoder_kl", "mlp_vae"])
def test_the_values_are_those_saved_and_the_type_is_float32(name, dtype, target_configs, tmp_path, caplog):
    network = find_target(target_configs[name]).build(target_configs[name]).to(dtype)
    network.save_pretrained(tmp_path / "saved")
    families = (None, find_target(target_configs[name]))
    for loaded in (load_in_float32(str(tmp_path / "saved"), family) for family in families):
        assert not loaded.training
        for key, tensor in loaded.state_dict().items():
            expected = network.state_dict()[key]
            assert tensor.dtype == (torch.float32 if expected.is_floating_point() else expected.dtype), key
            assert torch.equal(tensor, expected.to(tensor.dtype)), key
        loaded.save_pretrained(tmp_path / "again")
        config = json.loads((tmp_path / "again" / "config.json").read_text())
        for part in (config, config.get("backbone_config", {})):
            assert part.get("dtype", "float32") == "float32"
    if "vae" not in name and "autoencoder" not in name:  # configs of diffusers say no precision
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert ["torch." + warning.partition("saved in ")[2].split(":")[0] for warning in warnings] == [str(dtype)] * 2


def test_float32_is_nothing_to_tell_of(target_configs, tmp_path, caplog):
    find_target(target_configs["lenet"]).build(target_configs["lenet"]).save_pretrained(tmp_path)
    load_in_float32(str(tmp_path))
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_bare_weights_too(target_configs, tmp_path):
    family = find_target("cifar_resnet")
    network = family.build(target_configs["cifar_resnet"]).to(torch.float16)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    loaded = load_in_float32(str(tmp_path / "weights.safetensors"), family)
    assert {tensor.dtype for tensor in loaded.parameters()} == {torch.float32}
