import json

import pytest
from transformers import BeitConfig, PreTrainedConfig, ResNetConfig

from neumeta_hf.errors import CheckpointError, TargetError
from neumeta_hf.targets import (
    LeNetConfig,
    TargetFamily,
    find_target,
    list_targets,
    load_network,
    register_target,
    registry,
)


class OtherFamily(TargetFamily):
    name = "other"
    model_types = ("other",)

    def axes(self, config):
        return []

    def rules(self, config):
        return {}

    def config_at(self, config, size):
        return config

    def image_shape(self, config):
        return 1, 8, 8


@pytest.fixture(autouse=True)
def _restore_registry(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))


def test_the_families_of_this_library_are_registered():
    convolutional = {"cifar_resnet", "convnext", "convnextv2", "lenet", "mobilenet_v2", "resnet", "upernet"}
    staged = {"segformer", "swin"}
    autoencoders = {"autoencoder_kl", "autoencoder_tiny", "mlp_vae"}
    transformers = {"vit", "dinov2", "llama", "qwen3", "bert", "bert_masked_lm"}
    assert set(list_targets()) == convolutional | staged | autoencoders | transformers


def test_a_registered_family_is_found_by_name_and_by_config():
    class OtherConfig(PreTrainedConfig):
        model_type = "other"

    assert register_target(OtherFamily) is OtherFamily
    assert type(find_target("other")) is OtherFamily
    assert find_target(OtherConfig()) is find_target("other")
    assert find_target(LeNetConfig()).name == "lenet"
    assert find_target(ResNetConfig()).name == "resnet"


def test_registering_a_class_again_changes_nothing():
    register_target(OtherFamily)
    first = find_target("other")
    register_target(OtherFamily)
    assert find_target("other") is first


@pytest.mark.parametrize("names", ["input_ids", (), ["input_ids"], (1,), None])
def test_inputs_are_named_by_a_tuple(names):
    with pytest.raises(TargetError, match="input_names"):
        register_target(type("Wrong", (OtherFamily,), {"name": "wrong", "input_names": names}))
    assert "wrong" not in list_targets()


def test_a_taken_name_is_refused_and_keeps_its_family():
    class Impostor(OtherFamily):
        name = "lenet"

    before = find_target("lenet")
    with pytest.raises(TargetError, match="'lenet' is taken by LeNetFamily: choose another name"):
        register_target(Impostor)
    assert find_target("lenet") is before


@pytest.mark.parametrize(("wanted", "said"), [("vgg", "'vgg'"), (BeitConfig(), "of model type 'beit'")])
def test_an_unknown_family_lists_the_known_ones(wanted, said):
    with pytest.raises(TargetError, match=f"{said} is registered: there is {', '.join(list_targets())}\\."):
        find_target(wanted)


@pytest.mark.parametrize("name", ["autoencoder_kl", "lenet", "mlp_vae", "resnet", "upernet"])
def test_bare_weights_are_refused_by_families_that_read_none(name, tmp_path):
    with pytest.raises(TargetError, match=f"'{name}' reads no bare safetensors files. Give the folder of a model"):
        find_target(name).load(str(tmp_path / "weights.safetensors"))


def test_bare_weights_are_read_by_the_family_that_has_a_reader():
    with pytest.raises(CheckpointError, match="nowhere.safetensors cannot be read as safetensors"):
        find_target("cifar_resnet").load("nowhere.safetensors")


@pytest.mark.parametrize("name", ["autoencoder_kl", "cifar_resnet", "lenet", "mlp_vae"])
def test_families_of_square_images_refuse_oblong_ones_by_name(name):
    family = find_target(name)
    rule = rf"{name!r} takes square images alone, but data.image_size gives 16x24: give one number"
    with pytest.raises(TargetError, match=rule):
        family.make_config({}, image_shape=(3, 16, 24), label_names=["a", "b"])
    with pytest.raises(TargetError, match=rule):
        family.set_image_size(None, [16, 24])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ["resnet", "upernet"])
def test_other_families_take_images_of_any_shape(name):
    family = find_target(name)
    config = family.make_config({}, image_shape=(3, 16, 24), label_names=["a", "b"])
    assert family.image_shape(config) == (3, 16, 24)


@pytest.mark.parametrize("target", ["lenet", "resnet", "upernet", "mlp_vae"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("id2label", []),
        ("id2label", {"cat": 0}),
        ("label2id", "cat"),
        ("num_labels", "many"),
        ("dtype", "x"),
        ("dtype", "int8"),
        ("quantization_config", {"quant_method": "bitsandbytes"}),
        ("architectures", 5),
        ("to_dict", 1),
    ],
)
def test_a_config_with_a_value_of_the_wrong_kind_is_refused_by_name(target, key, value, target_configs, tmp_path):
    family = find_target(target_configs[target])
    family.build(target_configs[target]).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
    for load in (load_network, family.load):
        with pytest.raises(CheckpointError, match=f"config.json.*{key}"):
            load(str(tmp_path))
