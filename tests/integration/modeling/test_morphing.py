"""Generating, running and morphing take one road, for every registered target, BatchNorm fused and kept."""

import pytest
import torch
from family_checks import INR, assert_same, images_of, tensors_of
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
)

from neumeta_hf.errors import TargetError
from neumeta_hf.modeling_neumeta import NeuMetaModel
from target_axes import num_channels

# ------------------------------------------------------------------------------------------------ one road


@pytest.mark.parametrize("width", [1.0, 0.5])
def test_the_forward_pass_and_the_morph_are_one_network(family, width):
    images = images_of(family)
    with torch.no_grad():
        assert torch.equal(family(images, width=width).logits, family.morph(width)(images).logits)


def test_the_forward_pass_and_the_morph_are_one_network_per_group(case):
    family = case.family(statistics=[0.5, 1.0])
    group = family.width_groups[-1]
    images = images_of(family)
    options = {"calibration": [images]} if case.keeps else {}
    morph = family.morph({group: 0.5}, **options)
    assert (
        num_channels(family.target_family, morph.config)[group]
        == num_channels(family.target_family, case.config)[group] // 2
    )
    generated, tensors = family.generate({group: 0.5}), morph.state_dict()
    assert generated.keys() | set(family.static_names) | family.constants.keys() == tensors.keys() - set(
        family.statistic_names
    )
    for name, tensor in {**family.static.tensors(), **generated}.items():
        assert torch.equal(tensors[name], tensor), name
    for name, value in family.constants.items():
        assert (tensors[name] == torch.full_like(tensors[name], value)).all(), name
    if not case.keeps:  # whose statistics were measured for the morph alone
        with torch.no_grad():
            assert torch.equal(family(images, width={group: 0.5}).logits, morph(images).logits)


def test_running_gives_every_generated_tensor_and_hypernetwork_parameter_a_gradient(case):
    family = case.family()
    generated = family.generate()
    # At the reference's values, since a fresh family may have dead layers.
    values = {name: case.reference.state_dict()[name] + (t - t.detach()) for name, t in generated.items()}
    for tensor in generated.values():
        tensor.retain_grad()
    logits = family.run(family.space.full, values, {"pixel_values": case.images(16)}).logits
    nn.functional.cross_entropy(logits, torch.arange(16) % 3).backward()
    for name, tensor in generated.items():
        assert tensor.grad is not None, name
        assert tensor.grad.isfinite().all(), name
        assert tensor.grad.abs().max() > 0, name
    for name, parameter in family.hypernetwork.named_parameters():
        assert parameter.grad is not None, name


def test_a_step_below_full_size_gives_every_hypernetwork_parameter_a_gradient(family):
    family.train()
    family(images_of(family), labels=torch.tensor([0, 1, 2, 0]), width=0.5).loss.backward()
    for name, parameter in family.hypernetwork.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("hypernetwork", [INR, {"type": "grid"}, {"type": "field"}], ids=lambda each: each["type"])
def test_autocast_leaves_what_is_generated_in_full_precision(lenet_case, hypernetwork):
    model = lenet_case.family(hypernetwork=hypernetwork)
    with torch.autocast("cpu", torch.bfloat16):
        generated = model.generate(0.6, noise=1.0)
    assert {tensor.dtype for tensor in generated.values()} == {torch.float32}


def test_the_loss_is_the_cross_entropy_at_the_size(lenet_family):
    images, labels = images_of(lenet_family), torch.tensor([0, 1, 2, 0])
    output = lenet_family(images, labels, width=0.5)
    expected = nn.functional.cross_entropy(lenet_family.morph(0.5)(images).logits, labels)
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_family_of_no_named_task_has_the_loss_of_its_task(lenet_family, tmp_path):
    images, labels = images_of(lenet_family), torch.tensor([0, 1, 2, 0])
    lenet_family.save_pretrained(tmp_path)
    plain = NeuMetaModel.from_pretrained(tmp_path)
    expected = lenet_family(images, labels, width=0.5)
    for output in (plain(images, labels=labels, width=0.5), plain(pixel_values=images, labels=labels, width=0.5)):
        assert torch.equal(output.loss, expected.loss)
        assert torch.equal(output.logits, expected.logits)
    assert torch.equal(plain(images, labels=None, width=0.5).logits, expected.logits)
    with pytest.raises(TargetError, match=r"pixel_value was given.*pixel_values, labels"):
        plain(pixel_value=images, width=0.5)
    with pytest.raises(TargetError, match="pixel_values"):
        plain(width=0.5)


def test_each_width_evaluates_its_own_network(family):
    images = images_of(family)
    logits = [family(images, width=width).logits for width in (0.5, 0.75, 1.0)]
    assert not torch.allclose(logits[0], logits[2])
    assert not torch.allclose(logits[1], logits[2])
    sizes = [sum(p.numel() for p in family.morph(width).parameters()) for width in (0.5, 0.75, 1.0)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 3


# ------------------------------------------------------------------------------------------------ the morph


def test_a_morph_costs_no_graph(family, monkeypatch):
    """Autograd would keep what every tensor was generated from."""
    forward, modes = family.hypernetwork.forward, []
    monkeypatch.setattr(
        family.hypernetwork, "forward", lambda *args: modes.append(torch.is_grad_enabled()) or forward(*args)
    )
    family.morph(0.5)
    assert modes == [False]
    family.generate(0.5)
    assert modes == [False, True]


def test_what_is_generated_is_counted_by_its_shapes(family, monkeypatch):
    generated = family.generate()
    monkeypatch.setattr(family.hypernetwork, "forward", None)
    assert family.num_generated_parameters == sum(tensor.numel() for tensor in generated.values())


@pytest.mark.parametrize("name", ["lenet", "cifar_resnet", "resnet"])
def test_a_morph_is_exported(make_case, name):
    family = make_case(name).family()
    morph, images = family.morph(0.75), images_of(family)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(morph, (images,), dynamic_shapes=({0: batch},)).module()
    images = images_of(family, 5)
    with torch.no_grad():
        torch.testing.assert_close(program(images).logits, morph(images).logits)


def test_a_morph_is_plain_and_in_evaluation_mode(family):
    family.train()
    if family.statistic_names:
        family.eval()
    morph = family.morph(0.5)
    assert not any(module.training for module in morph.modules())
    assert type(morph) is type(family.target_family.build(family.target_config_at(0.5)))
    assert isinstance(morph.config, type(family.reference_config))
    assert {tensor.device.type for tensor in morph.state_dict().values()} == {"cpu"}
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in morph.parameters())


def test_a_morph_has_no_trace_of_the_family(family, tmp_path):
    morph = family.morph(0.5)
    plain = family.target_family.build(family.target_config_at(0.5))
    assert list(morph.state_dict()) == list(plain.state_dict())
    assert [type(module) for module in morph.modules()] == [type(module) for module in plain.modules()]
    assert [name for name, _ in morph.named_modules()] == [name for name, _ in plain.named_modules()]
    assert not any(hasattr(morph, name) for name in ("hypernetwork", "static", "statistics"))
    morph.save_pretrained(tmp_path)
    words = (tmp_path / "config.json").read_text()
    assert "hypernetwork" not in words
    assert "target_config" not in words


def test_a_morph_shares_no_memory_with_its_family(family):
    images = images_of(family)
    before, logits = tensors_of(family), family(images, width=0.5).logits
    morph = family.morph(0.5)
    pointers = {tensor.data_ptr() for tensor in family.state_dict().values() if tensor.numel()}
    for name, tensor in morph.state_dict().items():
        assert tensor.data_ptr() not in pointers, name
        tensor.fill_(3)
    assert_same(tensors_of(family), before)
    assert torch.equal(family(images, width=0.5).logits, logits)
    other = family.morph(0.5)
    assert not any(torch.equal(p, torch.full_like(p, 3)) for p in other.parameters())


def test_morphing_leaves_the_modes_of_the_family_alone(family):
    family.train()
    family.static.eval()
    modes = [module.training for module in family.modules()]
    family.morph(0.5)
    assert [module.training for module in family.modules()] == modes


def test_a_morph_can_be_trained_on(family):
    morph = family.morph(0.5).train()
    morph(images_of(family), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    assert all(parameter.grad is not None for parameter in morph.parameters())


@pytest.mark.parametrize("normalization", ["fuse", "keep"])
@pytest.mark.parametrize("name", ["resnet", "resnet_bottleneck"])
def test_uniform_widths_of_a_stock_network_are_stock(make_case, name, normalization, tmp_path):
    family = make_case(name, normalization).family()
    for width in (0.5, 0.75, 1.0):
        morph = family.morph(width)
        assert type(morph) is ResNetForImageClassification
        assert type(morph.config) is ResNetConfig
        morph.save_pretrained(tmp_path / str(width))
        reloaded = ResNetForImageClassification.from_pretrained(tmp_path / str(width))
        assert torch.equal(reloaded(images_of(family)).logits, morph(images_of(family)).logits)


def test_a_morph_is_saved_and_reloaded_alone(family, tmp_path):
    morph = family.morph(0.75)
    morph.save_pretrained(tmp_path)
    reloaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(reloaded) is type(morph)
    assert_same(tensors_of(reloaded), tensors_of(morph))
    assert reloaded.config.id2label == morph.config.id2label


GRIDS = [{"positions": "relative"}, {"positions": "absolute"}, {"positions": "absolute", "levels": 3}]


@pytest.mark.parametrize("options", GRIDS, ids=str)
def test_the_full_size_of_a_grid_is_the_reference(case, options):
    family = case.family(hypernetwork={"type": "grid", **options})
    morph = family.morph(1.0)
    for name, tensor in case.reference.named_parameters():
        assert torch.allclose(morph.state_dict()[name], tensor, atol=1e-4), name


def test_every_parameter_of_a_grid_with_levels_learns_from_some_size(case):
    family = case.family(hypernetwork={"type": "grid", "positions": "absolute", "levels": 3}).train()
    for width in (1.0, 0.75, 0.5, 0.25):
        logits = family(images_of(family), width=width).logits
        torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[1]).backward()
    for name, parameter in family.hypernetwork.named_parameters():
        assert parameter.grad is not None, name
        if not name.endswith("exponent"):
            assert (parameter.grad != 0).any(), name


# ------------------------------------------------------------------------------------------------ skeletons


def test_skeletons_are_never_written_to(family):
    images = images_of(family)
    family.train()
    family(images, width=0.5)
    family.eval()
    family(images, width=1.0)
    family.morph(0.75)
    assert {size for size, _ in family._skeletons} == {family.size_at(0.5), family.size_at(1.0)}  # a morph needs none
    for skeleton in family._skeletons.values():
        assert {tensor.device.type for tensor in skeleton.state_dict().values()} == {"meta"}
        assert all(parameter.grad is None for parameter in skeleton.parameters())
    assert not any("skeleton" in name for name, _ in family.named_modules())


def test_random_sizes_do_not_fill_the_memory_with_skeletons(lenet_family):
    groups = num_channels(lenet_family.target_family, lenet_family.reference_config)
    sizes = [
        {"conv1": a / 4, "conv2": b / 6, "conv3": c / 8} for a in range(1, 5) for b in range(1, 7) for c in range(1, 9)
    ]
    for size in sizes:
        skeleton = lenet_family.skeleton_at(lenet_family.size_at(size))
        assert num_channels(lenet_family.target_family, skeleton.config) == {
            g: round(size[g] * n) for g, n in groups.items()
        }
        assert lenet_family.skeleton_at(lenet_family.size_at(size)) is skeleton
    assert len(lenet_family._skeletons) < 100
