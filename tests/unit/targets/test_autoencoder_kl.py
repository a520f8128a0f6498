import itertools
import json
import re

import diffusers
import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from torch import nn
from torch.func import functional_call
from transformers import AutoConfig

from neumeta_hf.errors import SizeError, TargetError
from neumeta_hf.targets import (
    AutoencoderKLTargetConfig,
    AutoencoderOutput,
    MlpVaeTargetConfig,
    NeuMetaAutoencoderKL,
    config_of,
    find_target,
    ratios,
    resize,
)
from target_axes import axis_parts, multiples, num_channels, parents_of, with_num_channels

FAMILY = find_target("autoencoder_kl")
# The VAE of Stable Diffusion.
LARGE = AutoencoderKLTargetConfig(
    image_size=512, num_channels=3, vae={"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}
)


def config(block_out_channels=(16, 32), norm_num_groups=4, image_size=8, **options):
    vae = {"block_out_channels": list(block_out_channels), "norm_num_groups": norm_num_groups, **options}
    return AutoencoderKLTargetConfig(image_size=image_size, num_channels=1, vae=vae)


def build(target_config, seed=0):
    """With weights that are all different; those of norms and biases are constant at first."""
    torch.manual_seed(seed)
    network = FAMILY.build(target_config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network


def shapes(target_config):
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in FAMILY.build(target_config).state_dict().items()}


def test_groups_follow_the_data_and_blocks_of_equal_width_are_one():
    counts, parents = num_channels(FAMILY, LARGE), parents_of(FAMILY, LARGE)
    streams = {group: count for group, count in counts.items() if "resnet" not in group}
    assert list(streams.items()) == [
        ("encoder.block1", 128), ("encoder.block2", 256), ("encoder.block3", 512),
        ("decoder.block1", 512), ("decoder.block3", 256), ("decoder.block4", 128),
    ]  # fmt: skip
    assert parents.keys() == counts.keys() - streams.keys()
    assert len(parents) == 4 * 2 + 2 + 4 * 3 + 2
    for group in ("encoder.block4.resnet2", "encoder.mid.resnet1", "encoder.mid.resnet2"):
        assert parents[group] == "encoder.block3"
    for group in ("decoder.mid.resnet1", "decoder.block1.resnet3", "decoder.block2.resnet1"):
        assert parents[group] == "decoder.block1"
    assert parents["decoder.block3.resnet1"] == "decoder.block3"
    assert list(counts).index("decoder.mid.resnet2") < list(counts).index("decoder.block1.resnet1")
    assert list(counts).index("encoder.block4.resnet2") < list(counts).index("encoder.mid.resnet1")


@pytest.mark.parametrize("width", [0.25, 0.5, 0.75, 1.5])
def test_uniform_widths_keep_the_stock_class_and_its_network(width):
    resized = resize(LARGE, width)
    with torch.device("meta"):
        network = FAMILY.build(resized)
        stock = diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=tuple(int(count * width) for count in (128, 256, 512, 512)),
            layers_per_block=2,
            sample_size=512,
        )
    assert type(network) is diffusers.AutoencoderKL
    assert shapes(resized) == {name: tuple(tensor.shape) for name, tensor in stock.state_dict().items()}
    assert FAMILY.config_of(stock).to_dict() == resized.to_dict()


@pytest.mark.parametrize("width", [0.3, 0.45, 0.6, 0.8, 1.1, 1.7])
def test_counts_are_multiples_that_group_norm_can_have(width):
    reference = config((16, 32), norm_num_groups=4)
    counts = num_channels(FAMILY, resize(reference, width))
    assert {count % 4 for count in counts.values()} == {0}
    with pytest.raises(SizeError, match="'decoder.block1' cannot have 30 channels.*multiple of 4"):
        with_num_channels(FAMILY, reference, {**counts, "decoder.block1": 30})


def test_the_decoder_changes_alone():
    reference = config((16, 32))
    morphed = resize(reference, 0.75, groups=[g for g in num_channels(FAMILY, reference) if g.startswith("decoder")])
    with torch.device("meta"):
        assert type(FAMILY.build(morphed)) is NeuMetaAutoencoderKL
    before, after = shapes(reference), shapes(morphed)
    assert list(before) == list(after)
    changed = {name for name in before if before[name] != after[name]}
    assert {name.split(".")[0] for name in changed} == {"decoder"}
    assert after["decoder.conv_in.weight"] == (24, 4, 3, 3)
    assert after["decoder.conv_out.weight"] == (1, 12, 3, 3)
    assert FAMILY.latent_shape(morphed) == FAMILY.latent_shape(reference) == (4, 4, 4)


def test_an_inner_width_needs_the_own_class_and_going_back_does_not():
    reference = config((16, 32))
    narrow = resize(reference, {"decoder.mid.resnet2": 0.5})
    assert narrow.vae["inner_channels"] == {"decoder.mid_block.resnets.1": 16}
    before, after = shapes(reference), shapes(narrow)
    changed = {name.removeprefix("decoder.mid_block.resnets.1.") for name in before if before[name] != after[name]}
    assert changed == {"conv1.weight", "conv1.bias", "norm2.weight", "norm2.bias", "conv2.weight"}
    assert after["decoder.mid_block.resnets.1.conv2.weight"] == (32, 16, 3, 3)
    back = with_num_channels(FAMILY, narrow, num_channels(FAMILY, reference))
    assert back.to_dict() == reference.to_dict()


@pytest.mark.parametrize("act_fn", ["silu", "relu"])
@pytest.mark.parametrize("attention", [True, False])
def test_the_own_class_computes_what_the_stock_class_does(attention, act_fn):
    stock = build(config((8, 16, 16), 4, mid_block_add_attention=attention, act_fn=act_fn, layers_per_block=2))
    arguments = {name: value for name, value in stock.config.items() if not name.startswith("_")}
    paths = [name for name, module in stock.named_modules() if type(module).__name__ == "ResnetBlock2D"]
    inner = {path: stock.get_submodule(path).conv1.out_channels for path in paths}
    own = NeuMetaAutoencoderKL(**arguments, decoder_block_out_channels=(8, 16, 16), inner_channels=inner).eval()
    own.load_state_dict(stock.state_dict(), strict=True)
    images = torch.randn(2, 1, 8, 8)
    expected, actual = FAMILY.forward(stock, images, seed=1), FAMILY.forward(own, images, seed=1)
    assert all(torch.equal(expected[key], actual[key]) for key in ("sample", "mean", "logvar"))
    # What says nothing of its own is the stock network.
    assert config_of(own).to_dict() == config_of(stock).to_dict()


@pytest.mark.parametrize("own", [False, True], ids=["stock", "own"])
def test_a_saved_network_is_the_same_after_loading(own, tmp_path):
    target_config = resize(config((16, 32)), {"decoder.block1": 0.75, "encoder.mid.resnet1": 0.5} if own else 0.5)
    network = build(target_config)
    network.save_pretrained(tmp_path / "vae")
    for loaded in (FAMILY.load(str(tmp_path / "vae")), FAMILY.load(str(tmp_path), subfolder="vae")):
        assert type(loaded) is type(network) is (NeuMetaAutoencoderKL if own else diffusers.AutoencoderKL)
        assert not loaded.training
        assert config_of(loaded).to_dict() == target_config.to_dict()
        assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    again = type(network).from_config(loaded.config)
    assert config_of(again).to_dict() == target_config.to_dict()
    written = json.loads((tmp_path / "vae" / "config.json").read_text())
    assert written["_class_name"] == type(network).__name__
    if not own:
        assert not {"decoder_block_out_channels", "inner_channels"} & set(written)
        assert type(diffusers.AutoencoderKL.from_pretrained(tmp_path / "vae")) is diffusers.AutoencoderKL


def test_a_folder_of_another_kind_is_refused(tmp_path):
    find_target("mlp_vae").build(MlpVaeTargetConfig(image_size=4)).save_pretrained(tmp_path / "mlp")
    with pytest.raises(TargetError, match="holds a MlpVae.*'autoencoder_kl' takes AutoencoderKL and NeuMetaAuto"):
        FAMILY.load(str(tmp_path / "mlp"))
    config().save_pretrained(tmp_path / "config")
    with pytest.raises(TargetError, match="holds a network that is not of diffusers"):
        FAMILY.load(str(tmp_path / "config"))
    with pytest.raises(OSError, match="nowhere"):
        FAMILY.load(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("reference", "width", "group", "counts"),
    [
        (config((16, 32)), {"encoder.block1": 2.0}, "encoder.block2", [28, 36]),
        (config((16, 32)), {"encoder.block2": 0.5}, "encoder.block2", [12, 20]),
        (config((16, 32)), {"decoder.block1": 0.5}, "decoder.block2", [12, 20]),
        # Both neighbours of the middle block are as wide: the counts beside them must fit both.
        (config((8, 16, 24)), {"encoder.block1": 2.0, "encoder.block3": 20 / 24}, "encoder.block2", [12, 24]),
        # Nothing is left below.
        (config((8, 16)), {"encoder.block1": 0.5, "encoder.block2": 0.25}, "encoder.block2", [8]),
        (config((4, 8, 8), 1), {"encoder.block1": 2.0}, "encoder.block2", [7, 9]),
    ],
)
def test_a_shortcut_that_would_vanish_is_refused_and_the_advice_works(reference, width, group, counts):
    with pytest.raises(SizeError, match=f"{group!r} cannot have .* would vanish") as error:
        resize(reference, width)
    choices = re.findall(r"(\d+) \(a ratio of ([\d.]+)\)", str(error.value))
    assert [int(count) for count, _ in choices] == counts
    for count, ratio in choices:
        resized = resize(reference, {**width, group: float(ratio)})
        assert num_channels(FAMILY, resized)[group] == int(count)
        assert list(shapes(resized)) == list(shapes(reference))


def test_every_legal_size_has_the_groups_and_tensors_of_the_reference():
    reference = config((8, 16, 16), 4)
    legal = 0
    streams = ("encoder.block1", "encoder.block2", "decoder.block1", "decoder.block3")
    for units in itertools.product((1, 2, 3, 4), repeat=4):
        counts = num_channels(FAMILY, reference) | {s: 4 * n for s, n in zip(streams, units, strict=True)}
        clash = units[0] == units[1] or units[2] == units[3]
        try:
            resized = with_num_channels(FAMILY, reference, counts)
        except SizeError:
            assert clash
            continue
        assert not clash
        assert num_channels(FAMILY, resized) == counts
        assert parents_of(FAMILY, resized) == parents_of(FAMILY, reference)
        legal += 1
        if legal % 20 == 0:
            assert list(shapes(resized)) == list(shapes(reference))
    assert legal == 12 * 12


def test_parts_are_those_that_are_normalised_together():
    reference = resize(config((16, 32), 4), {"decoder.block1": 0.75, "encoder.mid.resnet1": 0.5})
    network, parts = build(reference), axis_parts(FAMILY, reference)
    for name, module in network.named_modules():
        if isinstance(module, nn.GroupNorm):
            assert parts[f"{name}.weight"] == ([module.num_channels // 4] * 4, [1])
    assert parts["encoder.mid_block.resnets.0.conv1.weight"] == ([4] * 4, [8] * 4)
    assert parts["encoder.conv_in.weight"] == ([4] * 4, [1])
    assert parts["decoder.conv_in.weight"] == ([6] * 4, [4])
    assert parts["decoder.conv_out.weight"] == ([1], [4] * 4)
    assert parts["decoder.up_blocks.1.resnets.0.conv_shortcut.weight"] == ([4] * 4, [6] * 4)
    # Nothing normalises the head of the attention.
    assert parts["encoder.mid_block.attentions.0.to_q.weight"] == ([32], [8] * 4)
    assert parts["encoder.mid_block.attentions.0.to_out.0.weight"] == ([8] * 4, [32])
    assert not {"quant_conv.weight", "post_quant_conv.bias", "decoder.conv_out.bias"} & set(parts)
    assert axis_parts(FAMILY, config((3, 7), 1)) == multiples(FAMILY, config((3, 7), 1)) == {}


def test_the_config_survives_saving_and_says_all_in_plain_json(tmp_path):
    target_config = resize(config((16, 32)), {"decoder.block2.resnet1": 0.5, "decoder.block1": 0.75})
    target_config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is AutoencoderKLTargetConfig
    assert loaded.vae == target_config.vae == json.loads(json.dumps(target_config.vae))
    assert FAMILY.build(loaded).config["inner_channels"] == {"decoder.up_blocks.1.resnets.0": 8}
    assert ratios(loaded, config((16, 32)))["decoder.block1"] == 0.75


def test_a_recipe_needs_to_say_only_what_is_not_usual():
    target_config = AutoConfig.for_model(
        "neumeta_autoencoder_kl", image_size=28, num_channels=1, vae={"block_out_channels": [32, 64, 64]}
    )
    vae = target_config.vae
    assert (vae["sample_size"], vae["in_channels"], vae["out_channels"]) == (28, 1, 1)
    assert vae["down_block_types"] == ["DownEncoderBlock2D"] * 3
    assert vae["latent_channels"] == 4
    assert FAMILY.image_shape(target_config) == (1, 28, 28)
    assert FAMILY.latent_shape(target_config) == (4, 7, 7)
    said = AutoencoderKLTargetConfig(vae={"sample_size": 64, "out_channels": 1})
    assert (said.image_size, said.num_channels, FAMILY.image_shape(said)) == (64, 1, (1, 64, 64))
    plain = AutoencoderKLTargetConfig()
    assert (plain.image_size, plain.num_channels) == (32, 3)
    assert config_of(diffusers.AutoencoderKL()).to_dict() == plain.to_dict()


ATTENTION = {"down_block_types": ["AttnDownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"]}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"image_size": 32, "vae": {"sample_size": 64}}, "image_size=32, but vae has sample_size=64"),
        ({"num_channels": 1, "vae": {"in_channels": 3}}, "in_channels=3 and out_channels=1"),
        ({"num_channels": 1, "vae": {"in_channels": 3, "out_channels": 3}}, "num_channels=1, but vae has in_chan"),
        ({"vae": ATTENTION}, "'AttnDownEncoderBlock2D': only DownEncoderBlock2D"),
        ({"vae": {"up_block_types": ["AttnUpDecoderBlock2D"]}}, "'AttnUpDecoderBlock2D': only UpDecoderBlock2D"),
        ({"vae": {"block_out_channel": [32]}}, "vae has block_out_channel: AutoencoderKL takes in_channels"),
        ({"vae": {"block_out_channels": 32}}, "block_out_channels=32: pass a list"),
        ({"vae": {"block_out_channels": [48]}}, "has 48 channels.*norm_num_groups=32"),
        ({"vae": {"decoder_block_out_channels": [32, 64]}}, "has 2 entries, but block_out_channels=.*has 1"),
        ({"vae": {"down_block_types": ["DownEncoderBlock2D"] * 2}}, "down_block_types=.*has 2 entries"),
        ({"vae": {"inner_channels": {"encoder.mid_block.resnets.2": 32}}}, "names 'encoder.mid_block.resnets.2'"),
        ({"vae": {"inner_channels": {"encoder.mid_block.resnets.1": 33}}}, "has 33 channels"),
        ({"vae": {"layers_per_block": 0}}, "layers_per_block=0"),
        ({"image_size": 30, "vae": {"block_out_channels": [32, 64, 64]}}, "sample_size=30: 3 blocks.*multiple of 4"),
    ],
)  # fmt: skip
def test_what_is_no_network_of_the_family_is_refused(fields, words):
    with pytest.raises(TargetError, match=words):
        AutoencoderKLTargetConfig(**fields)


def test_a_network_that_the_family_does_not_know_is_refused_and_others_are_passed_over():
    with pytest.raises(TargetError, match="AttnDownEncoderBlock2D"):
        config_of(diffusers.AutoencoderKL(**ATTENTION))
    assert FAMILY.config_of(diffusers.AutoencoderTiny()) is None
    assert FAMILY.config_of(nn.Linear(1, 1)) is None
    with pytest.raises(TargetError, match="no target family has a VQModel"):
        config_of(diffusers.VQModel())


def test_fields_that_no_longer_agree_are_not_saved(tmp_path):
    target_config = config(image_size=8)
    target_config.image_size = 16
    with pytest.raises(StrictDataclassError, match="image_size=16, but vae has sample_size=8"):
        target_config.save_pretrained(tmp_path)


def test_network_and_config_share_no_list():
    target_config = config((16, 32))
    network = FAMILY.build(target_config)
    before = json.dumps(target_config.vae)
    network.config["block_out_channels"].append(64)
    config_of(FAMILY.build(target_config)).vae["block_out_channels"].append(64)
    resize(target_config, 0.5).vae["down_block_types"].append("nothing")
    assert json.dumps(target_config.vae) == before


class Run(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images, seed):
        return FAMILY.forward(self.network, images, seed=seed)


@pytest.mark.parametrize("seed", [None, 3])
def test_a_skeleton_runs_with_given_tensors_and_passes_gradients_on(seed):
    target_config = resize(config((16, 32)), {"decoder.block1": 0.75, "decoder.mid.resnet1": 0.5})
    network, images = build(target_config), torch.randn(2, 1, 8, 8)
    with torch.device("meta"):
        skeleton = Run(FAMILY.build(target_config).eval())
    tensors = {f"network.{name}": tensor.clone().requires_grad_() for name, tensor in network.state_dict().items()}
    output = functional_call(skeleton, tensors, (images, seed), strict=True)
    expected = FAMILY.forward(network, images, seed=seed)
    assert isinstance(output, AutoencoderOutput)
    assert all(torch.equal(output[key], expected[key]) for key in ("sample", "mean", "logvar"))
    sum(value.square().mean() for value in output.values()).backward()
    assert all(tensor.grad is not None for tensor in tensors.values())
    assert {parameter.device.type for parameter in skeleton.parameters()} == {"meta"}


def test_latents_are_the_mean_or_drawn_with_the_seed():
    network, images = build(config()), torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        state = torch.get_rng_state()
        mean, again, drawn, redrawn, other = (
            FAMILY.forward(network, images, seed=seed) for seed in (None, None, 0, 0, 1)
        )
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(mean.sample, again.sample)
        assert torch.equal(mean.sample, network(images).sample)
        assert torch.equal(drawn.sample, redrawn.sample)
        assert not torch.equal(drawn.sample, other.sample)
        noise = torch.randn(drawn.mean.shape, generator=torch.Generator().manual_seed(0))
        latents = drawn.mean + (0.5 * drawn.logvar).exp() * noise
        torch.testing.assert_close(drawn.sample, FAMILY.decode(network, latents))


def test_images_are_drawn_from_the_prior():
    reference = config((8, 16, 16), 4, image_size=16)
    network = build(resize(reference, {"decoder.block1": 0.75}))
    shape = FAMILY.latent_shape(reference)
    with torch.no_grad():
        assert network.encode(torch.zeros(2, 1, 16, 16)).latent_dist.mean.shape == (2, *shape)
        images = FAMILY.decode(network, torch.randn(3, *shape))
    assert images.shape == (3, 1, 16, 16)
    assert images.isfinite().all()


def test_the_image_processor_of_diffusers_goes_around_a_morph():
    target_config = resize(config((16, 32), image_size=16), {"decoder.block1": 0.75})
    network = build(target_config)
    processor = VaeImageProcessor(vae_scale_factor=2, do_convert_grayscale=True)
    picture = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    images = processor.preprocess(picture)
    assert images.shape == (1, *FAMILY.image_shape(target_config))
    with torch.no_grad():
        output = FAMILY.forward(network, images)
    (result,) = processor.postprocess(output.sample)
    assert result.size == picture.size
    (same,) = processor.postprocess(images)
    assert np.abs(np.asarray(same).squeeze().astype(int) - np.asarray(picture).astype(int)).max() <= 1
