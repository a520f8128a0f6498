"""What is checked of a checkpoint before anything is made of it: numbers, headers, checksums, what it names."""

import json
import struct
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import ResNetConfig, UperNetConfig

from neumeta_hf.checkpoints import (
    DIGEST_FILE,
    Fingerprint,
    check_numbers,
    forget_origin,
    is_hub_name,
    limit_building,
    open_checkpoint,
    open_weights,
    save_network,
    without_origin,
)
from neumeta_hf.checkpoints.configs import check_config
from neumeta_hf.checkpoints.held import read_headers
from neumeta_hf.errors import CheckpointError, MissingCheckpointError

# ---------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"hidden_channels": [2**20 + 1]}, "hidden_channels=1048577: at most 1,048,576"),
        ({"coordinate_scale": -(10**30)}, "coordinate_scale"),
        ({"calibration_images": 10**5000}, "an integer of"),
        ({"num_labels": 10**5}, "num_labels=100000: at most 32,768"),
        ({"target_config": {"depths": [1024] * 5}}, "5,120 layers in all"),
        ({"vae": {"block_out_channels": [32] * 64, "layers_per_block": 128}}, "8,192 layers in all"),
        ({"vae": {"norm_num_groups": 2**11}}, "norm_num_groups"),
        ({"trained_widths": [0.5] * 4097}, "4,097 entries: at most 4,096"),
        ({"hypernetwork": {"residual_scale": float("inf")}}, "residual_scale=inf"),
    ],
)
def test_no_product_of_numbers_passes_that_no_network_has(config, said):
    with pytest.raises(CheckpointError, match=said):
        check_numbers(config)


def test_numbers_of_real_networks_pass():
    check_numbers(ResNetConfig(depths=[3, 8, 36, 3], num_labels=21_841).to_dict())  # ResNet-152, ImageNet-21k
    check_numbers({"target_config": {"hidden_channels": [2**20]}, "hypernetwork": {"chunk_size": 2**30}})
    check_numbers({"num_hidden_layers": 12, "class_weights": [1.0] * 1000})
    check_numbers({"preparation": {"cliques": [{"order": list(range(8192))}]}})  # as long as there are channels


def test_building_stops_in_this_thread_and_is_free_afterwards():
    with pytest.raises(CheckpointError, match="more than 8"), limit_building(8):
        nn.Sequential(*[nn.Linear(1, 1) for _ in range(100)])
    nn.Sequential(*[nn.Linear(1, 1) for _ in range(100)])


# ---------------------------------------------------------------------------------------------------- headers


def write_header(path: Path, header: dict | bytes, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(shape, start, end, kind="F32"):
    return {"dtype": kind, "shape": shape, "data_offsets": [start, end]}


HEADERS = {
    "over each other": ({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
    "two names of one stretch": ({"a": entry([2], 0, 8), "b": entry([2], 0, 8)}, bytes(8)),
    "outside of the file": ({"a": entry([10**6], 0, 4 * 10**6)}, bytes(8)),
    "a gap": ({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)),
    "bytes that belong to none": ({"a": entry([1], 0, 4)}, bytes(400)),
    "a shape of another size": ({"a": entry([3], 0, 8)}, bytes(8)),
    "a shape beyond all": ({"a": entry([2**40, 2**40], 0, 8)}, bytes(8)),
    "a negative shape": ({"a": entry([-2], 0, 8)}, bytes(8)),
    "a name twice": (
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        bytes(8),
    ),
    "nested": (b'{"a":' * 10**5, b""),
    "four bits a number": ({"a": entry([16], 0, 8, "F4")}, bytes(8)),
    "a type of its own": ({"a": entry([2], 0, 8, "F99")}, bytes(8)),
    "many axes": ({"a": entry([1] * 100, 0, 4)}, bytes(4)),
    "another library": ({"__metadata__": {"format": "tf"}, "a": entry([1], 0, 4)}, bytes(4)),
    "a changed letter in what it says of itself": ({"__metadata__": {"gormat": "pt"}, "a": entry([1], 0, 4)}, bytes(4)),
    "a long name": ({"a" * 5000: entry([1], 0, 4)}, bytes(4)),
}


@pytest.mark.parametrize("fault", HEADERS)
def test_a_header_that_lies_is_refused(tmp_path, fault):
    path = write_header(tmp_path / "a.safetensors", *HEADERS[fault])
    with pytest.raises((SafetensorError, CheckpointError)):
        read_headers("a", [path])


def test_a_header_that_is_said_to_be_long_is_not_read(tmp_path):
    path = tmp_path / "a.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2**40))
        file.truncate(2**41)  # sparse
    tracemalloc.start()
    with pytest.raises(SafetensorError, match="header"):
        read_headers("a", [path])
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_headers_tell_what_files_hold(tmp_path):
    tensors = {"a": torch.ones(2, 3), "b.c": torch.ones((), dtype=torch.int64)}
    save_file(tensors, tmp_path / "a.safetensors")
    held = read_headers("a", [tmp_path / "a.safetensors"])
    assert dict(held.shapes) == {"a": (2, 3), "b.c": ()}
    assert held.num_values == 7
    with pytest.raises(CheckpointError, match="both hold"):
        read_headers("a", [tmp_path / "a.safetensors"] * 2)


def test_a_prefix_goes_where_all_names_have_it_and_the_network_has_not(tmp_path):
    save_file({"module._orig_mod.a": torch.ones(1), "module._orig_mod.b": torch.ones(2)}, tmp_path / "a.safetensors")
    _, held = open_weights(tmp_path / "a.safetensors")
    assert set(held.shapes) == {"a", "b"}
    assert held.prefix == "module._orig_mod."
    save_file({"module.a": torch.ones(1), "b": torch.ones(2)}, tmp_path / "a.safetensors")
    _, held = open_weights(tmp_path / "a.safetensors")
    assert set(held.shapes) == {"module.a", "b"}
    save_file({"module.a": torch.ones(1)}, tmp_path / "a.safetensors")
    held = read_headers("a", [tmp_path / "a.safetensors"])
    assert set(held.without_prefix(["module.a"]).shapes) == {"module.a"}


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
        self.other.weight = self.one.weight


def test_a_network_may_rename_or_tie_its_weights_but_not_have_more_of_them(tmp_path):
    def held(**tensors):
        save_file({name.replace("__", "."): tensor for name, tensor in tensors.items()}, tmp_path / "a.safetensors")
        return read_headers("a", [tmp_path / "a.safetensors"])

    big = nn.Linear(2048, 2048, bias=False, device="meta")
    held(one__weight=torch.ones(64, 64)).check_network(Tied())
    held(renamed=torch.ones(2048, 2048)).check_network(big)
    with pytest.raises(CheckpointError, match="missing keys .*weight"):
        held(renamed=torch.ones(64, 64)).check_network(big)
    with pytest.raises(CheckpointError, match=r"mismatched keys .*weight \(\[64, 64\] .*\[2048, 2048\]"):
        held(weight=torch.ones(64, 64)).check_network(big)
    with pytest.raises(CheckpointError, match="missing keys"):  # what is left over is dropped, and fills nothing
        held(head=torch.ones(2048, 2048)).check_network(big, dropped=("head",))
    stray = nn.Module()
    stray.register_buffer("table", torch.empty(2**40, device="meta"), persistent=False)
    with pytest.raises(CheckpointError, match="table"):
        held(a=torch.ones(1)).check_network(stray)


# ---------------------------------------------------------------------------------------------------- the checksum


@pytest.fixture
def saved(tmp_path, make_case):
    save_network(make_case("lenet").reference, tmp_path / "net")
    return tmp_path / "net"


def look_at(folder):
    checkpoint = open_checkpoint(folder)
    checkpoint.check_network(checkpoint.read_weights())


def test_a_changed_bit_of_a_saved_network_is_found(saved):
    look_at(saved)
    data = bytearray((saved / "model.safetensors").read_bytes())
    data[-3] ^= 1
    (saved / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=DIGEST_FILE):
        look_at(saved)


def test_who_trains_a_saved_network_on_is_told_what_to_do_and_can(saved, make_case):
    network = make_case("lenet_batch_norm", "keep").reference
    network.save_pretrained(saved)  # as transformers saves: the checksum beside it is of what was there before
    with pytest.raises(CheckpointError, match=f"trained or saved .* delete .*{DIGEST_FILE}"):
        look_at(saved)
    (saved / DIGEST_FILE).unlink()
    look_at(saved)
    save_network(network, saved)  # saved with it, there is nothing to do
    look_at(saved)


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    return {
        "conv": torch.randn(6, 5, 3, 3, generator=generator),
        "odd": torch.randn(7, generator=generator),
        "part": torch.randn(9, generator=generator)[1:],  # integers of eight bytes begin elsewhere
        "half": torch.randn(5, generator=generator).bfloat16(),
        "count": torch.tensor(3),
        "mask": torch.tensor([True, False, True]),
    }


def test_a_fingerprint_sees_each_value_that_changes(tensors):
    taken = Fingerprint.of(tensors)
    assert taken.fits({name: tensor.clone() for name, tensor in tensors.items()})
    for name, tensor in tensors.items():
        flat = tensor.reshape(-1)
        for index in range(flat.numel()):
            was = flat[index].clone()
            flat[index] = ~was if was.dtype == torch.bool else was + 1
            assert not taken.fits(tensors), (name, index)
            flat[index] = was
    assert taken.fits(tensors)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors["conv"][2].zero_(),
        lambda tensors: torch.nn.init.normal_(tensors["conv"], std=1e-6),
        lambda tensors: tensors["conv"].mul_(1 + 1e-6),
        lambda tensors: tensors.update(odd=tensors["odd"][:6]),
        lambda tensors: tensors.update(odd=tensors["odd"].double()),
        lambda tensors: tensors.pop("count"),
        lambda tensors: tensors.update(more=torch.zeros(1)),
    ],
)
def test_a_fingerprint_sees_what_is_done_to_weights(tensors, change):
    taken = Fingerprint.of(tensors)
    change(tensors)
    assert not taken.fits(tensors)


def test_a_fingerprint_does_not_see_how_weights_lie_in_memory(tensors):
    taken = Fingerprint.of(tensors)
    assert taken.fits(tensors | {"conv": tensors["conv"].contiguous(memory_format=torch.channels_last)})


@pytest.mark.parametrize("text", ["{}", '{"weights_digest": 3}', '{"weights_digest": "sha256:12"}'])
def test_a_checksum_that_is_none_is_no_reason_to_trust(saved, text):
    (saved / DIGEST_FILE).write_text(text)
    with pytest.raises(CheckpointError, match="no checksum"):
        look_at(saved)


def test_no_checksum_is_taken_for_another_weights_file(saved, make_case):
    tensors = load_file(saved / "model.safetensors")
    tensors["conv1.weight"] = -tensors["conv1.weight"]
    save_file(tensors, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=DIGEST_FILE):
        look_at(saved)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_of_a_plain_network_are_numbers(saved, value):
    tensors = load_file(saved / "model.safetensors")
    tensors["conv1.weight"].view(-1)[0] = value
    save_file(tensors, saved / "model.safetensors", metadata={"format": "pt"})
    (saved / DIGEST_FILE).unlink()
    with pytest.raises(CheckpointError, match="conv1.weight holds NaN"):
        look_at(saved)


# ---------------------------------------------------------------------------------------------------- what it names


def test_code_and_places_are_left_out_at_every_depth():
    values = {
        "auto_map": {"AutoModel": "evil.Model"},
        "_name_or_path": "/home/me/x",
        "depths": [1, 2],
        "backbone_config": {"_name_or_path": "/home/me/y", "attn_implementation": "org/kernel", "a": [{"auto_map": 1}]},
    }
    assert without_origin(values) == {"depths": [1, 2], "backbone_config": {"a": [{}]}}
    assert check_config(values, "it")[0] == "auto_map: AutoModel=evil.Model"
    assert any("org/kernel" in told for told in check_config(values, "it"))
    assert check_config({"auto_map": None, "depths": [1]}, "it") == []


def test_configs_forget_where_they_came_from():
    config = UperNetConfig(backbone_config=ResNetConfig(auto_map={"AutoModel": "evil.Model"}), auto_map={"a": "b.C"})
    config.name_or_path = config.backbone_config.name_or_path = "/home/me/x"
    forget_origin(config)
    assert "/home/me" not in json.dumps(config.to_dict())
    assert not hasattr(config, "auto_map")
    assert not hasattr(config.backbone_config, "auto_map")
    assert config.backbone_config.depths == ResNetConfig().depths


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantised"),
        ({"model_type": "upernet", "backbone": "org/net"}, "backbone='org/net'"),
        ({"target_config": {"model_type": "upernet", "backbone": "org/net"}}, "target_config.backbone='org/net'"),
    ],
)
def test_a_config_that_sends_elsewhere_is_refused(values, said):
    with pytest.raises(CheckpointError, match=said):
        check_config(values, "it")


@pytest.mark.parametrize("name", ["org/name", "name", "org/name-1.0_b"])
def test_names_that_the_hub_can_have(name):
    assert is_hub_name(name)


@pytest.mark.parametrize("name", ["a/b/c", "/a", "./a", "../a", "~/a", "a b", "weights.pth", "a/model.safetensors", ""])
def test_names_that_it_cannot_have_are_not_looked_for_there(name):
    assert not is_hub_name(name)
    if name:
        with pytest.raises(MissingCheckpointError) as caught:
            open_checkpoint(name)
        assert "looked for on the Hub" not in str(caught.value)


def test_the_home_folder_is_found(tmp_path, monkeypatch, make_case):
    monkeypatch.setenv("HOME", str(tmp_path))
    make_case("lenet").reference.save_pretrained(tmp_path / "net")
    assert open_checkpoint("~/net").config["model_type"] == "neumeta_lenet"
