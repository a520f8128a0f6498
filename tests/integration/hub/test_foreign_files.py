"""Links in a folder of somebody else lead nowhere else: nothing that they point to is read, uploaded or copied."""

import json
import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from neumeta_hf import NeuMetaForImageClassification, NeuMetaModel
from neumeta_hf.checkpoints import save_network
from neumeta_hf.cli import main
from neumeta_hf.errors import CheckpointError
from neumeta_hf.targets import find_target, load_image_processor, load_network
from neumeta_hf.training import load_recipe, train

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"


def elsewhere(path: Path) -> None:
    """Move a file out of its folder, and put a link to it in its place."""
    target = path.parent.parent / "private" / path.name
    target.parent.mkdir(exist_ok=True)
    path.rename(target)
    path.symlink_to(target)


def refused(capsys, *arguments) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_a_family_with_a_link_out_of_its_folder_is_refused(run_folder, name, capsys):
    elsewhere(run_folder / name)
    said = refused(capsys, "info", run_folder)
    assert f"run/{name} is a link to" in said
    assert f"private/{name}" in said


@pytest.mark.parametrize("name", ["config.json", WEIGHTS, "weights_digest.json"])
def test_a_plain_network_with_one_is_refused(make_case, tmp_path, name):
    folder = tmp_path / "net"
    make_case("lenet").reference.save_pretrained(folder)
    (folder / "weights_digest.json").write_text("{}")
    elsewhere(folder / name)
    with pytest.raises(CheckpointError, match=rf"net/{name} is a link to .*private/{name}"):
        load_network(str(folder))


@pytest.mark.parametrize("name", [INDEX, "model-00001-of-00002.safetensors"])
def test_an_index_or_a_shard_that_is_one_is_refused(make_case, tmp_path, name):
    folder = tmp_path / "net"
    make_case("lenet").reference.save_pretrained(folder, max_shard_size="2KB")
    if not (folder / name).exists():
        name = min(path.name for path in folder.glob("model-*.safetensors"))
    elsewhere(folder / name)
    with pytest.raises(CheckpointError, match=rf"net/{name} is a link to .*private/{name}"):
        load_network(str(folder))


@pytest.mark.parametrize(
    "name", ["recipe.yaml", "training.json", "sweep.json", "sweep.png", "preprocessor_config.json"]
)
def test_nothing_that_a_link_points_to_is_pushed(hub, run_folder, name, capsys):
    elsewhere(run_folder / name)
    family = NeuMetaForImageClassification.from_pretrained(run_folder)
    with pytest.raises(CheckpointError, match=rf"run/{name} is a link to .*private/{name}"):
        family.push_to_hub("org/family")
    if name in ("sweep.json", "preprocessor_config.json"):
        with pytest.raises(CheckpointError, match=name):
            family.morph(0.5).push_to_hub("org/half")
    assert not hub.repos


def test_nothing_that_a_link_points_to_is_copied_to_a_morph(run_folder, tmp_path, capsys):
    private = tmp_path / "private.json"
    private.write_text('{"secret": "12345"}')
    (run_folder / "preprocessor_config.json").unlink()
    (run_folder / "preprocessor_config.json").symlink_to(private)
    assert main(["morph", str(run_folder), "--output", str(tmp_path / "half")]) == 0
    assert "is a link to" in capsys.readouterr().err
    assert not (tmp_path / "half" / "preprocessor_config.json").exists()


@pytest.mark.parametrize("name", ["recipe.yaml", "reference"])
def test_evaluate_follows_no_link_of_the_run(run_folder, make_case, name, capsys):
    make_case("lenet").reference.save_pretrained(run_folder / "reference")
    elsewhere(run_folder / name)
    assert f"run/{name} is a link to" in refused(capsys, "-q", "evaluate", run_folder, "--dataset", "digits")


def test_a_run_is_not_taken_up_through_links(run_folder):
    (run_folder / "recipe.yaml").write_text(f"output_dir: {run_folder}\n")
    elsewhere(run_folder / "recipe.yaml")
    recipe = load_recipe(run_folder.parent / "private" / "recipe.yaml")  # which the user names: theirs to link
    with pytest.raises(CheckpointError, match="recipe.yaml is a link to"):
        train(recipe, resume=True)


def test_a_processor_that_is_a_link_is_not_read(run_folder):
    elsewhere(run_folder / "preprocessor_config.json")
    with pytest.raises(CheckpointError, match="preprocessor_config.json is a link to"):
        load_image_processor(str(run_folder))


def test_what_would_never_end_is_refused(run_folder, capsys):
    for name in ("training.json", "config.json"):
        (run_folder / name).unlink()
        os.mkfifo(run_folder / name)
        assert "no regular file" in refused(
            capsys,
            "push" if name == "training.json" else "info",
            run_folder,
            *(["org/family"] if name == "training.json" else []),
        )


def test_links_that_stay_inside_and_the_hubs_cache_are_read(hub, run_folder, tmp_path):
    family = NeuMetaForImageClassification.from_pretrained(run_folder)
    (tmp_path / "link").symlink_to(run_folder)
    (run_folder / WEIGHTS).rename(run_folder / "weights.bytes")
    (run_folder / WEIGHTS).symlink_to("weights.bytes")
    assert NeuMetaModel.from_pretrained(tmp_path / "link").config.weights_digest == family.config.weights_digest

    family.push_to_hub("org/family")
    NeuMetaModel.from_pretrained("org/family", cache_dir=tmp_path / "cache")
    (snapshot,) = (tmp_path / "cache").glob("models--org--family/snapshots/*")
    assert (snapshot / WEIGHTS).is_symlink()
    pulled = NeuMetaForImageClassification.from_pretrained(snapshot)
    assert pulled.config.weights_digest == family.config.weights_digest


def test_plain_networks_of_the_hub_have_the_same_guards(hub, make_case, tmp_path):
    save_network(make_case("lenet").reference, tmp_path / "net")
    files = {path.name: path.read_bytes() for path in (tmp_path / "net").iterdir()}
    hub.put("org/net", files)
    load_network("org/net")
    hub.put("org/changed", {**files, WEIGHTS: files[WEIGHTS][:-1] + bytes([files[WEIGHTS][-1] ^ 1])})
    with pytest.raises(CheckpointError, match="weights_digest.json"):
        load_network("org/changed")
    config = {"config.json": files["config.json"]}
    hub.put("org/pickles", {**config, "pytorch_model.bin": b"evil"})
    with pytest.raises(CheckpointError, match="no file named model.safetensors"):
        load_network("org/pickles")
    assert not [request for request in hub.requests if request.path.endswith(".bin")]
    hub.put("org/hostile", {**config, INDEX: b'{"weight_map": {"conv1.weight": "../../a.safetensors"}}'})
    with pytest.raises(CheckpointError, match="index.json names"):
        load_network("org/hostile")
    hub.put("org/pipeline", {"model_index.json": b"{}"})
    with pytest.raises(CheckpointError, match="pipeline"):
        load_network("org/pipeline")


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/outside.safetensors", "below/a.safetensors", "..", "a\\b.safetensors", "a.bin"]
)
def test_an_index_of_a_plain_network_stays_in_its_folder(make_case, tmp_path, name):
    folder = tmp_path / "net"
    make_case("lenet").reference.save_pretrained(folder)
    keys = list(load_file(folder / WEIGHTS))
    shutil.move(folder / WEIGHTS, tmp_path / "outside.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(keys, name)}))
    with pytest.raises(CheckpointError, match="index.json names"):
        load_network(str(folder))


@pytest.mark.parametrize("name", ["autoencoder_kl", "mlp_vae"])
def test_networks_of_diffusers_have_the_same_guards(networks, tmp_path, name):
    folder = tmp_path / "net"
    networks[name].save_pretrained(folder)
    weights = folder / "diffusion_pytorch_model.safetensors"
    family = next(find_target(kind) for kind in (name,))
    family.load(str(folder))
    key = next(iter(load_file(weights)))
    save_file({**load_file(weights), key: load_file(weights)[key] * float("nan")}, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="holds NaN"):
        family.load(str(folder))
    elsewhere(weights)
    with pytest.raises(CheckpointError, match="is a link to"):
        family.load(str(folder))
    weights.unlink()
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"evil")
    with pytest.raises(CheckpointError, match="pickled weights"):
        family.load(str(folder))
