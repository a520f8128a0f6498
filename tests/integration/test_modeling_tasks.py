"""Families of segmentation networks and autoencoders keep the laws that families of classifiers keep."""

import copy
import functools

import pytest
import torch
from diffusers import AutoencoderKL
from transformers import AutoModel, AutoModelForSemanticSegmentation
from transformers import UperNetForSemanticSegmentation as UperNet

from neumeta_hf.errors import TargetError
from neumeta_hf.modeling_neumeta import NeuMetaModel
from neumeta_hf.modeling_tasks import (
    NeuMetaForImageClassification,
    NeuMetaForImageGeneration,
    NeuMetaForSemanticSegmentation,
    family_class,
)
from neumeta_hf.targets import config_of, find_target, resize
from neumeta_hf.tasks import build_task
from target_axes import num_channels

TARGETS = ("upernet", "autoencoder_kl", "autoencoder_tiny", "mlp_vae")
GRID = {"type": "grid", "positions": "absolute", "levels": 2}
INR = {"type": "inr", "hidden_size": 16, "num_hidden_layers": 3, "num_frequencies": 4}


@pytest.fixture
def make_family(networks):
    return functools.partial(_make_family, networks)


def _make_family(networks, name, **fields):
    reference = networks[name]
    torch.manual_seed(0)
    options = {"normalization": "keep", "trained_widths": [0.5, 0.75, 1.0], "hypernetwork": GRID, **fields}
    family = family_class(find_target(config_of(reference)).task).from_reference(reference, **options).eval()
    if family.statistic_names:
        family.calibrate([images_of(family)], [0.5, 0.75, 1.0])
    return family


def images_of(family, batch_size=4):
    return family.target_family.example_batch(family.reference_config, batch_size)["pixel_values"]


def values_of(output):
    found = output.logits if "logits" in output else output.sample
    return found.detach()


@pytest.fixture(params=[*((name, GRID) for name in TARGETS), *((name, INR) for name in TARGETS)], ids=str)
def family(request, make_family):
    name, hypernetwork = request.param
    return make_family(name, hypernetwork=hypernetwork)


def run(family, network, images, **options):
    with torch.no_grad():
        return values_of(family.target_family.forward(network, images, **options))


@pytest.mark.parametrize("width", [1.0, 0.75, 0.5])
def test_the_forward_pass_and_the_morph_are_one_network(family, width):
    images, morph = images_of(family), family.morph(width)
    with torch.no_grad():
        generated = family.generate(width)
        wanted = family.complete(family.size_at(width), generated)
        # To the bit in what is computed with; attention's products round differently by where its tensors lie.
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in morph.state_dict().items())
        torch.testing.assert_close(values_of(family(images, width=width)), run(family, morph, images))


def test_a_family_is_saved_and_morphs_to_the_same_bits(family, tmp_path):
    family.save_pretrained(tmp_path)
    reloaded = AutoModel.from_pretrained(tmp_path)
    assert type(reloaded) is NeuMetaModel
    own = type(family).from_pretrained(tmp_path)
    for width in (1.0, 0.5):
        wanted = family.morph(width).state_dict()
        for other in (reloaded, own):
            found = other.morph(width).state_dict()
            assert list(found) == list(wanted)
            assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_a_morph_is_saved_and_loads_alone(family, tmp_path):
    images, morph = images_of(family), family.morph(0.5)
    morph.save_pretrained(tmp_path)
    loaded = family.target_family.load(str(tmp_path))
    assert type(loaded) is type(morph)
    torch.testing.assert_close(run(family, loaded, images), run(family, morph, images))
    assert config_of(loaded).to_dict().items() >= resize(family.reference_config, 0.5).to_dict().items() or (
        num_channels(family.target_family, config_of(loaded))
        == num_channels(family.target_family, family.target_config_at(0.5))
    )


def test_some_size_gives_every_hypernetwork_parameter_a_gradient(family):
    family.train()
    images = images_of(family)
    for width in (1.0, 0.5):
        size = family.size_at(width)
        output = family.run(size, family.generate(size), images, seed=0)
        found = output.logits if "logits" in output else output.sample
        (found.float() ** 2).mean().backward()
    for name, parameter in family.hypernetwork.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("positions", ["absolute", "relative"])
def test_the_full_size_of_a_grid_is_the_reference(name, positions, make_family, networks):
    family = make_family(name, hypernetwork={"type": "grid", "positions": positions, "levels": 2})
    wanted = networks[name].state_dict()
    for key, tensor in family.generate().items():
        torch.testing.assert_close(tensor, wanted[key])


def test_a_small_autoencoder_keeps_part_of_every_normalisation_group(make_family, networks):
    family = make_family("autoencoder_kl", hypernetwork={"type": "grid", "positions": "absolute"})
    name = "decoder.up_blocks.1.resnets.1.norm2.weight"
    full = networks["autoencoder_kl"].state_dict()[name].reshape(4, -1)
    small = family.generate(0.5)[name].reshape(4, -1)
    torch.testing.assert_close(small, full[:, : small.shape[1]])


def test_a_small_head_reads_part_of_every_map(make_family, networks):
    family = make_family("upernet", hypernetwork={"type": "grid", "positions": "absolute"}, width_groups=["backbone.*"])
    name = "decode_head.bottleneck.conv.weight"
    full = networks["upernet"].state_dict()[name]
    small = family.generate(0.5)[name]
    gain = (full.shape[1] / small.shape[1]) ** 0.5
    assert small.shape[1] == 8 + 2 * 8  # half of the last stage's 16 channels, and both pooled maps as they were
    torch.testing.assert_close(small, gain * torch.cat((full[:, :8], full[:, 16:]), dim=1))


def test_a_decoder_alone_can_be_generated(make_family, networks):
    family = make_family("autoencoder_kl", generated=["decoder"])
    assert all(group.startswith("decoder.") for group in family.width_groups)
    images, morph = images_of(family), family.morph(0.5)
    reference = networks["autoencoder_kl"]
    with torch.no_grad():
        assert torch.equal(morph.encode(images).latent_dist.mean, reference.encode(images).latent_dist.mean)
    assert sum(p.numel() for p in morph.decoder.parameters()) < sum(p.numel() for p in reference.decoder.parameters())


def test_uniform_morphs_are_of_the_stock_classes(make_family):
    assert type(make_family("upernet").morph(0.5)) is UperNet
    assert type(make_family("autoencoder_kl").morph(0.5)) is AutoencoderKL


def test_what_an_autoencoder_draws_follows_its_seed(make_family):
    family = make_family("mlp_vae")
    size, images = family.space.full, images_of(family)
    generated = family.generate(size)
    first, again, other, mean = (family.run(size, generated, images, seed=seed).sample for seed in (1, 1, 2, None))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert not torch.allclose(first, mean)


def test_each_class_is_for_its_task(tmp_path, make_family):
    make_family("upernet").save_pretrained(tmp_path)
    assert type(AutoModelForSemanticSegmentation.from_pretrained(tmp_path)) is NeuMetaForSemanticSegmentation
    with pytest.raises(TargetError, match="use NeuMetaForSemanticSegmentation"):
        NeuMetaForImageClassification.from_pretrained(tmp_path)
    assert family_class("image-generation") is NeuMetaForImageGeneration
    assert family_class("something else") is NeuMetaModel


def test_pixels_of_no_class_do_not_count(make_family):
    family = make_family("upernet")
    images = images_of(family)
    labels = torch.zeros(images.shape[0], *images.shape[2:], dtype=torch.long)
    labels[:, :, : images.shape[-1] // 2] = 255
    output = family(images, labels)
    counted = output.logits[..., images.shape[-1] // 2 :]
    expected = torch.nn.functional.cross_entropy(counted, labels[..., images.shape[-1] // 2 :])
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert family(images, torch.full_like(labels, 255)).loss.item() == 0  # not 0 / 0
    task = build_task(family.target_family.task)
    assert torch.equal(task.loss(output, {"labels": labels}), output.loss)  # the very loss that the trainer minimises


def test_a_pattern_names_width_groups(make_family):
    family = make_family("upernet", width_groups=["backbone.stage1*"])
    assert family.width_groups == ["backbone.stage1", "backbone.stage1.block1"]
    with pytest.raises(TargetError, match=r"width_groups names \['spine\.\*'\]"):
        make_family("upernet", width_groups=["spine.*"])


def test_the_reference_is_left_alone(make_family, networks):
    before = copy.deepcopy(networks["autoencoder_kl"].state_dict())
    make_family("autoencoder_kl").morph(0.5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in networks["autoencoder_kl"].state_dict().items())
