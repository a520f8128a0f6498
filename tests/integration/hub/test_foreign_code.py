"""Nothing that a checkpoint names runs, nothing asks on the terminal, and no name of code or place travels on."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoModel, ResNetForImageClassification

from neumeta_hf import NeuMetaForImageClassification, NeuMetaModel, prepare
from neumeta_hf.checkpoints import DIGEST_FILE
from neumeta_hf.cli import main
from neumeta_hf.errors import CheckpointError, NeuMetaError
from neumeta_hf.targets import build_image_processor, load_image_processor, load_network
from neumeta_hf.tasks.generation import ClassifierFeatures

ORG = "org/family"


class Payload:
    """A module that says when it runs, in the place of anything that a checkpoint can name."""

    def __init__(self, marker: Path):
        self.marker = marker

    def put(self, folder: Path) -> None:
        for name in ("modeling_evil", "configuration_evil", "configuration_neumeta", "modeling_neumeta"):
            (folder / f"{name}.py").write_text(f"open({str(self.marker)!r}, 'w').write('ran')\n")

    def name_in(self, path: Path, *, nested: str | None = None) -> None:
        values = json.loads(path.read_text())
        names = {
            "auto_map": {
                "AutoConfig": "configuration_evil.Evil",
                "AutoModel": "modeling_evil.Evil",
                "AutoModelForImageClassification": "modeling_evil.Evil",
                "AutoImageProcessor": "modeling_evil.Evil",
            },
            "custom_pipelines": {"evil": {"impl": "modeling_evil.Evil", "pt": ["AutoModel"]}},
            "_name_or_path": "/home/somebody/secret",
        }
        (values if nested is None else values[nested]).update(names)
        path.write_text(json.dumps(values))


@pytest.fixture
def payload(tmp_path, monkeypatch):
    """The payload; somebody sits at the terminal who says yes to everything."""
    asked = []
    monkeypatch.setattr("builtins.input", lambda *prompt: asked.append(prompt) or "y")
    payload = Payload(tmp_path / "ran")
    yield payload
    assert asked == []
    assert not payload.marker.exists()


@pytest.fixture
def run(payload, run_folder, make_case):
    """A run by somebody hostile: every config in it names code."""
    make_case("lenet").reference.save_pretrained(run_folder / "reference")
    for folder in (run_folder, run_folder / "reference"):
        payload.put(folder)
        payload.name_in(folder / "config.json")
    payload.name_in(run_folder / "config.json", nested="target_config")
    payload.name_in(run_folder / "preprocessor_config.json")
    return run_folder


def traces(folder: Path) -> list[str]:
    """Files of a folder that name code or the place that something came from."""
    words = ("evil", "auto_map", "custom_pipelines", "somebody", str(folder.parent))
    texts = {path: path.read_text() for path in folder.rglob("*.json")}
    return [f"{path.name}: {word}" for path, text in texts.items() for word in words if word in text]


@pytest.mark.parametrize("command", ["info", "morph", "prepare"])
def test_commands_run_no_code_and_write_none(run, command, tmp_path, capsys):
    output = tmp_path / "out"
    arguments = {"info": [], "morph": ["--width", "0.5", "--output"], "prepare": ["--output"]}[command]
    source = run / "reference" if command == "prepare" else run
    assert main([command, str(source), *arguments, *([str(output)] if arguments else [])]) == 0
    if arguments:
        assert traces(output) == []
        assert not list(output.glob("*.py"))
    assert "names code of its own" in capsys.readouterr().err


@pytest.mark.parametrize("load", [NeuMetaModel.from_pretrained, AutoModel.from_pretrained])
def test_a_family_is_saved_without_what_it_named(run, load, tmp_path):
    family = load(run)
    assert isinstance(family, NeuMetaModel)
    family.save_pretrained(tmp_path / "again")
    assert traces(tmp_path / "again") == []
    assert NeuMetaModel.from_pretrained(tmp_path / "again").config.weights_digest == family.config.weights_digest


def test_what_is_pushed_names_neither_code_nor_place(run, hub):
    family = NeuMetaForImageClassification.from_pretrained(run)
    family.push_to_hub(ORG)
    family.morph(0.5).push_to_hub("org/half")
    for repo in (ORG, "org/half"):
        for name, data in hub.files(repo).items():
            if name.endswith((".json", ".yaml", ".md")):
                assert b"evil" not in data, name
                assert b"auto_map" not in data, name
                assert str(run.parent).encode() not in data, name
                assert b"somebody" not in data, name


def test_a_pulled_family_runs_no_code(run, hub):
    hub.put(ORG, {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()})
    assert main(["info", ORG]) == 0
    assert NeuMetaModel.from_pretrained(ORG, trust_remote_code=True).morph(0.5) is not None


def test_our_own_code_travels_when_it_is_asked_for_alone(hub, run_folder, tmp_path):
    NeuMetaForImageClassification.from_pretrained(run_folder).push_to_hub(ORG, with_code=True)
    assert b"auto_map" in hub.files(ORG)["config.json"]
    pulled = NeuMetaForImageClassification.from_pretrained(ORG)
    pulled.save_pretrained(tmp_path / "again")
    assert traces(tmp_path / "again") == []
    pulled.push_to_hub("org/again")
    assert b"auto_map" not in hub.files("org/again")["config.json"]


@pytest.mark.parametrize("command", ["info", "prepare"])
def test_what_needs_code_is_refused_and_says_which(payload, tmp_path, command, capsys):
    folder = tmp_path / "evil"
    folder.mkdir()
    payload.put(folder)
    (folder / "config.json").write_text('{"model_type": "evil"}')
    payload.name_in(folder / "config.json")
    assert main([command, str(folder), *(["--output", str(tmp_path / "out")] if command == "prepare" else [])]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "of model type 'evil'" in said
    if command == "prepare":
        assert "modeling_evil.Evil" in said
        assert "--import" in said


def test_a_processor_that_names_code_is_read_without_it(run):
    assert type(load_image_processor(str(run))).__module__.startswith("neumeta_hf.")


def test_a_processor_of_a_kind_of_its_own_is_refused(payload, make_case, tmp_path):
    make_case("lenet").reference.save_pretrained(tmp_path / "net")
    build_image_processor(num_channels=3, image_size=8, mean=[0] * 3, std=[1] * 3).save_pretrained(tmp_path / "net")
    path = tmp_path / "net" / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "image_processor_type": "Evil"}))
    payload.put(tmp_path / "net")
    payload.name_in(path)
    with contextlib.suppress(NeuMetaError):
        load_image_processor(str(tmp_path / "net"))  # by the config of its network instead


def test_features_that_a_recipe_names_run_no_code(run):
    shutil.copyfile(run / "preprocessor_config.json", run / "reference" / "preprocessor_config.json")
    features = ClassifierFeatures(str(run / "reference"))
    assert type(features.classifier).__module__.startswith("neumeta_hf.")


def test_references_and_prepared_networks_forget_their_folder(make_case, tmp_path):
    folder = tmp_path / "secret place"
    make_case("resnet", "keep").reference.save_pretrained(folder)
    for network in (ResNetForImageClassification.from_pretrained(folder), load_network(str(folder))):
        prepared, _ = prepare(network.eval(), normalization="keep", order="identity")
        family = NeuMetaForImageClassification.from_reference(
            prepared, normalization="keep", trained_widths=[0.5, 1.0], hypernetwork={"type": "grid"}
        )
        for saved in (prepared, family, family.morph(1.0, calibration=[make_case("resnet").images()])):
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
            saved.save_pretrained(tmp_path / "out")
            assert "secret place" not in (tmp_path / "out" / "config.json").read_text()


@pytest.mark.parametrize("name", ["upernet", "autoencoder_kl", "mlp_vae"])
def test_networks_of_other_tasks_forget_it_too(networks, name, tmp_path):
    folder = tmp_path / "secret place"
    networks[name].save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text())
    values |= {"auto_map": {"AutoModel": "evil.Model"}, "_name_or_path": str(folder)}
    if name == "upernet":
        values["backbone_config"] |= {"_name_or_path": str(folder), "auto_map": {"AutoBackbone": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(values))
    loaded = load_network(str(folder))
    theirs = type(loaded).from_pretrained(folder)  # without this package
    for network in (loaded, prepare(theirs.eval(), normalization="keep", order="identity")[0]):
        network.save_pretrained(tmp_path / "out")
        text = (tmp_path / "out" / "config.json").read_text()
        assert "secret" not in text
        assert "evil" not in text


HOOKS = {
    "attention from a repo": {"attn_implementation": "org/kernel"},
    "attention from a repo, by its inner name": {"_attn_implementation": "org/kernel"},
    "experts from a repo": {"experts_implementation": "org/kernel"},
    "other weights": {"transformers_weights": "other.safetensors"},
    "another config": {"configuration_files": ["config.99.json"]},
    "patches": {"fusion_config": {"patch_embeddings": True}},
}


@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_of_transformers_are_passed_over(payload, make_case, tmp_path, hook):
    folder = tmp_path / "net"
    case = make_case("resnet", "keep")
    case.reference.save_pretrained(folder)
    shutil.copyfile(folder / "model.safetensors", folder / "other.safetensors")
    (folder / "config.99.json").write_text('{"model_type": "evil"}')
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **HOOKS[hook]}))
    load_network(str(folder)).save_pretrained(tmp_path / "out")
    text = (tmp_path / "out" / "config.json").read_text()
    assert all(key not in text for key in HOOKS[hook])


def test_what_lies_beside_the_weights_is_not_looked_at(make_case, tmp_path):
    """Adapters, shards of another layout, a pipeline: transformers would take them for the weights."""
    folder = tmp_path / "family"
    family = make_case("lenet").family()
    family.save_pretrained(folder)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/evil", "peft_type": "LORA"}')
    (folder / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"evil")
    (folder / "generation_config.json").write_text("[")
    (folder / "pytorch_model.bin").write_bytes(b"evil")
    assert NeuMetaModel.from_pretrained(folder).config.weights_digest == family.config.weights_digest


def test_quantised_weights_are_no_plain_ones(make_case, tmp_path):
    make_case("resnet", "keep").reference.save_pretrained(tmp_path / "net")
    path = tmp_path / "net" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(CheckpointError, match="quantised"):
        load_network(str(tmp_path / "net"))


def test_a_checksum_goes_with_what_is_written_on_this_machine(run_folder, tmp_path):
    assert main(["morph", str(run_folder), "--output", str(tmp_path / "half")]) == 0
    assert (tmp_path / "half" / DIGEST_FILE).is_file()
    load_network(str(tmp_path / "half"))
