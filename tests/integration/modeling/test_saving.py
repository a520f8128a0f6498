"""Families and morphs are saved and loaded as they are, and what is wrong is refused by name."""

import copy
import json
import shutil

import pytest
import torch
from family_checks import INR, assert_same, images_of, tensors_of
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    PreTrainedConfig,
)

from neumeta_hf.calibration import calibrate
from neumeta_hf.configuration_neumeta import NeuMetaConfig
from neumeta_hf.errors import CheckpointError, TargetError
from neumeta_hf.modeling_neumeta import NeuMetaModel
from neumeta_hf.modeling_tasks import NeuMetaForImageClassification

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
