"""The laws of a family of networks, over every registered target, with BatchNorm fused and kept."""

import copy
import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    PreTrainedConfig,
    ResNetConfig,
    ResNetForImageClassification,
)

from neumeta_hf.calibration import calibrate
from neumeta_hf.configuration_neumeta import MorphConfig, NeuMetaConfig
from neumeta_hf.coordinates import add_noise
from neumeta_hf.errors import CheckpointError, SizeError, TargetError
from neumeta_hf.family_sizes import SizeWarning
from neumeta_hf.modeling_neumeta import NeuMetaModel
from neumeta_hf.modeling_tasks import NeuMetaForImageClassification
from neumeta_hf.targets import find_target, resize
from neumeta_hf.targets.lenet import LeNetConfig
from target_axes import num_channels

INR = {"type": "inr", "hidden_size": 16, "num_hidden_layers": 3, "num_frequencies": 4}


def images_of(family, batch_size=4):
    return family.target_family.example_batch(family.reference_config, batch_size)["pixel_values"]


def tensors_of(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same(first, second):
    assert list(first) == list(second)
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert torch.equal(tensor, second[name]), name


@pytest.fixture
def family(case):
    return case.family()


@pytest.fixture
def lenet_family(lenet_case):
    return lenet_case.family()


@pytest.fixture
def kept_family(make_case):
    return make_case("resnet", "keep").family()


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


# ------------------------------------------------------------------------------------------------ save and load


def test_saving_loading_and_morphing_is_bit_equal(family, tmp_path):
    family.save_pretrained(tmp_path)
    reloaded = NeuMetaForImageClassification.from_pretrained(tmp_path)
    assert_same(tensors_of(reloaded), tensors_of(family))
    assert reloaded.width_groups == family.width_groups
    for width in (0.5, 1.0):
        assert_same(tensors_of(reloaded.morph(width)), tensors_of(family.morph(width)))
    assert_same(
        tensors_of(reloaded.morph(0.75, num_samples=3, seed=5)), tensors_of(family.morph(0.75, num_samples=3, seed=5))
    )


def test_a_checkpoint_holds_the_hypernetwork_and_what_it_does_not_generate_alone(family, tmp_path):
    images = images_of(family)
    family(images, width=0.5)
    family.morph(0.75)
    family.save_pretrained(tmp_path)
    keys = set(load_file(tmp_path / "model.safetensors"))
    assert keys == set(family.state_dict())
    assert {key.split(".")[0] for key in keys} <= {"hypernetwork", "static", "statistics"}
    assert not any("skeleton" in key for key in keys)


def test_sharded_checkpoints_are_the_same_family(family, tmp_path):
    family.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    reloaded = NeuMetaForImageClassification.from_pretrained(tmp_path)
    assert_same(tensors_of(reloaded.morph(0.5)), tensors_of(family.morph(0.5)))


def test_a_family_is_loaded_in_bfloat16(family, tmp_path):
    family.save_pretrained(tmp_path)
    reloaded = NeuMetaForImageClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in reloaded.parameters()} == {torch.bfloat16}
    images = images_of(family).bfloat16()
    morph = reloaded.morph(0.5)
    assert {parameter.dtype for parameter in morph.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        logits = morph(images).logits
        assert torch.equal(reloaded(images, width=0.5).logits, logits)
    assert logits.isfinite().all()
    generated, exact = reloaded.generate(0.5), family.generate(0.5)
    for name, tensor in generated.items():
        assert (tensor - exact[name]).norm() < 0.1 * exact[name].norm() + 0.1, name


def test_auto_classes_know_families(lenet_family, tmp_path):
    lenet_family.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is NeuMetaConfig
    for auto, expected in (
        (AutoModel, NeuMetaModel),
        (AutoModelForImageClassification, NeuMetaForImageClassification),
        (NeuMetaModel, NeuMetaModel),
    ):
        model = auto.from_pretrained(tmp_path)
        assert type(model) is expected
        assert_same(tensors_of(model.morph(0.5)), tensors_of(lenet_family.morph(0.5)))


def test_copies_and_fresh_families_of_one_config_work(family):
    clone = copy.deepcopy(family)
    with torch.no_grad():
        for parameter in clone.parameters():
            parameter.zero_()
    assert any(p.abs().max() > 0 for p in family.parameters())
    fresh = NeuMetaForImageClassification(copy.deepcopy(family.config))
    assert list(fresh.state_dict()) == list(family.state_dict())
    assert {p.device.type for p in fresh.parameters()} == {"cpu"}


def test_fresh_static_tensors_are_the_targets_own_initialisation(make_case):
    config = copy.deepcopy(make_case("cifar_resnet", "keep").family(generated=["layer3.1"]).config)
    config.statistics_widths = []
    fresh = NeuMetaForImageClassification(config).static.tensors()
    assert fresh["layer1.0.conv1.weight"].std() > 0.05
    assert torch.equal(fresh["bn1.running_var"], torch.ones(4))


def change_weights(folder, change):
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def test_a_checkpoint_that_lacks_a_tensor_is_refused_by_name(lenet_family, tmp_path):
    lenet_family.save_pretrained(tmp_path)
    change_weights(tmp_path, lambda weights: weights.pop("hypernetwork.mlps.0.first.weight"))
    with pytest.raises(CheckpointError, match=r"missing keys .*hypernetwork\.mlps\.0\.first\.weight \(1 in all\)"):
        NeuMetaModel.from_pretrained(tmp_path)


def test_a_checkpoint_with_a_tensor_too_many_is_refused_by_name(lenet_family, tmp_path):
    lenet_family.save_pretrained(tmp_path)
    change_weights(tmp_path, lambda weights: weights.update({"static.extra": torch.zeros(2)}))
    with pytest.raises(CheckpointError, match=r"unexpected keys .*static\.extra"):
        NeuMetaModel.from_pretrained(tmp_path)


def test_a_checkpoint_with_a_tensor_of_another_shape_is_refused_by_name(lenet_family, tmp_path):
    lenet_family.save_pretrained(tmp_path)
    change_weights(tmp_path, lambda weights: weights.update({"hypernetwork.mlps.0.scales": torch.zeros(5)}))
    with pytest.raises(CheckpointError, match=r"hypernetwork\.mlps\.0\.scales"):
        NeuMetaModel.from_pretrained(tmp_path, ignore_mismatched_sizes=True)
    with pytest.raises((RuntimeError, CheckpointError)):
        NeuMetaModel.from_pretrained(tmp_path)


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


# ------------------------------------------------------------------------------------------------ sizes


def test_a_width_that_training_never_drew_still_runs(family):
    width = 0.6
    assert width not in family.config.trained_widths
    images = images_of(family)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SizeWarning)
        morph = family.morph(width, calibration=[images] if family.statistic_names else None)
    assert morph(images).logits.isfinite().all()


@pytest.mark.parametrize("width", [0.25, 1.5])
def test_a_size_outside_the_trained_range_warns_and_says_the_range(family, width):
    images = images_of(family)
    calibration = [images] if family.statistic_names else None
    with pytest.warns(SizeWarning, match=r"outside the trained range: training drew widths 0\.5 to 1") as caught:
        morph = family.morph(width, calibration=calibration)
    channels = num_channels(family.target_family, morph.config)
    assert f"{family.width_groups[0]}={channels[family.width_groups[0]]}" in str(caught[0].message)
    assert morph(images).logits.isfinite().all()
    assert not family.is_in_trained_range(family.size_at(width))


def test_one_group_outside_the_range_warns(lenet_family):
    with pytest.warns(SizeWarning, match="conv2=2"):
        lenet_family.morph({"conv2": 0.3})


def test_a_family_that_was_never_trained_says_so(lenet_case):
    family = lenet_case.family(trained_widths=[])
    with pytest.warns(SizeWarning, match="training drew no size yet"):
        family.morph(1.0)


def test_sizes_are_divided_by_the_widest_axis_that_varies(make_case):
    torch.manual_seed(0)
    config = LeNetConfig(hidden_channels=[4, 6, 8], kernel_size=3, image_size=8, num_labels=100)
    family = NeuMetaForImageClassification.from_reference(find_target(config).build(config).eval())
    assert family.coordinate_scale == family.config.coordinate_scale == 8
    with_none = NeuMetaForImageClassification(NeuMetaConfig(target_config=config))  # as an earlier checkpoint says it
    assert with_none.coordinate_scale == 100


def test_clamping_holds_size_coordinates_outside_the_range_alone(lenet_case):
    for clamp in (True, False):
        family = lenet_case.family(clamp_sizes=clamp)
        coordinates = family.coordinates_at(family.size_at(0.25))["conv2.weight"]
        sizes = (coordinates.out_size * family.coordinate_scale, coordinates.in_size * family.coordinate_scale)
        assert sizes == ((3, 2) if clamp else (2, 1))
        inside = family.coordinates_at(family.size_at(0.75))["conv2.weight"]
        assert inside.out_size * family.coordinate_scale == 5


@pytest.mark.parametrize(
    ("width", "says"),
    [
        (0, "must lie in"),
        (-0.5, "must lie in"),
        (float("nan"), "must lie in"),
        (True, "must be a number"),
        ("0.5", "must be a number"),
        (6, "For 6 channels pass width=0.8"),
        (0.05, "smallest possible ratio is"),
        ({"conv9": 0.5}, "choose among conv1, conv2, conv3"),
        ({"conv1": 9}, "must lie in"),
    ],
)
def test_impossible_sizes_are_refused_and_say_what_is_possible(lenet_family, width, says):
    for use in (lenet_family.morph, lenet_family.generate, lenet_family.size_at):
        with pytest.raises(SizeError, match=says):
            use(width)
    with pytest.raises(SizeError, match=says):
        lenet_family(images_of(lenet_family), width=width)


def test_widths_per_group(lenet_family):
    morph = lenet_family.morph({"conv2": 0.5, "conv3": 0.75})
    assert morph.config.hidden_channels == [4, 3, 6]
    assert morph.conv3.weight.shape == (6, 3, 3, 3)


def test_inner_groups_follow_their_stage_unless_named(make_case):
    family = make_case("cifar_resnet").family()
    channels = num_channels(family.target_family, family.morph({"stage3": 0.5}).config)
    assert (channels["stage3"], channels["stage3.block1"], channels["stage2"]) == (4, 4, 6)
    channels = num_channels(family.target_family, family.morph({"stage3": 0.5, "stage3.block1": 1.0}).config)
    assert (channels["stage3"], channels["stage3.block1"], channels["stage3.block2"]) == (4, 8, 4)


def test_counts_are_a_size(family):
    half = family.size_at(0.5)
    counts = {group: half[group] for group in family.width_groups}
    assert_same(tensors_of(family.morph(size=counts)), tensors_of(family.morph(0.5)))
    assert family.size_at(counts=counts) == half
    with pytest.raises(SizeError, match="give one of them"):
        family.morph(0.5, size=counts)
    with pytest.raises(SizeError, match="a count is an integer from 1 up"):
        family.morph(size={family.width_groups[0]: 0.5})


@pytest.mark.parametrize("name", ["cifar_resnet", "cifar_resnet_identity", "resnet", "resnet_bottleneck"])
@pytest.mark.parametrize("normalization", ["fuse", "keep"])
def test_a_morph_of_fewer_blocks_is_what_training_runs_and_an_ordinary_checkpoint(
    make_case, name, normalization, tmp_path
):
    family = make_case(name, normalization).family(trained_depths=[0.5, 1.0])
    (stack,) = family.space.depths.values()
    images = images_of(family)
    calibration = [images] if family.statistic_names else None
    with warnings.catch_warnings():
        warnings.simplefilter("error", SizeWarning)
        morph = family.morph(0.5, depth={stack.name: 1}, calibration=calibration)
    size = family.size_at(0.5, depth={stack.name: 1})
    assert len(morph.state_dict()) < len(family.morph(0.5, calibration=calibration).state_dict())
    generated = family.generate(size)
    for tensor, value in generated.items():
        assert torch.equal(morph.state_dict()[tensor], value), tensor
    if not family.statistic_names:
        with torch.no_grad():
            assert torch.equal(family.run(size, generated, images).logits, morph(images).logits)
    morph.save_pretrained(tmp_path)
    again = type(morph).from_pretrained(tmp_path).eval()
    assert torch.equal(again(images).logits, morph(images).logits)
    assert morph.morph_origin.depths == {stack.name: (1, stack.full)}


def test_blocks_are_left_out_in_the_order_of_their_ranking(make_case):
    case = make_case("cifar_resnet", "fuse")
    family = case.family(hypernetwork={"type": "grid"}, block_ranking={"stage3": [1]})
    assert family.size_at(depth={"stage3": 1})["stage3.block2"] == 0
    with pytest.raises(TargetError, match="rank the blocks"):
        case.family(block_ranking={"stage3": [7]})
    with pytest.raises(TargetError, match="block_ranking names 'nowhere'"):
        case.family(block_ranking={"nowhere": [1]})


def test_a_depth_that_was_not_trained_warns(make_case):
    family = make_case("cifar_resnet", "fuse").family()
    with pytest.warns(SizeWarning, match="stage3=1 blocks"):
        family.morph(depth=0.5)


def test_patterns_name_groups(make_case):
    family = make_case("cifar_resnet").family()
    assert family.size_at({"stage*.block*": 0.5}) == family.size_at(
        {group: 0.5 for group in family.width_groups if "block" in group}
    )
    named = family.size_at({"stage3.block1": 1.0, "stage3*": 0.5})
    assert (named["stage3"], named["stage3.block1"], named["stage3.block2"]) == (4, 8, 4)


def test_a_config_of_the_family_is_a_width_and_deprecated(family):
    config = family.target_config_at(0.5)
    with pytest.warns(FutureWarning, match="morph\\(size="):
        morph = family.morph(config)
    assert_same(tensors_of(morph), tensors_of(family.morph(0.5)))


def test_a_stock_config_is_a_width(make_case):
    family = make_case("resnet").family()
    config = ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 2], layer_type="basic", num_labels=3, image_size=32
    )
    with pytest.warns(FutureWarning):
        morph = family.morph(config)
    assert_same(tensors_of(morph), tensors_of(family.morph(0.5)))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_config_that_differs_in_more_than_size_is_refused(make_case):
    family = make_case("cifar_resnet").family()
    config = family.target_config_at(0.5)
    config.num_blocks = [1, 1, 1]
    with pytest.raises(SizeError, match="only the number of channels may differ"):
        family.morph(config)
    with pytest.raises(SizeError, match="is not a size of a reference of"):
        family.morph(make_case("lenet").config)


def test_a_morph_config_holds_all_arguments(lenet_family):
    config = MorphConfig(width={"conv2": 0.5}, num_samples=2, noise=0.5, seed=3)
    expected = lenet_family.morph({"conv2": 0.5}, num_samples=2, noise=0.5, seed=3)
    assert_same(tensors_of(lenet_family.morph(config)), tensors_of(expected))
    assert MorphConfig(**config.to_dict()) == config


@pytest.mark.parametrize("extra", [{"num_samples": 2}, {"noise": 1.0}, {"seed": 1}])
def test_a_morph_config_beside_other_arguments_is_refused(lenet_family, extra):
    with pytest.raises(SizeError, match="in the MorphConfig alone"):
        lenet_family.morph(MorphConfig(width=0.5), **extra)


@pytest.mark.parametrize("num_samples", [0, -1, 1.5, True, "2"])
def test_a_number_of_samples_that_is_none_is_refused(lenet_family, num_samples):
    with pytest.raises(SizeError, match="num_samples=.*at least 1"):
        lenet_family.morph(0.5, num_samples=num_samples)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1),
        ("seed", 2**63),
        ("seed", 1.0),
        ("seed", float("nan")),
        ("seed", True),
        ("seed", "1"),
        ("num_samples", 10**9),
        ("num_samples", float("inf")),
        ("noise", float("nan")),
        ("noise", float("inf")),
        ("noise", -0.5),
        ("noise", 1e30),
        ("noise", "1"),
        ("noise", True),
    ],
)
def test_numbers_that_are_none_are_refused_wherever_a_network_is_generated(lenet_family, name, value):
    with pytest.raises(SizeError, match=f"^{name}="):
        lenet_family.morph(0.5, **{name: value})
    with pytest.raises(SizeError, match=f"^{name}="):
        lenet_family.generate(0.5, **{name: value})
    with pytest.raises(SizeError, match=f"^{name}="):
        MorphConfig(width=0.5, **{name: value})
    if name != "num_samples":
        with pytest.raises(SizeError, match=f"^{name}="):
            lenet_family(images_of(lenet_family), width=0.5, **{name: value})


@pytest.mark.parametrize("width", [float("nan"), float("inf"), -0.5, 0, 1e30, "0.5", True, None])
def test_widths_that_are_none_are_refused_wherever_a_network_is_generated(lenet_family, width):
    for use in (
        lambda asked: lenet_family.morph(asked),
        lambda asked: lenet_family.generate(asked),
        lambda asked: lenet_family(images_of(lenet_family), width=asked),
        lambda asked: MorphConfig(width=asked),
    ):
        for asked in (width, {"conv1": width}):
            with pytest.raises(SizeError, match="width"):
                use(asked)


def test_numbers_of_numpy_are_numbers(lenet_family):
    expected = tensors_of(lenet_family.morph(0.5, noise=0.5, num_samples=2, seed=3))
    found = lenet_family.morph(np.float32(0.5), noise=np.float64(0.5), num_samples=np.int64(2), seed=np.int32(3))
    assert_same(tensors_of(found), expected)
    assert json.dumps([found.morph_origin.seed, found.morph_origin.num_samples]) == "[3, 2]"


# ------------------------------------------------------------------------------------------------ noise


def test_the_mean_of_samples_is_the_mean_of_single_ones(family):
    exact = family.coordinates_at(family.size_at(0.75))
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        singles = [
            family.hypernetwork(
                list(add_noise(exact, 1.0, scale=family.coordinate_scale, generator=generator).values())
            )
            for _ in range(4)
        ]
        mean = family.generate(0.75, noise=1.0, num_samples=4, seed=11)
    for index, (name, tensor) in enumerate(mean.items()):
        assert torch.allclose(tensor, torch.stack([single[index] for single in singles]).mean(0), atol=1e-6), name
    assert not torch.allclose(singles[0][0], singles[1][0])


def test_samples_are_a_function_of_the_seed(lenet_family):
    state = torch.get_rng_state()
    first, again, other = (tensors_of(lenet_family.morph(0.5, num_samples=3, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(first, again)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_one_sample_is_exact_and_without_noise_samples_do_not_matter(lenet_family):
    exact = lenet_family.generate(0.5)
    assert_same(lenet_family.generate(0.5, num_samples=5, noise=0.0, seed=3), exact)
    morph = tensors_of(lenet_family.morph(0.5, seed=9))
    for name, tensor in exact.items():
        assert torch.equal(morph[name], tensor)


def test_one_sample_with_noise_is_one_noisy_generation(lenet_family):
    noisy = lenet_family.generate(0.5, noise=1.0, seed=3)
    for morph in (
        lenet_family.morph(0.5, noise=1.0, seed=3),
        lenet_family.morph(MorphConfig(width=0.5, noise=1.0, seed=3)),
    ):
        tensors = tensors_of(morph)
        assert_same({name: tensors[name] for name in noisy}, noisy)
    assert not torch.equal(noisy["conv1.weight"], lenet_family.generate(0.5)["conv1.weight"])


def test_samples_of_a_morph_use_the_noise_of_training(lenet_case):
    family = lenet_case.family(coordinate_noise=0.25)
    assert_same(tensors_of(family.morph(0.5, num_samples=2)), tensors_of(family.morph(0.5, num_samples=2, noise=0.25)))


# ------------------------------------------------------------------------------------------------ parts of a network


@pytest.fixture(params=["fuse", "keep"])
def last_block(request, make_case):
    case = make_case("cifar_resnet", request.param)
    return case, case.family(generated=["layer3.1"])


def test_only_named_layers_are_generated(last_block):
    case, family = last_block
    assert family.generated_names
    assert all(name.startswith("layer3.1.") for name in family.generated_names)
    assert family.width_groups == ["stage3.block2"]
    assert family.config.width_groups == ["stage3.block2"]
    reference = case.reference.state_dict()
    for width in (1.0, 0.5):
        morph = family.morph(width)
        for name, tensor in morph.state_dict().items():
            if not name.startswith("layer3.1."):
                assert torch.equal(tensor, reference[name]), name
        assert morph.layer3[1].conv1.weight.shape == (round(8 * width), 8, 3, 3)
        assert num_channels(family.target_family, morph.config)["stage3.block1"] == 8


def test_static_batch_norm_keeps_its_statistics_whatever_is_measured(last_block):
    case, family = last_block
    images = images_of(family)
    reference = case.reference.state_dict()
    family.train()
    family(images, width=0.5)
    family.eval()
    if case.keeps:
        morph = family.morph(0.5, calibration=[images * 3 + 1])
        for name, tensor in morph.state_dict().items():
            if not name.startswith("layer3.1."):
                assert torch.equal(tensor, reference[name]), name
        assert not torch.equal(morph.layer3[1].bn2.running_mean, reference["layer3.1.bn2.running_mean"])
    for name, tensor in family.static.tensors().items():
        assert torch.equal(tensor, reference[name]), name


def test_a_part_of_a_network_reloads(last_block, tmp_path):
    _, family = last_block
    family.save_pretrained(tmp_path)
    reloaded = NeuMetaForImageClassification.from_pretrained(tmp_path)
    assert reloaded.width_groups == family.width_groups
    assert_same(tensors_of(reloaded.morph(0.5)), tensors_of(family.morph(0.5)))


def test_groups_that_are_held_fixed_cannot_be_asked_for(last_block):
    _, family = last_block
    with pytest.raises(SizeError, match=r"choose among stage3\.block2"):
        family.morph({"stage2": 0.5})
    config = resize(family.reference_config, {"stage2": 0.5})
    with pytest.raises(SizeError, match=r"changes stage2, .*holds fixed: only stage3\.block2 may differ"):
        family.morph(config)


def test_a_static_tensor_that_would_change_its_shape_is_refused(make_case):
    case = make_case("cifar_resnet")
    with pytest.raises(TargetError, match=r"'stage3' changes the shape of .*linear\.weight.*generate these too"):
        case.family(generated=["layer3"], width_groups=["stage3"])
    with pytest.raises(TargetError, match="leaves no width group free"):
        case.family(generated=["linear"])


def test_patterns_and_groups_that_match_nothing_are_refused(lenet_case):
    with pytest.raises(TargetError, match=r"generated='layer9' matches no parameter of lenet.*conv1\.weight"):
        lenet_case.family(generated=["*", "layer9"])
    with pytest.raises(
        TargetError, match=r"width_groups names \['conv7'\], which is unknown: lenet has conv1, conv2, conv3"
    ):
        lenet_case.family(width_groups=["conv7"])


def test_a_prefix_ends_at_a_dot(make_case):
    family = make_case("lenet").family(generated=["conv1", "conv2", "conv3", "linear"])
    assert len(family.generated_names) == 8
    with pytest.raises(TargetError, match="generated='conv' matches no parameter"):
        make_case("lenet").family(generated=["conv"])


def test_width_groups_can_be_a_part_of_what_is_free(lenet_case):
    family = lenet_case.family(width_groups=["conv2"])
    assert family.morph(0.5).config.hidden_channels == [4, 3, 8]


def test_groups_that_cannot_shrink_alone_are_found(make_case):
    case = make_case("cifar_resnet_identity")
    config = copy.deepcopy(case.config)
    config.stage_channels = [6, 6, 8]
    reference = find_target(config).build(config)
    family = NeuMetaForImageClassification.from_reference(reference, trained_widths=[0.5, 1.0], hypernetwork=INR)
    assert {"stage1", "stage2", "stage3"} <= set(family.width_groups)
    assert family.morph(0.5).config.stage_channels == [3, 3, 4]


# ------------------------------------------------------------------------------------------------ BatchNorm


def test_a_reference_whose_batch_norm_is_not_fused_is_refused(make_case):
    for name in ("resnet", "cifar_resnet", "lenet_batch_norm"):
        reference = make_case(name, "keep").reference
        with pytest.raises(TargetError, match="BatchNorm was not fused.*normalization="):
            NeuMetaForImageClassification.from_reference(reference, hypernetwork=INR)


def test_kept_batch_norm_without_statistics_is_refused_and_the_advice_works(kept_family):
    images = images_of(kept_family)
    for use in (lambda: kept_family.morph(0.6), lambda: kept_family(images, width=0.6)):
        with pytest.raises(CheckpointError, match=r"stored widths: 0\.5, 0\.75, 1\).*calibration=.*calibrate") as error:
            use()
    assert "no statistics" in str(error.value)
    morph = kept_family.morph(0.6, calibration=[images])
    assert morph(images).logits.isfinite().all()
    kept_family.calibrate([images], [0.6, 1.0])
    assert torch.equal(kept_family.morph(0.6)(images).logits, morph(images).logits)


def test_calibrating_a_family_measures_its_stored_widths_anew(kept_family):
    images = images_of(kept_family) * 2 + 1
    kept_family.calibrate([images])
    assert list(kept_family.config.statistics_widths) == [0.5, 0.75, 1.0]
    for width in (0.5, 0.75, 1.0):
        assert_same(tensors_of(kept_family.morph(width)), tensors_of(kept_family.morph(width, calibration=[images])))
    kept_family.config.statistics_widths = []
    with pytest.raises(CheckpointError, match=r"stores none: pass widths="):
        kept_family.calibrate([images])


def make_ordered(positions):
    """A network whose last channels matter least, or whose neighbouring channels are alike."""
    config = LeNetConfig(hidden_channels=[32, 64, 128], kernel_size=3, image_size=8, num_labels=3, batch_norm=True)
    torch.manual_seed(0)
    network = find_target(config).build(config).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d) and positions == "absolute":
                module.weight.mul_(0.9 ** torch.arange(len(module.weight)))
            elif isinstance(module, nn.Conv2d | nn.Linear) and positions == "relative":
                for axis in range(2):
                    steps = torch.linspace(0, 3, module.weight.shape[axis]).unsqueeze(1)
                    alike = (-(steps - steps.T).square()).exp()
                    smooth = torch.tensordot(alike / alike.sum(1, keepdim=True), module.weight, ([1], [axis]))
                    module.weight.copy_(smooth.movedim(0, axis) * len(alike) ** 0.5)
    return network


@pytest.mark.parametrize("positions", ["absolute", "relative"])
def test_a_size_between_near_stored_ones_needs_no_images(positions):
    hypernetwork = {"type": "grid", "positions": positions}
    reference = make_ordered(positions)
    family = NeuMetaModel.from_reference(
        reference, normalization="keep", hypernetwork=hypernetwork, trained_widths=[0.75, 0.825]
    ).eval()
    images = images_of(family, 64)
    family.calibrate([images], [0.75, 0.8])
    found, exact = family.morph(0.775), family.morph(0.775, calibration=[images])
    with torch.no_grad():
        near, truth, far = found(images).logits, exact(images).logits, exact(images + 1).logits
        assert (near - truth).abs().mean() < 0.2 * (far - truth).abs().mean()
        assert torch.equal(family(images, width=0.775).logits, near)
    family.calibrate([images], [0.75, 0.825])  # too far apart
    with pytest.raises(CheckpointError, match="no statistics"):
        family.morph(0.775)


def test_statistics_belong_to_their_size_and_outlive_saving(kept_family, tmp_path):
    images = images_of(kept_family, 8)
    kept_family.save_pretrained(tmp_path)
    reloaded = NeuMetaForImageClassification.from_pretrained(tmp_path)
    assert list(reloaded.config.statistics_widths) == [0.5, 0.75, 1.0]
    for width in (0.5, 0.75, 1.0):
        stored, measured = tensors_of(reloaded.morph(width)), tensors_of(kept_family.morph(width, calibration=[images]))
        for name in kept_family.statistic_names:
            assert stored[name].dtype == measured[name].dtype
            assert torch.equal(stored[name], measured[name]), (width, name)
        assert stored["resnet.embedder.embedder.normalization.running_var"].min() > 0


def test_training_never_writes_into_stored_statistics(kept_family):
    before = tensors_of(kept_family)
    kept_family.train()
    for width in (0.5, 1.0):
        kept_family(images_of(kept_family) + 1, width=width)
    assert_same(tensors_of(kept_family), before)


def test_training_mode_uses_the_statistics_of_the_batch(kept_family):
    images = images_of(kept_family)
    morph = kept_family.morph(0.5).train()
    kept_family.train()
    assert torch.allclose(kept_family(images, width=0.5).logits, morph(images).logits, atol=1e-5)
    kept_family.eval()
    assert not torch.allclose(kept_family(images, width=0.5).logits, morph(images).logits, atol=1e-4)


def test_statistics_of_a_family_without_batch_norm_are_refused(make_case):
    for name in ("lenet", "resnet"):
        family = make_case(name).family()
        images = images_of(family)
        with pytest.raises(CheckpointError, match="generates no BatchNorm"):
            family.calibrate([images], [1.0])
        with pytest.raises(CheckpointError, match="generates no BatchNorm"):
            family.store_calibration_images(images)
        with pytest.raises(CheckpointError, match="generates no BatchNorm"):
            family.morph(0.5, calibration=[images])


def test_failed_measurement_leaves_the_stored_statistics(kept_family):
    before = tensors_of(kept_family)
    with pytest.raises(CheckpointError, match="no batch"):
        kept_family.calibrate([], [0.5])
    assert list(kept_family.config.statistics_widths) == [0.5, 0.75, 1.0]
    assert_same(tensors_of(kept_family), before)


def test_a_morph_measures_what_is_not_stored_on_images_in_the_checkpoint(kept_family, tmp_path):
    images = (images_of(kept_family, 8).clamp(-3, 3) * 32).round() / 32  # what a byte can hold
    kept_family.store_calibration_images(images)
    expected = {
        str(width): tensors_of(kept_family.morph(width, calibration=[images]))
        for width in (0.6, {"stage1": 0.5, "stage2": 0.8})
    }
    stored = tensors_of(kept_family.morph(0.75))
    kept_family.save_pretrained(tmp_path)
    reloaded = NeuMetaForImageClassification.from_pretrained(tmp_path)
    assert reloaded.config.calibration_images == 8
    for width in (0.6, {"stage1": 0.5, "stage2": 0.8}):
        assert_same(tensors_of(reloaded.morph(width)), expected[str(width)])
    assert_same(tensors_of(reloaded.morph(0.75)), stored)
    low = NeuMetaForImageClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert low.calibration.tensors()["pixels"].dtype == torch.uint8
    assert low.morph(0.6)(images.bfloat16()).logits.isfinite().all()
    with pytest.raises(CheckpointError, match=r"Call morph\(\) with that size"):
        reloaded(images, width=0.6)
    reloaded.store_calibration_images(images[:0])
    with pytest.raises(CheckpointError, match="Pass morph"):
        reloaded.morph(0.6)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda images: images[:, :1], r"images of shape \[2, 1, 32, 32\]: give \[images, 3, 32, 32\]"),
        (lambda images: images * 0 + 4, r"reach from 4 to 4: normalised ones lie in \[-4, 4\)"),
        (lambda images: images * float("nan"), "images holds NaN or infinite values"),
    ],
)
def test_images_that_cannot_be_stored_are_refused(kept_family, change, says):
    before = tensors_of(kept_family)
    with pytest.raises(CheckpointError, match=says):
        kept_family.store_calibration_images(change(images_of(kept_family, 2)))
    assert_same(tensors_of(kept_family), before)


def test_fused_stock_batch_norm_only_adds_a_bias(make_case):
    case = make_case("resnet")
    for module in case.family().morph(0.5).modules():
        if isinstance(module, _BatchNorm):
            hidden = torch.randn(2, module.num_features, 3, 3)
            assert torch.allclose(module(hidden), hidden + module.bias[:, None, None], atol=1e-5)


def test_a_reference_in_low_precision_gives_a_family_of_one_dtype(make_case):
    case = make_case("cifar_resnet")
    reference = copy.deepcopy(case.reference).bfloat16()
    family = NeuMetaForImageClassification.from_reference(
        reference, trained_widths=[0.5, 1.0], hypernetwork=INR, generated=["layer3.1"]
    ).eval()
    assert family(case.images().bfloat16(), width=0.5).logits.dtype == torch.bfloat16


# ------------------------------------------------------------------------------------------------ configs


def test_nothing_of_the_callers_changes(case, tmp_path):
    fields = {
        "hypernetwork": dict(INR),
        "generated": ["*"],
        "trained_widths": [0.5, 1.0],
        "normalization": case.normalization,
    }
    given, config, weights = copy.deepcopy(fields), case.config.to_dict(), tensors_of(case.reference)
    family = NeuMetaForImageClassification.from_reference(case.reference, **fields)
    if family.statistic_names:
        family.calibrate([images_of(family)], [0.5, 1.0])
    width = {group: 0.5 for group in family.width_groups}
    target = family.config.target_config.to_dict()
    family.morph(width).save_pretrained(tmp_path / "morph")
    family.morph(1.0).half()
    family.save_pretrained(tmp_path / "family")
    assert fields == given
    assert case.config.to_dict() == config
    assert_same(tensors_of(case.reference), weights)
    assert family.config.target_config.to_dict() == target
    assert width == {group: 0.5 for group in family.width_groups}


def test_morphs_do_not_share_a_config(lenet_family):
    first, second = lenet_family.morph(0.5), lenet_family.morph(0.5)
    first.config.hidden_channels[0] = 99
    first.config.num_labels = 5
    assert second.config.hidden_channels == [2, 3, 4]
    assert lenet_family.morph(0.5).config.num_labels == 3


def test_config_round_trip(family, tmp_path):
    family.config.preparation = {"tv_before": 1.0, "tv_after": 0.5, "cliques": [{"order": [1, 0]}]}
    family.save_pretrained(tmp_path)
    config = NeuMetaConfig.from_pretrained(tmp_path)
    ours, theirs = (json.loads(json.dumps(each.to_dict(), default=str)) for each in (family.config, config))
    for values in (ours, theirs):
        for inner in (values, values["target_config"]):
            for key in ("dtype", "architectures", "transformers_version", "_name_or_path"):
                inner.pop(key, None)
    assert ours == theirs
    assert type(config.target_config) is type(family.reference_config)
    assert config.id2label == family.reference_config.id2label


def test_label_names_go_all_the_way(make_case, tmp_path):
    reference = copy.deepcopy(make_case("lenet").reference)
    reference.config.id2label = {0: "ant", 1: "bee", 2: "cat"}
    reference.config.label2id = {"ant": 0, "bee": 1, "cat": 2}
    family = NeuMetaForImageClassification.from_reference(reference, trained_widths=[0.5, 1.0], hypernetwork=INR)
    family.save_pretrained(tmp_path)
    reloaded = NeuMetaForImageClassification.from_pretrained(tmp_path)
    assert reloaded.config.id2label == {0: "ant", 1: "bee", 2: "cat"}
    assert reloaded.morph(0.5).config.id2label == {0: "ant", 1: "bee", 2: "cat"}


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("format_version", 99, "reads formats 1 to 2"),
        ("normalization", "drop", "choose one of fuse, keep"),
        ("alignment", "left", "choose one of corner, center"),
        ("coordinate_noise", -1, "from 0"),
        ("coordinate_noise", 9, "to 4"),
        ("trained_widths", [0.5, 0], "ratios in"),
        ("trained_widths", [32], "ratios in"),
        ("statistics_widths", [0.5, -1.0], "ratios in"),
        ("statistics_depths", [1.5], "ratios in"),
        ("statistics_depths", [0.5] * 5000, "at most"),
    ],
)
def test_values_that_no_model_can_have_are_refused(lenet_family, field, value, says, tmp_path):
    with pytest.raises(CheckpointError, match=f"{field}.*{says}"):
        NeuMetaConfig(**{field: value})
    lenet_family.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, field: value}))
    with pytest.raises(CheckpointError, match=says):
        NeuMetaModel.from_pretrained(tmp_path)


def test_fields_of_another_type_are_refused():
    for field, value in (("hypernetwork", "inr"), ("generated", "*"), ("coordinate_noise", "1")):
        with pytest.raises(StrictDataclassError, match=field):
            NeuMetaConfig(**{field: value})


def test_a_target_of_no_family_is_refused():
    with pytest.raises(TargetError, match="there is autoencoder_kl, autoencoder_tiny, "):
        NeuMetaModel(NeuMetaConfig(target_config=AutoConfig.for_model("beit")))


def test_a_checkpoint_can_be_moved(lenet_family, tmp_path):
    lenet_family.save_pretrained(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    reloaded = AutoModel.from_pretrained(tmp_path / "there")
    assert str(tmp_path) not in (tmp_path / "there" / "config.json").read_text()
    assert isinstance(reloaded.reference_config, PreTrainedConfig)


def test_a_morph_measures_what_calibrate_measures(kept_family):
    images = images_of(kept_family, 8)
    batches = [images[:5], images[5:]]
    morph = kept_family.morph(0.5)
    calibrate(morph, batches)
    assert_same(tensors_of(kept_family.morph(0.5, calibration=iter(batches))), tensors_of(morph))
