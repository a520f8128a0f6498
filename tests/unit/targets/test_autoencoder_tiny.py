import json
import re

import diffusers
import pytest
import torch

from neumeta_hf import NeuMetaModel, prepare
from neumeta_hf.errors import SizeError, TargetError
from neumeta_hf.targets import (
    AutoencoderTinyTargetConfig,
    NeuMetaAutoencoderTiny,
    config_of,
    find_target,
    load_network,
    resize,
)
from target_axes import num_channels, with_num_channels

FAMILY = find_target("autoencoder_tiny")
TINY = {
    **{"encoder_block_out_channels": [8, 8], "decoder_block_out_channels": [8, 8], "latent_channels": 2},
    **{"num_encoder_blocks": [1, 1], "num_decoder_blocks": [2, 1]},
}
OWN = {"decoder.stage1": 0.5, "encoder.stage2.block1": 0.75}


def config(**options):
    return AutoencoderTinyTargetConfig(image_size=16, vae={**TINY, **options})


def build(target_config):
    torch.manual_seed(0)
    return FAMILY.build(target_config).eval()


def run(network, images):
    with torch.no_grad():
        return FAMILY.forward(network, images)


def test_the_default_is_taesd():
    network = diffusers.AutoencoderTiny()
    counts = num_channels(FAMILY, config_of(network))
    assert set(counts.values()) == {64}
    streams = [f"{side}.stage{n}" for side in ("encoder", "decoder") for n in (1, 2, 3, 4)]
    assert [axis for axis in counts if axis.count(".") == 1] == streams
    assert len(counts) - len(streams) == sum((1, 3, 3, 3)) + sum((3, 3, 3, 1))
    assert sum(parameter.numel() for parameter in network.parameters()) == 2_445_063


@pytest.mark.parametrize("width", [0.3, 0.5, 0.75, 1.2])
@pytest.mark.parametrize("sides", ["*", "decoder.*", "encoder.*"])
def test_one_width_for_a_side_is_the_stock_class(width, sides):
    reference = config()
    resized = resize(reference, {sides: width})
    network = build(resized)
    assert type(network) is diffusers.AutoencoderTiny
    assert (resized.vae["encoder_block_out_channels"] == [8, 8]) is (sides == "decoder.*")
    assert (resized.vae["decoder_block_out_channels"] == [8, 8]) is (sides == "encoder.*")
    assert run(network, torch.rand(2, 3, 16, 16)).sample.shape == (2, 3, 16, 16)


def test_a_stage_and_the_inside_of_a_block_need_the_own_class_and_going_back_does_not():
    reference = config()
    narrow = resize(reference, OWN)
    # The insides of its two blocks follow the stage.
    assert (narrow.vae["decoder_block_out_channels"], narrow.vae["encoder_block_out_channels"]) == ([4, 8], [8, 8])
    assert narrow.vae["inner_channels"] == {"encoder.layers.3": 6}
    network = build(narrow)
    assert type(network) is NeuMetaAutoencoderTiny
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert shapes["encoder.layers.3.conv.2.weight"] == (6, 6, 3, 3)
    assert shapes["decoder.layers.0.weight"] == (4, 2, 3, 3)
    assert shapes["decoder.layers.2.conv.0.weight"] == (4, 4, 3, 3)
    assert shapes["decoder.layers.5.weight"] == (8, 4, 3, 3)
    back = with_num_channels(FAMILY, narrow, num_channels(FAMILY, reference))
    assert back.to_dict() == reference.to_dict()


def test_the_own_class_computes_what_the_stock_class_does():
    stock = build(config())
    inner = {f"{side}.layers.{n}": 8 for side, n in (("encoder", 1), ("encoder", 3), ("decoder", 2), ("decoder", 6))}
    own = NeuMetaAutoencoderTiny(**TINY, inner_channels=inner).eval()
    own.load_state_dict(stock.state_dict(), strict=True)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    assert torch.equal(run(own, images).sample, run(stock, images).sample)
    # What says nothing of its own is the stock network; without images of a size it says the default.
    assert config_of(own).vae == config_of(stock).vae


def test_latents_are_not_rounded_as_the_networks_own_forward_pass_does():
    network, images = build(config()), torch.rand(2, 3, 16, 16) * 2 - 1
    outputs = run(network, images)
    assert torch.equal(outputs.mean, network.encode(images).latents)
    assert torch.equal(outputs.sample, network.decode(outputs.mean).sample)
    assert outputs.logvar is None
    assert not torch.equal(outputs.sample, network(images).sample)
    images.requires_grad_(True)
    FAMILY.forward(network, images).sample.sum().backward()
    assert images.grad.abs().max() > 0


@pytest.mark.parametrize("own", [False, True], ids=["stock", "own"])
def test_a_saved_network_is_the_same_after_loading_and_keeps_its_images_size(own, tmp_path):
    target_config = resize(config(), OWN if own else 0.5)
    network = build(target_config)
    FAMILY.set_image_size(network, [24, 16])
    network.save_pretrained(tmp_path)
    loaded = load_network(str(tmp_path))
    assert type(loaded) is type(network) is (NeuMetaAutoencoderTiny if own else diffusers.AutoencoderTiny)
    assert FAMILY.image_shape(config_of(loaded)) == (3, 24, 16)
    assert FAMILY.latent_shape(config_of(loaded)) == (2, 12, 8)
    assert config_of(loaded).vae == target_config.vae
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["_class_name"] == type(network).__name__
    if not own:
        assert "inner_channels" not in written
        alone = diffusers.AutoencoderTiny.from_pretrained(tmp_path)
        assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in alone.state_dict().items())


def test_a_decoder_family_leaves_the_latents_alone_and_begins_as_the_reference():
    network, images = build(config()), torch.rand(2, 3, 16, 16) * 2 - 1
    prepared, report = prepare(network, normalization="keep", order="importance")
    assert len(report.cliques) == 2 * 2 + 2 * 5  # streams of stages, and two insides of each block
    torch.testing.assert_close(run(prepared, images).mean, run(network, images).mean, atol=1e-5, rtol=1e-4)
    options = {"hypernetwork": {"type": "grid"}, "normalization": "keep", "trained_widths": [0.5, 1.0]}
    family = NeuMetaModel.from_reference(prepared, generated=["decoder"], **options)
    assert all(axis.startswith("decoder.") for axis in family.width_groups)
    torch.testing.assert_close(run(family.morph(1.0), images).sample, run(network, images).sample, atol=1e-5, rtol=1e-4)
    half = family.morph(0.5)
    assert type(half) is diffusers.AutoencoderTiny
    assert (half.config.encoder_block_out_channels, half.config.decoder_block_out_channels) == ([8, 8], [4, 4])
    assert torch.equal(run(half, images).mean, run(prepared, images).mean)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"nothing": 1}, "vae has nothing"),
        ({"encoder_block_out_channels": [8]}, "num_encoder_blocks"),
        ({"decoder_block_out_channels": [8, 0]}, "decoder_block_out_channels"),
        ({"decoder_block_out_channels": []}, "decoder_block_out_channels"),
        ({"num_decoder_blocks": "12"}, "num_decoder_blocks"),
        ({"latent_channels": 2.5}, "latent_channels"),
        ({"out_channels": 4}, "in_channels=3 and out_channels=4"),
        ({"upsampling_scaling_factor": 3}, "upsampling_scaling_factor"),
        ({"inner_channels": {"decoder.layers.1": 4}}, "decoder.layers.1"),
        ({"inner_channels": {"decoder.layers.2": True}}, "inner_channels"),
    ],
)
def test_fields_that_are_no_network_are_refused_by_name(fields, says):
    with pytest.raises(TargetError, match=re.escape(says)):
        config(**fields)


@pytest.mark.parametrize("image_size", [15, 0, [16], [16, 15], [16, 16, 16]])
def test_an_image_size_that_the_encoder_cannot_shrink_is_refused(image_size):
    with pytest.raises(TargetError, match="image_size=.*multiple of 2"):
        AutoencoderTinyTargetConfig(image_size=image_size, vae=TINY)


@pytest.mark.parametrize("sample_size", ["64", [16, True], 8.0, None])
def test_a_network_that_states_no_size_of_its_images_is_refused(sample_size):
    network = build(config())
    network.register_to_config(sample_size=sample_size)
    with pytest.raises(TargetError, match="sample_size="):
        config_of(network)


def test_blocks_cannot_be_left_out():
    with pytest.raises(SizeError, match="blocks"):
        FAMILY.space(config()).size(depth=0.5)
