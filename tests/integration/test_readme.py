"""What the README says is true: its commands are commands, and its code runs.

So are the commands in the headers of recipes and examples. What it says was measured: test_measured.py.
"""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from documents import MEASURED, README, ROOT, SCRIPTS, commands, commands_in, parse
from PIL import Image
from transformers import AutoModelForImageClassification, ResNetConfig, ResNetForImageClassification

from neumeta_hf import NeuMetaModel, cli, load_image_data, load_recipe
from neumeta_hf.evaluation import count_macs
from neumeta_hf.training import recipe_from_dict

# ---------------------------------------------------------------------------------------------------- commands


def headers():
    """What recipes say above and beside their keys, and examples above their code."""
    for path in sorted((ROOT / "examples").glob("**/*.py")):
        yield path.name, ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).splitlines()
    for path in sorted((ROOT / "examples").glob("recipes/*.yaml")):
        yield path.name, re.findall(r"#\s*(.*)", path.read_text(encoding="utf-8"))


def test_the_commands_of_the_readme_are_commands():
    found = commands_in(README + MEASURED)
    assert {program for program, _ in found} >= {"neumeta", *SCRIPTS} - {"stock_resnet18.py", "transfer.py"}
    assert len(found) > 15
    for program, arguments in found:
        parse(program, arguments)


def test_the_commands_in_headers_are_commands():
    found = [command for _, lines in headers() for command in commands(lines)]
    assert {program for program, _ in found} == {"neumeta", *SCRIPTS}
    for program, arguments in found:
        parse(program, arguments)


@pytest.mark.parametrize(("name", "lines"), [entry for entry in headers() if entry[0].endswith(".yaml")], ids=str)
def test_what_the_header_of_a_recipe_overrides_are_keys(name, lines):
    overrides = [override for line in lines for override in re.findall(r"--set (\S+)", line)]
    load_recipe(ROOT / "examples" / "recipes" / name, overrides)


@pytest.mark.parametrize("path", ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_links_lead_to_files_and_headings(path):
    document = ROOT / path
    prose = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not link.startswith(("http://", "https://")):
            name, _, heading = link.partition("#")
            linked = document.parent / name if name else document
            assert linked.exists(), link
            titles = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), flags=re.M) if heading else []
            assert not heading or heading in [
                re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles
            ]


# ---------------------------------------------------------------------------------------------------- code


def snippet(part, language="python"):
    """The block of code that holds this."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    (found,) = (block for block in blocks if part in block)
    return found


def test_the_first_snippet_runs_and_its_morph_is_chosen_and_exported(lenet_case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lenet_case.family().save_pretrained("demo/checkpoint")
    names: dict = {}
    exec(snippet('from_pretrained("demo/checkpoint")'), names)
    reloaded = AutoModelForImageClassification.from_pretrained("lenet-half").eval()
    images = lenet_case.images()
    assert torch.equal(reloaded(images).logits, names["model"](images).logits)

    budget = count_macs(names["family"].morph(0.75), images)
    exec(snippet("torch.export.export").replace("300_000", str(budget)), names)
    program = torch.export.load("digits.pt2").module()
    expected = names["family"].morph(0.75)(images).logits
    assert torch.allclose(program(images).logits, expected, atol=1e-5)


def test_a_network_of_ones_own_becomes_a_family(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = yaml.safe_load(snippet("output_dir: outputs/mine", "yaml"))
    assert recipe_from_dict(recipe).target.checkpoint == "path/to/network"
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic", "num_labels": 10}
    ResNetForImageClassification(ResNetConfig(**sizes, image_size=32)).save_pretrained("network")
    # The same run in seconds, on what is at hand.
    data = {"dataset": "digits", "image_size": 32, "augmentation": "none", "in_memory": True, "center_crop": False}
    recipe["data"] |= data
    recipe["target"]["checkpoint"] = "network"
    recipe["train"]["epochs"] = 1
    recipe["sizes"]["widths"] = [0.5, 1.0]
    recipe |= {"statistics_widths": [0.5, 1.0], "statistics_images": 64}
    Path("mine.yaml").write_text(yaml.safe_dump(recipe))
    exec(snippet('load_recipe("mine.yaml"'), {})
    half = AutoModelForImageClassification.from_pretrained("again-half")
    assert type(half).__module__.startswith("transformers.")
    family = NeuMetaModel.from_pretrained("outputs/again")
    assert list(half.state_dict()) == list(family.morph(0.5).state_dict())
    for group in family.width_groups:
        assert cli.main(["morph", "outputs/again", "--width", f"{group}=0.5", "--output", f"half-{group}"]) == 0


def test_a_network_of_other_classes_gets_a_new_head_as_the_readme_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic", "num_labels": 3}
    network = ResNetForImageClassification(ResNetConfig(**sizes, image_size=32))
    network.save_pretrained("network")
    recipe = yaml.safe_load(snippet("output_dir: outputs/mine", "yaml"))
    data = {"dataset": "digits", "image_size": 32, "augmentation": "none", "in_memory": True, "center_crop": False}
    recipe["data"] |= data
    recipe |= {"target": {"family": "resnet", "checkpoint": "network"}, "train": None}
    Path("mine.yaml").write_text(yaml.safe_dump(recipe))
    (overrides,) = re.findall(r"`(--set target\.new_head=true [^`]*)`", README)
    overrides = overrides.replace("epochs=10", "epochs=1").split()
    assert cli.main(["train", "--config", "mine.yaml"]) == 2  # 3 classes for 10
    assert cli.main(["train", "--config", "mine.yaml", *overrides]) == 0
    tuned = AutoModelForImageClassification.from_pretrained("outputs/mine/reference")
    assert list(tuned.config.id2label.values()) == list("0123456789")


def test_images_and_masks_of_ones_own_are_read_as_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("path/to/folder/train")
    line = re.search(r"`(\{\"image_file_name\".*?\})`", README)[1]
    for name in json.loads(line).values():
        (folder / name).parent.mkdir(parents=True)
        for number in range(1, 11):
            mask = np.zeros((12, 16), dtype=np.uint8)
            mask[number:, 3:9] = 255
            path = (folder / name).with_name(f"{number}.png")
            Image.fromarray(mask).convert("L" if "mask" in name else "RGB").save(path)
    lines = [line.replace("/1.png", f"/{number}.png") for number in range(1, 11)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    recipe = yaml.safe_load(snippet("mask_values", "yaml"))
    data = load_image_data(recipe_from_dict(recipe).data)
    assert data.label_names == ["background", "lesion"]
    assert [len(data.train), len(data.validation), len(data.test)] == [7, 1, 2]
    assert data.test[0]["labels"].unique().tolist() == [0, 1]
