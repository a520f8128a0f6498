"""Families and morphs on a Hub, with the real client."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from transformers import AutoModel, AutoModelForImageClassification, pipeline

from neumeta_hf import DataConfig, NeuMetaForImageClassification, NeuMetaModel, train
from neumeta_hf.cli import main
from neumeta_hf.errors import CardError, CheckpointError, HubError, MissingCheckpointError
from neumeta_hf.hub import save_morph
from neumeta_hf.targets import build_image_processor
from neumeta_hf.training.recipe import FamilyRecipe, LoopRecipe, Recipe, TargetRecipe, recipe_from_dict

RUN_FILES = {"preprocessor_config.json", "recipe.yaml", "training.json", "sweep.json", "sweep.png"}
FAMILY_FILES = {"README.md", "config.json", "model.safetensors"}


def commits(hub, repo_id, **options):
    """Commits that somebody made, the newest first."""
    return hub.commits(repo_id, **options)[:-1]


def load(folder) -> NeuMetaForImageClassification:
    return NeuMetaForImageClassification.from_pretrained(folder)


def make_processor(num_channels, image_size):
    mean = [0.5] * num_channels
    return build_image_processor(num_channels=num_channels, image_size=image_size, mean=mean, std=mean)


def same_weights(one, other):
    tensors = other.state_dict()
    return all(torch.equal(tensor, tensors[name]) for name, tensor in one.state_dict().items())


def test_a_family_goes_up_as_one_commit_and_comes_back_to_the_bit(hub, run_folder):
    family = load(run_folder)
    address = family.push_to_hub("org/family", license="apache-2.0")
    assert len(commits(hub, "org/family")) == 1
    assert address.startswith(hub.endpoint + "/org/family/commit/")
    assert set(hub.files("org/family")) - {".gitattributes"} == FAMILY_FILES | RUN_FILES
    pulled = NeuMetaModel.from_pretrained("org/family")
    assert same_weights(pulled.morph(0.5), family.morph(0.5))
    assert isinstance(AutoModel.from_pretrained("org/family"), NeuMetaModel)
    assert isinstance(AutoModelForImageClassification.from_pretrained("org/family"), NeuMetaForImageClassification)


def test_an_unchanged_family_makes_no_commit(hub, run_folder):
    for _ in range(2):
        load(run_folder).push_to_hub("org/family")
    assert len(commits(hub, "org/family")) == 1


def test_a_family_that_is_pushed_twice_keeps_what_its_run_left(hub, run_folder):
    family = load(run_folder)
    family.push_to_hub("org/family")
    before = hub.files("org/family")
    family.push_to_hub("org/family")
    assert hub.files("org/family") == before
    assert len(commits(hub, "org/family")) == 1


def test_a_pulled_family_is_pushed_with_all_that_was_pulled(hub, run_folder):
    load(run_folder).push_to_hub("org/family", license="mit")
    load("org/family").push_to_hub("new/family", license="mit")
    old, new = hub.files("org/family"), hub.files("new/family")
    assert new.pop("README.md").replace(b"new/family", b"org/family") == old.pop("README.md")
    assert new == old


def test_a_pulled_family_has_the_facts_of_its_own_commit(hub, run_folder):
    load(run_folder).push_to_hub("org/family")
    pulled, old = load("org/family"), hub.files("org/family")["sweep.json"]
    hub.put("org/family", {"sweep.json": old.replace(b"0.9125", b"0.1111")})
    pulled.push_to_hub("new/family")
    assert hub.files("new/family")["sweep.json"] == old
    load("org/family").push_to_hub("new/family")
    assert b"0.1111" in hub.files("new/family")["sweep.json"]


def test_a_family_in_a_folder_of_its_repo_is_pushed_with_its_run(hub, run_folder, tmp_path):
    files = {f"small/{path.name}": path.read_bytes() for path in run_folder.iterdir() if path.is_file()}
    hub.put("org/many", files)
    pulled = NeuMetaModel.from_pretrained("org/many", subfolder="small", cache_dir=tmp_path / "mine")
    pulled.push_to_hub("new/family")
    assert set(hub.files("new/family")) - {".gitattributes"} == FAMILY_FILES | RUN_FILES


def test_the_recipe_names_no_folder_and_can_be_read(hub, run_folder):
    load(run_folder).push_to_hub("org/family")
    text = hub.files("org/family")["recipe.yaml"].decode()
    assert "somebody" not in text
    recipe = recipe_from_dict(yaml.safe_load(text))
    assert (recipe.seed, recipe.data.dataset, recipe.target.checkpoint) == (3, "mnist", "org/teacher")


def name_a_secret_folder_everywhere(folder):
    """Let every file of a run name folders of a machine, as its writer's tools may have written them."""
    paths = [
        "/home/secret-person/secret/x",
        "/srv/secret/my secret folder/x",
        "C:\\Users\\secret-person\\secret\\x",
        "\\\\secret-server\\secret\\x",
        "file:///srv/secret/x",
        "~/secret/x",
        "$HOME/secret/x",
        "../../secret/x",
    ]
    command = "neumeta train --config /srv/secret/r.yaml --set data.dataset=C:\\secret\\mnist"
    for name in ("training.json", "sweep.json", "preprocessor_config.json"):
        values = json.loads((folder / name).read_text())
        facts = values.get("environment", values.get("facts", values))
        facts |= {"notes": paths, paths[0]: {"deep": paths}, "command": command, "checkpoint": paths[1]}
        (folder / name).write_text(json.dumps(values))
    with_sweep(folder, dataset=paths[2], device=paths[3], date=paths[4])
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["data"] |= {"dataset": paths[2], "train_split": paths[5], "label_names": paths}
    recipe["target"] |= {"checkpoint": paths[1], "config": {path: path for path in paths}}
    recipe["task"] = {"features": paths[6], "command": command}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "output_dir": paths[0]}))
    rows = "".join(f'0.5,"{path}"\r\n' for path in paths)
    (folder / "sweep.csv").write_text(f"width,checkpoint\r\n{rows}")


def test_nothing_that_is_pushed_or_saved_names_a_folder(hub, run_folder, tmp_path):
    name_a_secret_folder_everywhere(run_folder)
    family = load(run_folder)
    family.push_to_hub("org/family")
    family.morph(0.5).push_to_hub("org/half")
    assert main(["morph", str(run_folder), "--width", "0.5", "--output", str(tmp_path / "half")]) == 0
    pushed = {f"{repo}/{name}": data for repo in ("org/family", "org/half") for name, data in hub.files(repo).items()}
    saved = {f"half/{path.name}": path.read_bytes() for path in (tmp_path / "half").iterdir()}
    assert {"recipe.yaml", "training.json", "sweep.json", "sweep.csv"} <= set(hub.files("org/family"))
    assert [name for name, data in {**pushed, **saved}.items() if b"secret" in data] == []


def test_what_needed_no_change_is_pushed_to_the_byte(hub, run_folder):
    names = ("training.json", "sweep.json", "preprocessor_config.json")
    for name in names[:2]:
        text = json.dumps(json.loads((run_folder / name).read_text()), indent=1)
        (run_folder / name).write_text(text + "\n")  # as a run writes it
    (run_folder / "sweep.csv").write_bytes(b'width,accuracy\r\n"conv1=0.5,conv2=1",0.5\r\n')
    load(run_folder).push_to_hub("org/family")
    for name in (*names, "sweep.csv", "sweep.png"):
        assert hub.files("org/family")[name] == (run_folder / name).read_bytes(), name


HOSTILE = "x | `y`\n\n# Owned\n\n</details><script>alert(1)</script>![](https://evil.example)\n<!-- neumeta: end -->\n"


def test_run_files_cannot_write_into_a_card(hub, run_folder):
    load(run_folder).push_to_hub("org/plain")
    score = {"name": "accuracy", "label": HOSTILE[:100], "is_ratio": True}
    with_sweep(run_folder, dataset=HOSTILE, split=HOSTILE, device=HOSTILE, date=HOSTILE, score=score)
    training = json.loads((run_folder / "training.json").read_text())
    training["environment"] |= {"device": HOSTILE, "date": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    (run_folder / "training.json").write_text(json.dumps(training))
    recipe = yaml.safe_load((run_folder / "recipe.yaml").read_text())
    recipe["target"]["config"] = {HOSTILE: [HOSTILE]}
    (run_folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    family = load(run_folder)
    hub.put("org/family", {"README.md": hub.files("org/plain")["README.md"] + b"\nBy hand.\n"})
    for _ in range(2):
        family.push_to_hub("org/family")
        family.morph(0.5).push_to_hub("org/half")
        for repo in ("org/family", "org/half"):
            _, card = front_matter(hub, repo)
            lines = card.splitlines()
            assert "# Owned" not in lines
            assert lines.count("</details>") == (repo == "org/family")
            assert "\n<script>" not in card
            assert card.count("<!-- neumeta: end -->") == 1
        assert hub.files("org/family")["README.md"].endswith(b"<!-- neumeta: end -->\n\nBy hand.\n")


def test_a_run_is_named_once(hub, make_case, run_folder):
    family = make_case("lenet").family()
    family.push_to_hub("org/family", run=run_folder)
    before = hub.files("org/family")
    family.push_to_hub("org/family")
    assert hub.files("org/family") == before
    with pytest.raises(MissingCheckpointError, match="run=nowhere is no folder: give the output folder"):
        family.push_to_hub("org/family", run="nowhere")


def test_other_weights_do_not_keep_the_facts_of_the_old_ones(hub, make_case, run_folder):
    load(run_folder).push_to_hub("org/family")
    make_case("lenet").family(hypernetwork={"type": "grid"}).push_to_hub("org/family")
    files = hub.files("org/family")
    assert "was not measured" in files["README.md"].decode()
    assert not set(files) & (RUN_FILES - {"preprocessor_config.json"})


def test_a_family_without_a_run_goes_up_too(hub, make_case):
    family = make_case("lenet").family()
    family.push_to_hub("org/plain", image_processor=make_processor(1, 28))
    assert set(hub.files("org/plain")) - {".gitattributes"} == FAMILY_FILES | {"preprocessor_config.json"}
    assert "was not measured" in hub.files("org/plain")["README.md"].decode()


def test_shards_branches_and_pull_requests(hub, run_folder):
    family = load(run_folder)
    family.push_to_hub("org/family", revision="small-shards", max_shard_size="20KB")
    files = hub.files("org/family", "small-shards")
    assert "model.safetensors.index.json" in files
    assert sum(name.endswith(".safetensors") for name in files) > 1
    assert not set(hub.files("org/family")) & FAMILY_FILES
    assert same_weights(NeuMetaModel.from_pretrained("org/family", revision="small-shards"), family)
    family.push_to_hub("org/family", create_pr=True)
    assert "config.json" not in hub.files("org/family")
    assert "config.json" in hub.files("org/family", "refs/pr/1")


def test_an_older_commit_can_be_pulled(hub, run_folder):
    family = load(run_folder)
    family.push_to_hub("org/family")
    first = commits(hub, "org/family")[0]
    with torch.no_grad():
        next(family.hypernetwork.parameters()).add_(1)
    family.push_to_hub("org/family")
    old = NeuMetaModel.from_pretrained("org/family", revision=getattr(first, "sha", first))
    assert same_weights(old, load(run_folder))
    assert not same_weights(old, NeuMetaModel.from_pretrained("org/family"))


def test_pull_and_morph_cost_one_request_per_file_and_nothing_else(hub, run_folder):
    load(run_folder).push_to_hub("org/family")
    hub.requests.clear()
    NeuMetaModel.from_pretrained("org/family").morph(0.5)
    # One short question first: whether the Hub is there at all, and has a repo of that name.
    for method, questions in (("HEAD", ["config.json"]), ("GET", [])):
        asked = [request.path.rpartition("/")[2] for request in hub.requests.matching(method, "/resolve/")]
        assert sorted(asked) == [*questions, "config.json", "model.safetensors"], method
    hub.requests.clear()
    NeuMetaModel.from_pretrained("org/family").morph(0.25 + 0.25)
    assert not hub.requests.matching("GET", "/resolve/")  # warm: all from the cache


def test_a_family_may_lie_in_a_folder_of_its_repo_and_in_a_cache_of_ones_own(hub, run_folder, tmp_path):
    family = load(run_folder)
    files = {f"small/{path.name}": path.read_bytes() for path in run_folder.iterdir() if path.is_file()}
    hub.put("org/many", files)
    pulled = NeuMetaModel.from_pretrained("org/many", subfolder="small", cache_dir=tmp_path / "mine")
    assert same_weights(pulled, family)
    assert list((tmp_path / "mine").glob("models--org--many/snapshots/*/small/model.safetensors"))
    with pytest.raises(OSError, match="org/many cannot be loaded"):
        NeuMetaModel.from_pretrained("org/many", local_files_only=True)  # the usual cache has never seen it


def test_a_data_set_is_pushed_and_trained_from_by_its_id(hub, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)) for _ in range(48)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = datasets.Dataset.from_dict({"image": images, "label": [0, 1] * 24}, features=features)
    datasets.DatasetDict({"train": rows, "test": rows}).push_to_hub("org/dots")
    recipe = Recipe(output_dir=str(tmp_path / "run"))
    recipe.data = DataConfig(dataset="org/dots", image_size=8, num_channels=1, mean=[0.5], std=[0.5])
    recipe.target = TargetRecipe(family="lenet", config={"hidden_channels": [4, 4, 4], "kernel_size": 3})
    recipe.pretrain = LoopRecipe(epochs=1, batch_size=8)
    recipe.family = FamilyRecipe(hypernetwork={"type": "grid"})
    recipe.train = LoopRecipe(epochs=1, batch_size=8)
    output = train(recipe)
    assert output is not None
    load(output).push_to_hub("org/dots-family")
    front, _ = front_matter(hub, "org/dots-family")
    assert front["datasets"] == ["org/dots"]


def test_the_hub_s_own_command_shows_a_family(hub, hub_environment, run_folder):
    load(run_folder).push_to_hub("org/family", license="mit")
    command = [Path(sys.executable).with_name("hf"), "models", "info", "org/family", "--format", "json"]
    result = subprocess.run(command, env=hub_environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    shown = json.loads(result.stdout)
    assert shown["id"] == "org/family"
    assert "model.safetensors" in result.stdout


def test_a_pulled_family_morphs_without_a_server(hub, run_folder):
    family = load(run_folder)
    family.push_to_hub("org/family")
    NeuMetaModel.from_pretrained("org/family")
    hub.stop()
    assert same_weights(NeuMetaModel.from_pretrained("org/family").morph(0.5), family.morph(0.5))


def test_a_private_family_needs_a_token(hub, run_folder, monkeypatch, hf_home):
    load(run_folder).push_to_hub("org/secret", private=True, token=hub.token)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(OSError, match="org/secret"):
        NeuMetaModel.from_pretrained("org/secret")
    assert NeuMetaModel.from_pretrained("org/secret", token=hub.token).width_groups
    with pytest.raises(HubError, match="pushing to org/secret: .*hf auth login"):
        load(run_folder).push_to_hub("org/secret")


@pytest.mark.parametrize("hub", [{"cdn": True}], indirect=True)
def test_weights_come_from_another_origin(hub, run_folder):
    family = load(run_folder)
    family.push_to_hub("org/family")
    assert same_weights(NeuMetaModel.from_pretrained("org/family"), family)
    on_cdn = [request for request in hub.requests if request.on_cdn]
    assert on_cdn
    assert not [request for request in on_cdn if "authorization" in request.headers]


# ---------------------------------------------------------------------------------------------------- cards


def front_matter(hub, repo_id):
    card = hub.files(repo_id)["README.md"].decode()
    return yaml.safe_load(card.split("---")[1]), card


def test_the_card_tells_of_the_run(hub, run_folder):
    load(run_folder).push_to_hub("org/family", license="mit", tags=["mine"])
    front, card = front_matter(hub, "org/family")
    assert front["library_name"] == "neumeta_hf"
    assert front["license"] == "mit"
    assert front["base_model"] == "org/teacher"
    assert front["pipeline_tag"] == "image-classification"
    assert {"neumeta", "lenet", "mine"} <= set(front["tags"])
    assert "datasets" not in front  # a folder of this machine is no data set on the Hub
    (entry,) = front["model-index"]
    results = [result["metrics"] for result in entry["results"]]
    named = {metric["name"]: metric["value"] for metrics in results for metric in metrics}
    assert named["accuracy at width 0.5 (trained)"] == 0.9125
    assert named["accuracy at width 0.75 (never trained)"] == 0.95
    assert named["accuracy at width 0.25 (outside the trained range)"] == 0.5
    assert "| 0.5 | trained | 91.25% | 1,000 | 2,000 | 25.0% |" in card
    assert "300 images of the test split of mnist" in card
    assert "![Accuracy against parameters of the whole network](sweep.png)" in card
    assert 'NeuMetaModel.from_pretrained("org/family").morph(width=0.5)' in card
    assert "Seed 3, on cpu (2 cores), 2026-01-02, 61 seconds of training steps; torch 2.13.0." in card
    assert "dataset: mnist" in card
    assert "somebody" not in card
    assert ModelCard(card).data.eval_results  # the client reads it back
    assert hub.requests.matching("POST", "/api/validate-yaml")


def test_what_somebody_wrote_into_a_card_stays(hub, run_folder):
    load(run_folder).push_to_hub("org/family", license="mit")
    _, card = front_matter(hub, "org/family")
    edited = card.replace("license: mit", "license: cc-by-4.0\nmine: 7").replace("# family", "# My family\n\nBy hand.")
    edited = edited.replace("| 0.5 | trained | 91.25% |", "| 0.5 | trained | 12.34% |") + "\nThe end, by hand.\n"
    hub.put("org/family", {"README.md": edited.encode()})
    load(run_folder).push_to_hub("org/family")
    front, merged = front_matter(hub, "org/family")
    assert (front["license"], front["mine"]) == ("cc-by-4.0", 7)
    assert "# My family\n\nBy hand." in merged
    assert merged.endswith("\nThe end, by hand.\n")
    assert "12.34%" not in merged
    load(run_folder).push_to_hub("org/family", license="mit", overwrite_card=True)
    front, fresh = front_matter(hub, "org/family")
    assert front["license"] == "mit"
    assert "By hand." not in fresh


def test_a_licence_that_is_named_holds_and_no_other_takes_its_place(hub, run_folder):
    family = load(run_folder)
    for license, expected in ((None, "unknown"), ("mit", "mit"), (None, "mit"), ("apache-2.0", "apache-2.0")):
        family.push_to_hub("org/family", license=license)
        assert front_matter(hub, "org/family")[0]["license"] == expected


def test_tags_are_united(hub, run_folder):
    family = load(run_folder)
    family.push_to_hub("org/family", tags=["first"])
    hub.put(
        "org/family", {"README.md": hub.files("org/family")["README.md"].replace(b"- first\n", b"- first\n- by-hand\n")}
    )
    family.push_to_hub("org/family", tags=["second", "lenet"])
    tags = front_matter(hub, "org/family")[0]["tags"]
    assert {"neumeta", "lenet", "first", "by-hand", "second"} <= set(tags)
    assert len(tags) == len(set(tags))


def test_a_licence_is_not_dropped_beside_a_card_of_ones_own(hub, run_folder):
    family = load(run_folder)
    for card in (b"---\nlicense: mit\n---\n# Mine\n", b"# Mine\n"):
        hub.put("org/family", {"README.md": card})
        with pytest.raises(CardError, match="the licence 'apache-2.0' was given, but the card on the Hub"):
            family.push_to_hub("org/family", license="apache-2.0")
        assert hub.files("org/family") == {"README.md": card}
    hub.put("org/family", {"README.md": b"---\nlicense: mit\n---\n# Mine\n"})
    family.push_to_hub("org/family", license="mit")
    assert hub.files("org/family")["README.md"] == b"---\nlicense: mit\n---\n# Mine\n"


def test_a_card_of_ones_own_stays_whole(hub, run_folder):
    hub.put("org/family", {"README.md": b"---\nlicense: mit\n---\n# Mine\n"})
    load(run_folder).push_to_hub("org/family")
    assert hub.files("org/family")["README.md"] == b"---\nlicense: mit\n---\n# Mine\n"
    assert "config.json" in hub.files("org/family")


def test_the_card_that_was_edited_a_moment_ago_is_the_one_that_is_merged(hub, run_folder):
    load(run_folder).push_to_hub("org/family")
    hub.put("org/family", {"README.md": hub.files("org/family")["README.md"] + b"\nNew words.\n"})
    load(run_folder).push_to_hub("org/family")
    assert b"New words." in hub.files("org/family")["README.md"]


# ---------------------------------------------------------------------------------------------------- morphs


@pytest.mark.parametrize("target", ["lenet", "resnet"])
def test_a_morph_is_shared_as_an_ordinary_checkpoint(hub, make_case, target):
    case = make_case(target)
    family = case.family()
    family.push_to_hub("org/family", image_processor=make_processor(*case.images().shape[1:3]))
    morph = family.morph(0.5)
    morph.push_to_hub("org/family-w50", license="mit")
    front, card = front_matter(hub, "org/family-w50")
    assert front["base_model"] == "org/family"
    assert front["base_model_relation"] == "finetune"
    assert front["library_name"] == ("transformers" if target == "resnet" else "neumeta_hf")
    assert "at width 0.5, without" in card
    pulled = AutoModelForImageClassification.from_pretrained("org/family-w50")
    assert type(pulled) is type(morph)
    assert same_weights(pulled, morph)
    classify = pipeline("image-classification", model="org/family-w50")
    assert len(classify(picture(case), top_k=2)) == 2


def picture(case):
    channels, size = case.images().shape[1:3]
    return Image.new("RGB" if channels == 3 else "L", (size, size))


def test_a_morph_with_a_width_per_group_says_so(hub, make_case):
    family = make_case("lenet").family()
    family.morph({"conv1": 0.5}).push_to_hub("org/odd")
    front, card = front_matter(hub, "org/odd")
    assert "base_model" not in front  # the family was never saved
    assert "at widths conv1 0.5, conv2 1, conv3 1" in card


def test_a_morph_of_a_measured_size_carries_its_accuracy(hub, run_folder):
    load(run_folder).morph(0.5).push_to_hub("org/half")
    front, card = front_matter(hub, "org/half")
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == 0.9125
    assert "91.25%" in card
    load(run_folder).morph(0.6).push_to_hub("org/other")
    assert "model-index" not in front_matter(hub, "org/other")[0]


def test_a_morph_of_a_pushed_or_pulled_family_carries_its_accuracy_too(hub, run_folder):
    family = load(run_folder)
    family.push_to_hub("org/family")
    for number, source in enumerate((family, load("org/family"))):
        source.morph(0.5).push_to_hub(f"org/half{number}")
        front, card = front_matter(hub, f"org/half{number}")
        assert front["base_model"] == "org/family"
        assert "91.25%" in card
        assert "preprocessor_config.json" in hub.files(f"org/half{number}")


def with_sweep(folder, rows=(), **facts):
    """Change the sweep of a run."""
    sweep = json.loads((folder / "sweep.json").read_text())
    sweep["facts"] |= facts
    sweep["rows"] = [*rows, *sweep["rows"]]
    (folder / "sweep.json").write_text(json.dumps(sweep))


@pytest.mark.parametrize(
    ("measured", "made", "credited"),
    [
        ({}, {}, True),
        ({"seed": 5}, {}, True),  # of no noise
        ({"calibrated": 2048}, {}, False),
        ({}, {"num_samples": 3}, False),
        ({"num_samples": 3, "noise": 1.0}, {}, False),
        ({"num_samples": 3, "noise": 1.0}, {"num_samples": 3}, True),
        ({"num_samples": 3, "noise": 1.0}, {"num_samples": 3, "seed": 1}, False),
        ({"num_samples": 3, "noise": 1.0}, {"num_samples": 3, "noise": 0.5}, False),
        ({"num_samples": 3, "noise": 1.0}, {"num_samples": 4}, False),
    ],
)
def test_a_morph_is_credited_with_what_was_measured_of_it_alone(hub, run_folder, measured, made, credited):
    with_sweep(run_folder, **measured)
    load(run_folder).morph(0.5, **made).push_to_hub("org/half")
    front, card = front_matter(hub, "org/half")
    assert ("model-index" in front) == credited
    assert ("Measured accuracy" in card) == credited


def test_a_morph_that_was_trained_on_is_credited_with_nothing(hub, run_folder, tmp_path):
    morph = load(run_folder).morph(0.5)
    morph.train()
    morph(torch.randn(4, 1, 8, 8), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    torch.optim.SGD(morph.parameters(), lr=0.1).step()
    morph.push_to_hub("org/tuned")
    front, card = front_matter(hub, "org/tuned")
    save_morph(morph, morph.morph_origin, tmp_path / "tuned")
    saved = (tmp_path / "tuned" / "README.md").read_text()
    assert "model-index" not in front
    for text in (card, saved):
        assert "Measured accuracy" not in text
        assert "without retraining" not in text
        assert "at width 0.5 and were changed after that, by training or otherwise." in text


def test_a_sweep_that_does_not_say_how_networks_were_calibrated_credits_none(hub, run_folder):
    sweep = json.loads((run_folder / "sweep.json").read_text())
    del sweep["facts"]["calibrated"]
    (run_folder / "sweep.json").write_text(json.dumps(sweep))
    load(run_folder).morph(0.5).push_to_hub("org/half")
    assert "model-index" not in front_matter(hub, "org/half")[0]


def test_rows_with_a_width_per_group_are_no_uniform_sizes(hub, run_folder):
    row = {**json.loads((run_folder / "sweep.json").read_text())["rows"][0], "width": {"conv1": 0.5}}
    with_sweep(run_folder, rows=[row])
    load(run_folder).morph(0.5).push_to_hub("org/half")
    assert "91.25%" in front_matter(hub, "org/half")[1]


def test_a_card_says_that_scores_are_of_calibrated_statistics(hub, make_case, tmp_path, run_folder):
    case = make_case("lenet_batch_norm", "keep")
    folder = tmp_path / "kept"
    case.family().save_pretrained(folder)
    shutil.copy(run_folder / "sweep.json", folder)
    with_sweep(folder, calibrated=8)
    family = load(folder)
    family.push_to_hub("org/kept")
    assert "of mnist with BatchNorm statistics of 8 images at every size, seed 0" in front_matter(hub, "org/kept")[1]
    own, measured = family.morph(0.5), family.morph(0.5, calibration=[case.images(5), case.images(3)])
    own.push_to_hub("org/own")
    measured.push_to_hub("org/measured")
    assert "91.25%" not in front_matter(hub, "org/own")[1]
    card = front_matter(hub, "org/measured")[1]
    assert "91.25%" in card
    assert "Its BatchNorm statistics were measured on 8 images." in card
    measured.train()(case.images(8))  # moves the statistics alone
    measured.push_to_hub("org/measured")
    front, card = front_matter(hub, "org/measured")
    assert "model-index" not in front
    assert "were measured on 8 images" not in card


def test_a_folder_of_two_parts_is_no_repo(hub, run_folder, monkeypatch):
    monkeypatch.chdir(run_folder.parent.parent)
    load(str(run_folder.relative_to(run_folder.parent.parent))).morph(0.5).push_to_hub("org/half")
    front, card = front_matter(hub, "org/half")
    assert "base_model" not in front
    assert "NeuMeta family `run`" in card


def test_a_morph_keeps_no_trace_in_what_is_saved(run_folder, tmp_path):
    load(run_folder).morph(0.5).save_pretrained(tmp_path / "morph")
    assert sorted(os.listdir(tmp_path / "morph")) == ["config.json", "model.safetensors"]
    assert str(run_folder) not in (tmp_path / "morph" / "config.json").read_text()


# ---------------------------------------------------------------------------------------------------- the command


def test_no_size_is_pushed_before_all_of_them_are_made(hub, run_folder, capsys):
    assert main(["push", str(run_folder), "org/sizes", "--widths", "1.0,0.5,0.001"]) == 2
    assert "smallest possible ratio" in capsys.readouterr().err
    assert not hub.repos


def test_the_command_writes_a_morph_with_its_card(hub, run_folder, capsys):
    load(run_folder).push_to_hub("org/family")
    folder = run_folder.parent
    for source, name in (("org/family", "[org/family](https://huggingface.co/org/family)"), (run_folder, "`run`")):
        output = folder / f"half-{Path(source).name}"
        assert main(["morph", str(source), "--width", "0.5", "--output", str(output)]) == 0
        card = (output / "README.md").read_text()
        assert f"generated by the NeuMeta family {name} at width 0.5, without" in card
        assert "91.25%" in card
        names = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "weights_digest.json"}
        assert set(os.listdir(output)) == names
    assert not [name for name in os.listdir(folder) if name.startswith(".")]


def test_a_family_from_the_cache_morphs_without_a_network(hub, run_folder, capsys):
    load(run_folder).push_to_hub("org/family")
    NeuMetaModel.from_pretrained("org/family")
    hub.stop()
    output = run_folder.parent / "half"
    assert main(["morph", "org/family", "--width", "0.5", "--output", str(output)]) == 0
    assert "reading preprocessor_config.json of org/family: the connection failed" in capsys.readouterr().err
    assert "at width 0.5, without" in (output / "README.md").read_text()


def test_the_command_pushes_a_family_and_sizes_of_it(hub, hub_environment, run_folder):
    command = (
        "import sys; from neumeta_hf.cli import main; "
        "sys.exit(max(main(line.split()) for line in sys.argv[1].splitlines()))"
    )
    lines = "\n".join(
        [
            f"push {run_folder} org/family --license mit",
            "push org/family org/sizes --widths 1.0,0.5",
            "push org/family org/branches --widths 0.5 --as-revisions",
        ]
    )
    result = subprocess.run(
        [sys.executable, "-c", command, lines], env=hub_environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert f"family pushed: {hub.endpoint}/org/family/commit/" in result.stdout
    assert {"org/family", "org/sizes-w100", "org/sizes-w50", "org/branches"} <= set(hub.repos)
    assert "config.json" in hub.files("org/branches", "w50")
    assert front_matter(hub, "org/sizes-w50")[0]["base_model"] == "org/family"


def test_code_beside_the_weights_serves_people_without_the_package(hub, hub_environment, run_folder):
    family = load(run_folder)
    family.push_to_hub("org/family", with_code=True)
    assert "auto_map" not in family.config.to_dict()
    travels = [name for name in hub.files("org/family") if name.endswith(".py")]
    assert not [name for name in travels if "hub" in name or "card" in name or "push" in name]
    script = """
import importlib.abc, sys

class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] == "neumeta_hf":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hidden())
import torch
from PIL import Image
from transformers import AutoModel, AutoModelForImageClassification

try:
    AutoModel.from_pretrained("org/family", trust_remote_code=False)
except ValueError as error:
    assert "trust_remote_code" in str(error), error
else:
    sys.exit("code ran without trust")
model = AutoModelForImageClassification.from_pretrained("org/family", trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules"), type(model).__module__
morph = model.morph(width=0.5)
for network in (model, morph):
    try:
        network.push_to_hub("org/copy")
    except Exception as error:
        assert "pip install neumeta_hf" in str(error), error
    else:
        sys.exit("pushed without the package")
print(sum(tensor.double().sum().item() for tensor in morph.state_dict().values()))
"""
    result = subprocess.run(
        [sys.executable, "-c", script], env=hub_environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    expected = sum(tensor.double().sum().item() for tensor in family.morph(0.5).state_dict().values())
    assert float(result.stdout) == pytest.approx(expected, rel=1e-9)


def test_a_folder_without_a_family_is_no_checkpoint(hub, tmp_path):
    with pytest.raises((OSError, CheckpointError)):
        NeuMetaModel.from_pretrained(tmp_path)
    assert os.listdir(Path(tmp_path)) == []


def test_the_walkthrough_in_the_docs_is_what_its_script_prints(hub, hub_environment, run_folder):
    root = Path(__file__).parents[3]
    digits = run_folder.rename(run_folder.with_name("digits"))
    command = [sys.executable, root / "examples" / "hub_walkthrough.py", digits, "--repo", "org/digits"]
    result = subprocess.run(command, env=hub_environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    printed = re.sub(r"\b[0-9a-f]{40}\b", "<sha>", result.stdout.replace(hub.endpoint, "https://huggingface.co"))
    shown = re.search(r"```console\n(.*?)```", (root / "docs" / "hub.md").read_text(), flags=re.DOTALL)
    assert shown is not None
    assert shown[1].strip().splitlines() == printed.strip().splitlines()
