"""A checkpoint of a few kilobytes cannot ask for much memory or time, whatever its config multiplies."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from config_changes import change_config
from safetensors.torch import load_file, save_file
from transformers import ResNetConfig, ResNetForImageClassification

from neumeta_hf import NeuMetaForImageClassification, NeuMetaModel
from neumeta_hf.cli import main
from neumeta_hf.errors import CheckpointError, NeuMetaError
from neumeta_hf.targets import CifarResNetConfig, load_cifar_checkpoint, load_network

MOST_MEGABYTES = 600
"""Beside what the libraries take. What is asked for is gigabytes."""


FORMAT_1 = {"format_version": 1, "space": ...}
"""What states no space of sizes, and so has nothing that other sizes could be compared with."""


@pytest.fixture(scope="module")
def kept(make_case, tmp_path_factory):
    """A family with stored statistics and images in its checkpoint."""
    family = make_case("lenet_batch_norm", "keep").family(hypernetwork={"type": "grid"})
    family.store_calibration_images(torch.zeros(4, 1, 8, 8))
    folder = tmp_path_factory.mktemp("kept") / "family"
    family.save_pretrained(folder)
    return change_config(folder, **FORMAT_1)


@pytest.fixture(scope="module")
def generated(make_case, tmp_path_factory):
    """A family all of whose weights an INR makes: no tensor in its files is as large as its networks."""
    folder = tmp_path_factory.mktemp("generated") / "family"
    make_case("lenet").family().save_pretrained(folder)
    return change_config(folder, **FORMAT_1)


def deep(model_type, **fields):
    return {"target_config": {"model_type": model_type, **fields}, "width_groups": None}


GRID = {
    "2^20 images": {"calibration_images": 2**20},
    "2^20 images of 64 x 64": {"calibration_images": 2**20, "target_config__image_size": 64},
    "[8000, 8000, 8] channels": {"target_config__hidden_channels": [8000, 8000, 8]},
    "a million widths": {"trained_widths": [0.5] * 10**6},
    "4,096 sizes with statistics": {"statistics_widths": [0.5 + index / 10**4 for index in range(4096)]},
    "32,768 classes": {
        "target_config__num_labels": 2**15,
        "target_config__id2label": ...,
        "target_config__label2id": ...,
    },
    "1,024 levels": {"hypernetwork__levels": 1024},
}
INR = {
    "[8000, 8000, 8] channels from nothing": {"target_config__hidden_channels": [8000, 8000, 8]},
    "2^20 channels from nothing": {"target_config__hidden_channels": [2**20] * 3},
    "kernels of 2^20 pixels": {"target_config__kernel_size": 2**20 - 1},
    "1,024 layers of each of its parts": {"hypernetwork__num_hidden_layers": 1024},
    "4,096 blocks": deep("resnet", depths=[1024] * 4, hidden_sizes=[8] * 4, embedding_size=8, layer_type="basic"),
    "groups times blocks": deep("neumeta_cifar_resnet", num_blocks=[60] * 3),
    "parts times layers": deep(
        "neumeta_autoencoder_kl",
        vae={"block_out_channels": [2**10] * 4, "norm_num_groups": 2**10, "layers_per_block": 8, "sample_size": 32},
    ),
    "more values than can be counted": deep("neumeta_mlp_vae", num_channels=2**20, image_size=2**20),
}


def test_info_of_a_hostile_checkpoint_is_one_line_and_takes_little(kept, generated, tmp_path):
    """In one process, whose peak is the worst of all."""
    folders = [
        change_config(shutil.copytree(kept, tmp_path / str(i)), **values) for i, values in enumerate(GRID.values())
    ]
    folders += [
        change_config(shutil.copytree(generated, tmp_path / f"i{i}"), **values) for i, values in enumerate(INR.values())
    ]
    program = """
import resource, sys, time
import diffusers.models.autoencoders.autoencoder_kl
from neumeta_hf.cli import main
good, *bad = sys.argv[1:]
assert main(["info", good]) == 0
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for folder in bad:
    assert main(["info", folder]) == 2, folder
print("took", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    command = [sys.executable, "-c", program, str(kept), *map(str, folders)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    errors = [line for line in result.stderr.splitlines() if line.startswith("neumeta: error:")]
    assert len(errors) == len(folders), result.stderr[-2000:]
    assert "Traceback" not in result.stderr
    assert int(result.stdout.split("took")[1]) < MOST_MEGABYTES


@pytest.mark.parametrize("fault", list(GRID)[:3])
def test_a_family_of_the_hub_has_the_same_bounds(hub, kept, tmp_path, fault):
    folder = change_config(shutil.copytree(kept, tmp_path / "family"), **GRID[fault])
    hub.put("org/family", {path.name: path.read_bytes() for path in folder.iterdir()})
    hub.requests.clear()
    with pytest.raises(CheckpointError, match=r"(missing|mismatched) keys"):
        NeuMetaModel.from_pretrained("org/family")
    asked = [request.path.rpartition("/")[2] for request in hub.requests.matching("GET", "/resolve/")]
    assert sorted(asked) == ["config.json", "model.safetensors"]  # each once


def test_no_weights_are_fetched_for_a_config_that_is_refused(hub, kept, tmp_path):
    folder = change_config(shutil.copytree(kept, tmp_path / "family"), **GRID["a million widths"])
    hub.put("org/family", {path.name: path.read_bytes() for path in folder.iterdir()})
    hub.requests.clear()
    with pytest.raises(CheckpointError, match="trained_widths"):
        NeuMetaModel.from_pretrained("org/family")
    assert not [request for request in hub.requests.matching("GET", "/resolve/") if "safetensors" in request.path]


def test_an_honest_family_of_many_groups_is_read(make_case, tmp_path):
    family = make_case("cifar_resnet", "keep").family()
    family.save_pretrained(tmp_path / "family")
    assert NeuMetaModel.from_pretrained(tmp_path / "family").width_groups == family.width_groups


PLAIN = {
    "channels": {"hidden_sizes": [8, 2**20]},
    "channels that fit their own": {"hidden_sizes": [2**20, 2**20], "embedding_size": 2**20},
    "blocks": {"depths": [1024, 1024]},
    "classes": {"num_labels": 2**15, "id2label": ..., "label2id": ...},
    "a number beyond all": {"hidden_sizes": [8, 10**30]},
}


@pytest.mark.parametrize("fault", PLAIN)
def test_a_plain_network_has_them_too(make_case, tmp_path, fault):
    make_case("resnet", "keep").reference.save_pretrained(tmp_path / "net")
    change_config(tmp_path / "net", **PLAIN[fault])
    with pytest.raises(CheckpointError):
        load_network(str(tmp_path / "net"))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("autoencoder_kl", {"block_out_channels": [2**20, 2**20]}),
        ("autoencoder_kl", {"layers_per_block": 1024}),
        ("mlp_vae", {"image_size": 2**20}),
        ("mlp_vae", {"encoder_hidden_channels": [4] * 1000}),
        ("upernet", {"hidden_size": 2**20}),
        ("upernet", {"pool_scales": [1] * 1000}),
    ],
)
def test_networks_of_other_tasks_have_them_too(networks, tmp_path, name, values):
    networks[name].save_pretrained(tmp_path / "net")
    change_config(tmp_path / "net", **values)
    with pytest.raises(CheckpointError):
        load_network(str(tmp_path / "net"))


def test_bare_weights_that_suggest_a_huge_network_are_refused(make_case, tmp_path):
    """A few vectors without rows ask for matrices of all of them together."""
    tensors = {
        name: tensor.clone() for name, tensor in make_case("cifar_resnet", "keep").reference.state_dict().items()
    }
    assert isinstance(make_case("cifar_resnet").config, CifarResNetConfig)
    for stage in (1, 2, 3):
        tensors[f"layer{stage}.0.conv2.weight"] = torch.zeros(2**18, 0, 3, 3)
        tensors[f"layer{stage}.0.conv1.weight"] = torch.zeros(2**18, 0, 3, 3)
    save_file(tensors, tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match=r"stage_channels=\[262144, 262144, 262144\] .*52 in all"):
        load_cifar_checkpoint(tmp_path / "net.safetensors")
    save_file({**tensors, f"layer1.{'9' * 300}.conv1.weight": torch.zeros(1)}, tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match="is missing"):
        load_cifar_checkpoint(tmp_path / "net.safetensors")


CONFIG_TEXTS = {
    "nested": '{"model_type": "neumeta", "a": ' + "[" * 10**5,
    "a key twice": '{"model_type": "neumeta", "model_type": "resnet"}',
    "NaN": '{"model_type": "neumeta", "coordinate_noise": NaN}',
    "a number of 10^4 digits": '{"model_type": "neumeta", "coordinate_scale": ' + "9" * 10**4 + "}",
    "a number beyond floats": '{"model_type": "neumeta", "coordinate_noise": 1e999}',
    "a kind that is a list": '{"model_type": ["neumeta"]}',
    "no kind": "{}",
    "numbers for texts": '{"model_type": "resnet", "hidden_act": 3, "depths": {"a": 1}}',
    "a type that is none": '{"model_type": "resnet", "dtype": "load"}',
}


@pytest.mark.parametrize("fault", CONFIG_TEXTS)
@pytest.mark.parametrize("command", ["info", "prepare"])
def test_a_config_of_any_text_is_one_line(make_case, tmp_path, fault, command, capsys):
    make_case("resnet", "keep").reference.save_pretrained(tmp_path / "net")
    (tmp_path / "net" / "config.json").write_text(CONFIG_TEXTS[fault])
    output = ["--output", str(tmp_path / "out")] if command == "prepare" else []
    capsys.readouterr()
    assert main([command, str(tmp_path / "net"), *output]) == 2
    said = capsys.readouterr().err
    assert said.startswith("neumeta: error: ")
    assert said.count("\n") == 1
    assert "type None" not in said


def test_the_number_of_shards_and_of_their_tensors_is_bounded(make_case, tmp_path):
    folder = tmp_path / "family"
    make_case("lenet").family().save_pretrained(folder)
    keys = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {f"{key}.{number}": f"{number}.safetensors" for key in keys for number in range(100)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(NeuMetaError, match=r"names 0.safetensors, which is not there|files: at most"):
        NeuMetaModel.from_pretrained(folder)


def test_a_large_honest_network_is_read(tmp_path):
    """ImageNet-21k's classes, and as many blocks as the deepest ResNet that people use."""
    config = ResNetConfig(
        embedding_size=4, hidden_sizes=[4] * 4, depths=[3, 8, 36, 3], layer_type="basic", num_labels=21_841
    )
    ResNetForImageClassification(config).save_pretrained(tmp_path / "net")
    assert load_network(str(tmp_path / "net")).config.num_labels == 21_841


def test_growth_is_bounded_by_what_is_held_and_free_for_small_networks(make_case, tmp_path):
    family = make_case("lenet").family()
    family.save_pretrained(tmp_path / "family")
    change_config(tmp_path / "family", **FORMAT_1)
    for channels, fits in ([64, 128, 256], True), ([2000, 4000, 4000], False):
        change_config(tmp_path / "family", target_config__hidden_channels=channels, weights_digest=None)
        if fits:
            assert NeuMetaForImageClassification.from_pretrained(tmp_path / "family").num_generated_parameters > 3e5
        else:
            with pytest.raises(CheckpointError, match="generated from"):
                NeuMetaModel.from_pretrained(tmp_path / "family")
