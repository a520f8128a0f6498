"""Networks as people have them: what can be read is read and said, what cannot is named with a way out."""

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from neumeta_hf import NeuMetaConfig, NeuMetaModel
from neumeta_hf.checkpoints import DIGEST_FILE
from neumeta_hf.cli import main
from neumeta_hf.errors import CheckpointError, MissingCheckpointError, TargetError
from neumeta_hf.targets import find_target, load_cifar_checkpoint, load_network

WEIGHTS = "model.safetensors"


@pytest.fixture
def plain(make_case, tmp_path):
    make_case("resnet", "keep").reference.save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


def with_names(folder, rename, weights=WEIGHTS):
    tensors = {rename(key): tensor for key, tensor in load_file(folder / weights).items()}
    save_file(tensors, folder / weights, metadata={"format": "pt"})


def same(one, other):
    return all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_what_training_in_parallel_or_compiled_puts_before_names_is_left_out_and_said(plain, make_case, prefix, caplog):
    with_names(plain, lambda name: prefix + name)
    with caplog.at_level(logging.WARNING, logger="neumeta_hf"):
        assert same(load_network(str(plain)), make_case("resnet", "keep").reference)
    assert prefix in caplog.text


@pytest.mark.parametrize("name", ["upernet", "autoencoder_kl", "mlp_vae"])
def test_of_networks_of_other_tasks_too(networks, tmp_path, name):
    folder = tmp_path / "net"
    networks[name].save_pretrained(folder)
    weights = next(path.name for path in folder.glob("*.safetensors"))
    with_names(folder, lambda key: f"module.{key}", weights)
    assert same(find_target(name).load(str(folder)), networks[name])


def test_of_sharded_weights_too(make_case, tmp_path):
    reference = make_case("resnet", "keep").reference
    reference.save_pretrained(tmp_path / "net", max_shard_size="4KB")
    shards = sorted(path.name for path in (tmp_path / "net").glob("*.safetensors"))
    assert len(shards) > 1
    assert same(load_network(str(tmp_path / "net")), reference)
    for shard in shards:
        with_names(tmp_path / "net", lambda key: f"module.{key}", shard)
    assert same(load_network(str(tmp_path / "net")), reference)


def test_of_bare_weights_too(make_case, tmp_path):
    reference = make_case("cifar_resnet", "keep").reference
    tensors = {f"_orig_mod.module.{name}": tensor for name, tensor in reference.state_dict().items()}
    save_file(tensors, tmp_path / "net.safetensors")
    assert same(load_cifar_checkpoint(tmp_path / "net.safetensors"), reference)


def test_a_prefix_of_some_names_is_none(plain):
    names = iter(range(1000))
    with_names(plain, lambda name: f"module.{name}" if next(names) else name)
    with pytest.raises(CheckpointError, match="missing keys"):
        load_network(str(plain))


def make_timm(folder, plain):
    shutil.copytree(plain, folder)
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet18", "num_classes": 3}))


def make_pipeline(folder, plain):
    folder.mkdir()
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "A"]}')
    shutil.copytree(plain, folder / "vae")


def only(name):
    def make(folder, plain):
        shutil.copytree(plain, folder)
        (folder / WEIGHTS).rename(folder / name)

    return make


def make_adapter(folder, plain):
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")


FORMS = {
    "timm": (make_timm, ["timm", "resnet18"]),
    "empty": (lambda folder, plain: folder.mkdir(), ["the folder is empty", "save_pretrained"]),
    "file of pickles": (lambda folder, plain: folder.with_name("net.pth").write_bytes(b"PK"), ["pickled weights"]),
    "folder of pickles": (
        only("pytorch_model.bin"),
        ["no file named model.safetensors", "pytorch_model.bin", "pickled"],
    ),
    "folder with a .pth": (only("weights.pth"), ["weights.pth", "pickled weights", "save_pretrained"]),
    "folder with a .ckpt": (only("last.ckpt"), ["last.ckpt", "pickled weights"]),
    "other weights": (only("other.safetensors"), ["no file named model.safetensors", "other.safetensors"]),
    "pipeline": (make_pipeline, ["pipeline", "/vae"]),
    "adapter": (make_adapter, ["adapter"]),
    "bare weights": (
        lambda folder, plain: shutil.copyfile(plain / WEIGHTS, folder.with_name("net.safetensors")),
        ["it is a file", "target.checkpoint"],
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_that_is_not_read_is_named_with_a_way_out(plain, form, tmp_path, capsys):
    make, words = FORMS[form]
    make(tmp_path / "net", plain)
    (place,) = [path for path in tmp_path.iterdir() if path.name.startswith("net")]
    capsys.readouterr()
    assert main(["prepare", str(place), "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    for word in words:
        assert word in said
    assert "looked for on the Hub" not in said
    assert "None" not in said
    assert not (tmp_path / "out").exists()


def test_the_part_of_a_pipeline_that_is_named_is_read(plain, tmp_path, make_case):
    make_pipeline(tmp_path / "net", plain)
    family = find_target(make_case("resnet").config)
    assert same(family.load(str(tmp_path / "net"), subfolder="vae"), make_case("resnet", "keep").reference)
    with pytest.raises(MissingCheckpointError, match="holds no folder 'unet'"):
        family.load(str(tmp_path / "net"), subfolder="unet")


def test_a_file_of_weights_is_read_with_a_config_beside_it(make_case, tmp_path):
    family = make_case("lenet").family()
    family.save_pretrained(tmp_path / "family")
    moved = (tmp_path / "family" / WEIGHTS).rename(tmp_path / "other.safetensors")
    loaded = NeuMetaModel.from_pretrained(moved, config=NeuMetaConfig.from_pretrained(tmp_path / "family"))
    assert same(loaded, family)
    with pytest.raises(MissingCheckpointError, match="it is a file"):
        NeuMetaModel.from_pretrained(moved)


def test_a_network_without_a_model_type_is_told_so(plain):
    (plain / "config.json").write_text("{}")
    with pytest.raises(TargetError, match="names no model_type"):
        load_network(str(plain))


def test_pickles_are_not_read_even_when_asked_for(plain, make_case):
    with pytest.raises(CheckpointError, match="would read a pickle"):
        find_target(make_case("resnet").config).load(str(plain), use_safetensors=False)


def test_the_home_folder_is_found_in_every_argument_that_is_a_path(plain, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", "~/plain", "--normalization=keep", "--order=identity", "--output=~/out"]) == 0
    assert (tmp_path / "out" / WEIGHTS).is_file()
    assert (tmp_path / "out" / DIGEST_FILE).is_file()
    assert not (tmp_path / "~").exists()
    assert main(["info", "~/nowhere"]) == 2
    assert f"{tmp_path}/nowhere" in capsys.readouterr().err
    assert main(["train", "--config=~/nowhere.yaml"]) == 2
    assert f"{tmp_path}/nowhere.yaml" in capsys.readouterr().err


def test_a_dtype_may_be_asked_for_and_the_checksum_is_of_what_was_saved(plain, make_case, tmp_path):
    family = find_target(make_case("resnet").config)
    assert (
        main(["prepare", str(plain), "--normalization=keep", "--order=identity", "--output", str(tmp_path / "p")]) == 0
    )
    assert next(family.load(str(tmp_path / "p"), dtype=torch.bfloat16).parameters()).dtype == torch.bfloat16
