import re

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import save_file
from torch import nn

from neumeta_hf.errors import CheckpointError, SizeError
from neumeta_hf.targets import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    cifar_resnet,
    cifar_resnet20,
    cifar_resnet32,
    cifar_resnet44,
    cifar_resnet56,
    cifar_resnet110,
    find_target,
    load_cifar_checkpoint,
    resize,
)
from target_axes import num_channels

IDENTITY = CifarResNetConfig(num_blocks=[1, 2, 1], stage_channels=[4, 8, 16], shortcut="identity", num_labels=3)
PROJECTION = CifarResNetConfig(num_blocks=[1, 2, 1], stage_channels=[4, 8, 16], shortcut="projection", num_labels=3)


def random_model(config):
    model = CifarResNetForImageClassification(config)
    generator = torch.Generator().manual_seed(0)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.1)
    return model.eval()


@pytest.mark.parametrize(
    ("preset", "depth", "num_parameters"),
    [
        (cifar_resnet20, 20, 269_722),
        (cifar_resnet32, 32, 464_154),
        (cifar_resnet44, 44, 658_586),
        (cifar_resnet56, 56, 853_018),
        (cifar_resnet110, 110, 1_727_962),
    ],
)
def test_presets_have_the_depth_and_size_of_the_paper(preset, depth, num_parameters):
    with torch.device("meta"):
        model = CifarResNetForImageClassification(preset(10, shortcut="identity"))
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules()) == depth
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters
    assert model.linear.out_features == 10


def test_padding_splits_the_new_channels_with_the_odd_one_above():
    images = torch.arange(2 * 2 * 5 * 4, dtype=torch.float32).reshape(2, 2, 5, 4) + 1
    padded = cifar_resnet.PaddedSubsample(2, 7)(images)
    assert padded.shape == (2, 7, 3, 2)
    assert torch.equal(padded[:, 2:4], images[:, :, ::2, ::2])
    assert padded[:, [0, 1, 4, 5, 6]].abs().sum() == 0


def test_shortcuts_stand_at_their_position_even_where_widths_are_equal():
    config = resize(PROJECTION, {"stage2": 0.5, "stage3": 0.25})
    assert config.stage_channels == [4, 4, 4]
    model = CifarResNetForImageClassification(config)
    assert isinstance(model.layer1[0].downsample, nn.Identity)
    assert isinstance(model.layer2[1].downsample, nn.Identity)
    assert model.layer2[0].downsample[0].weight.shape == (4, 4, 1, 1)


def test_identity_shortcuts_cannot_shrink_and_the_advice_works():
    with pytest.raises(SizeError, match="'stage2' cannot have 2 channels while 'stage1' has 4") as error:
        resize(IDENTITY, {"stage2": 0.25})
    ratio = float(re.search(r"a ratio of ([\d.]+)", str(error.value))[1])
    assert resize(IDENTITY, {"stage2": ratio}).stage_channels == [4, 4, 16]
    resize(PROJECTION, {"stage2": 0.25})


def test_inner_channels_equal_to_their_stage_are_not_written_down():
    config = CifarResNetConfig(num_blocks=[1, 1, 1], stage_channels=[4, 8, 16], inner_channels=[[4], [8], [16]])
    assert config.inner_channels is None
    assert resize(PROJECTION, {"stage1.block1": 0.5}).inner_channels == [[2], [8, 8], [16]]


def test_fused_network_has_biases_where_batch_norm_was():
    fused = find_target(PROJECTION).fused_config(PROJECTION)
    keys = set(CifarResNetForImageClassification(fused).state_dict())
    assert {"conv1.bias", "layer1.0.conv2.bias", "layer2.0.downsample.0.bias"} <= keys
    assert not any("bn" in key or "downsample.1" in key for key in keys)


@pytest.mark.parametrize(
    "options",
    [
        {"num_blocks": [1, 1]},
        {"stage_channels": [4, 0, 8]},
        {"inner_channels": [[4], [8], [16]]},
        {"shortcut": "option A"},
        {"shortcut": "identity", "stage_channels": [8, 4, 16]},
        {"stage_channels": [4.0, 8, 16]},
    ],
)
def test_impossible_configs_are_refused(options):
    with pytest.raises(StrictDataclassError):
        CifarResNetConfig(**options)


def as_akamaster(weights):
    return {key: value for key, value in weights.items() if "num_batches" not in key}


def as_chenyaofo(weights):
    return {key.replace("linear.", "fc."): value for key, value in weights.items()}


def as_data_parallel(weights):
    return {f"module.{key}".replace("downsample", "shortcut"): value for key, value in weights.items()}


@pytest.mark.parametrize("spelled", [dict, as_akamaster, as_chenyaofo, as_data_parallel])
@pytest.mark.parametrize(
    "config",
    [
        IDENTITY,
        PROJECTION,
        resize(PROJECTION, {"stage1.block1": 0.5, "stage3": 0.5}),
        find_target(PROJECTION).fused_config(PROJECTION),
    ],
    ids=["identity", "projection", "inner", "fused"],
)
def test_checkpoints_of_common_spellings_are_read(config, spelled, tmp_path):
    model = random_model(config)
    save_file(spelled(model.state_dict()), tmp_path / "weights.safetensors")
    loaded = load_cifar_checkpoint(tmp_path / "weights.safetensors")
    assert num_channels(find_target(config), loaded.config) == num_channels(find_target(config), config)
    assert (loaded.config.shortcut, loaded.config.batch_norm) == (config.shortcut, config.batch_norm)
    images = torch.randn(2, 3, 32, 32)
    assert not loaded.training
    assert torch.equal(loaded(images).logits, model(images).logits)


def test_half_precision_is_read_as_float32(tmp_path):
    weights = {
        key: value.half() if value.is_floating_point() else value
        for key, value in random_model(IDENTITY).state_dict().items()
    }
    save_file(weights, tmp_path / "weights.safetensors")
    assert {p.dtype for p in load_cifar_checkpoint(tmp_path / "weights.safetensors").parameters()} == {torch.float32}


def lacking(key):
    return lambda weights: weights.pop(key)


def having(key, *shape):
    return lambda weights: weights.update({key: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lacking("conv1.weight"), "conv1.weight is missing"),
        (lacking("linear.bias"), "linear.bias is missing"),
        (lacking("layer2.1.bn2.running_var"), "layer2.1.bn2.running_var is missing"),
        (lacking("layer2.0.conv1.weight"), "layer2.0.conv1.weight is missing"),
        (having("layer4.0.conv1.weight", 4, 4, 3, 3), "layer4.0.conv1.weight (4, 4, 3, 3) is unexpected"),
        (having("layer3.5.conv1.weight", 4, 4, 3, 3), "layer3.1.conv1.weight is missing"),
        (having("layer1.0.bn1.weight", 5), "layer1.0.bn1.weight has shape (5,), not (4,)"),
        (having("layer1.0.conv2.weight", 4, 4, 5, 5), "layer1.0.conv2.weight has shape (4, 4, 5, 5), not (4, 4, 3, 3)"),
        (having("conv1.weight", 4), "conv1.weight has shape (4,)"),
        (having("fc.bias", 3), "under two names"),
        (having("layer2.0.conv2.weight", 2, 8, 3, 3), "only adds channels"),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name(damage, said, tmp_path):
    weights = random_model(IDENTITY).state_dict()
    damage(weights)
    save_file(weights, tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match=re.escape(said)):
        load_cifar_checkpoint(tmp_path / "weights.safetensors")


def test_what_is_no_safetensors_file_is_refused(tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"PK\x03\x04 a pickle")
    for name in ("weights.pt", "nowhere.safetensors"):
        with pytest.raises(CheckpointError, match=f"{name} cannot be read as safetensors"):
            load_cifar_checkpoint(tmp_path / name)
