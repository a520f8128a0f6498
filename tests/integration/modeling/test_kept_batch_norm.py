"""BatchNorm that is kept: which sizes have statistics, which come from neighbours, which need images."""

import copy

import pytest
import torch
from family_checks import INR, assert_same, images_of, tensors_of
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from neumeta_hf.errors import CheckpointError, TargetError
from neumeta_hf.modeling_neumeta import NeuMetaModel
from neumeta_hf.modeling_tasks import NeuMetaForImageClassification
from neumeta_hf.targets import find_target
from neumeta_hf.targets.lenet import LeNetConfig


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
