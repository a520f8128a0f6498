"""What the README and the guides say is true: their commands are commands, and their code runs.

So are the commands in the headers of recipes and examples. What it says was measured: test_measured.py.
"""

import ast
import configparser
import itertools
import json
import re
import shlex
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from documents import DOCS, README, ROOT, SCRIPTS, blocks, cells, commands, commands_in, parse, snippet
from example_scripts import load_script
from PIL import Image
from transformers import AutoModelForImageClassification, LlamaConfig, ResNetConfig, ResNetForImageClassification

from neumeta_hf import (
    NeuMetaConfig,
    NeuMetaModel,
    cli,
    example,
    find_target,
    list_targets,
    load_image_data,
    load_recipe,
)
from neumeta_hf.evaluation import count_macs
from neumeta_hf.training import recipe_from_dict

OWN, TRAINING = DOCS["guide_own_network"], DOCS["guide_training"]
OURS = [name for name in list_targets() if type(find_target(name)).__module__.startswith("neumeta_hf.")]

# ---------------------------------------------------------------------------------------------------- commands


def headers():
    """What recipes say above and beside their keys, and examples above their code."""
    for path in sorted((ROOT / "examples").glob("**/*.py")):
        yield path.name, ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).splitlines()
    for path in sorted((ROOT / "examples").glob("recipes/*.yaml")):
        yield path.name, re.findall(r"#\s*(.*)", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("name", "text"), [("README", README), *DOCS.items()], ids=["README", *DOCS])
def test_the_commands_of_documents_are_commands(name, text):
    found = commands_in(text)
    assert len(found) >= {"README": 5, "guide_training": 5, "guide_sizes": 3, "measured": 8}.get(name, 0)
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


def test_the_layout_has_every_room_in_the_order_of_the_contract():
    contract = configparser.ConfigParser()
    contract.read(ROOT / "setup.cfg")
    layers = contract["importlinter:contract:rooms"]["layers"].split("\n")
    layer_of = {room.strip(): -number for number, layer in enumerate(layers) for room in layer.split("|") if layer}
    del layer_of["__main__"]
    table = [cells(line)[0] for line in DOCS["layout"].splitlines() if line.startswith("| `")]
    rooms = [re.findall(r"`(\w+)`", row) for row in table]
    assert sorted(sum(rooms, [])) == sorted(layer_of)
    for lower, upper in itertools.pairwise(rooms):
        assert max(layer_of[room] for room in lower) < min(layer_of[room] for room in upper)


# ---------------------------------------------------------------------------------------------------- code


SMALLER = {
    "digits_lenet": "--set pretrain.epochs=1 --set train.epochs=1",
    "mine.yaml": "--set train.epochs=1 --set data.image_size=32 --set calibration.images=0",
}
"""What is added to README's lines, so that they take seconds."""


def follow(text, capsys):
    """What README's code leaves and prints: each block in its order, as somebody would who has nothing else."""
    names, said = {}, []
    for language, code in re.findall(r"```(python|bash)\n(.*?)```", text, flags=re.DOTALL):
        if language == "python":
            exec(code, names)
            continue
        for line in filter(None, code.splitlines()):
            program, *words = shlex.split(
                re.sub(r"\$\(neumeta example (\S+)\)", lambda found: str(example(found[1])), line), comments=True
            )
            words += next((flags.split() for config, flags in SMALLER.items() if config in words), [])
            assert program == "neumeta"
            assert cli.main(words) == 0, line
            said.append(capsys.readouterr().out)
    return names, said


def put_own_network_and_images(root):
    """What README's reader has: a ResNet, and images of its classes in folders."""
    labels = {0: "cat", 1: "dog"}
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}
    config = ResNetConfig(**sizes, id2label=labels, label2id={name: label for label, name in labels.items()})
    ResNetForImageClassification(config).save_pretrained(root / "path/to/network")
    random = np.random.default_rng(0)
    for split, name in itertools.product(("train", "test"), labels.values()):
        folder = root / "path/to/images" / split / name
        folder.mkdir(parents=True)
        for number in range(80 if split == "train" else 5):  # a batch of 128, and some to validate on
            Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")


def test_somebody_who_has_only_readme_comes_to_a_morph_and_to_a_family_of_their_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    put_own_network_and_images(tmp_path)
    _, after = README.split("## Quickstart\n")  # before it stands how to install
    names, said = follow(after.partition("## Target families")[0], capsys)
    images = torch.randn(3, 1, 8, 8)
    reloaded = AutoModelForImageClassification.from_pretrained("lenet-half").eval()
    assert torch.equal(reloaded(images).logits, names["model"](images).logits)
    family = names["family"]
    full, half = (family.morph(width).num_parameters() for width in (1.0, 0.5))
    assert half < names["narrow"].num_parameters() < full
    assert 50_000 < count_macs(names["small"], images[:1]) <= 100_000
    assert "conv3 96" in said[0]
    assert AutoModelForImageClassification.from_pretrained("lenet-100k").num_parameters() > 0
    assert Path("outputs/digits/sweep_images.png").is_file()
    own = AutoModelForImageClassification.from_pretrained("mine-half")
    assert type(own) is ResNetForImageClassification
    assert own.config.hidden_sizes == [2, 4]
    assert set(own.config.id2label.values()) == {"cat", "dog"}
    assert len(json.loads(Path("outputs/mine/sweep.json").read_text())["rows"]) == 7


def test_the_table_of_target_families_has_them_all():
    for title in ("Target families", "Tasks"):
        text = README if title in README else DOCS["guide_training"]
        table = text.partition(f"## {title}\n")[2].partition("\n## ")[0]
        named = " ".join(cells(line)[0 if text is README else 1] for line in table.splitlines() if line.startswith("|"))
        assert set(list_targets()) & set(re.findall(r"`(\w+)`", named)) == set(OURS)


def test_the_code_about_sizes_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for code in blocks(DOCS["guide_sizes"]):
        exec(code, names)
    budgets = [line for line in blocks(DOCS["guide_sizes"], "bash")[0].splitlines() if "--max" in line]
    for line in budgets:
        words = shlex.split(line.replace("outputs/digits", str(example("digits-lenet"))))
        assert cli.main(words[1:]) == 0
    morphs = [AutoModelForImageClassification.from_pretrained(name) for name in ("small", "smaller")]
    assert count_macs(morphs[0], torch.zeros(1, 1, 8, 8)) <= 100_000
    assert morphs[1].num_parameters() <= 10_000


def test_the_hypernetwork_of_a_large_language_model_has_as_many_values_as_the_sums_say():
    sizes = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "vocab_size": 128256}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "tie_word_embeddings": True}
    grid = {"type": "grid", "positions": "absolute", "levels": 3}
    config = NeuMetaConfig(target_config=LlamaConfig(**sizes, **heads), normalization="keep", hypernetwork=grid)
    with torch.device("meta"):
        model = NeuMetaModel(config)
    found = re.search(r"layers .*= ([\d,]+) M\n *embeddings .*= +([\d,]+) M", DOCS["guide_scaling"])
    said = [1e6 * int(number.replace(",", "")) for number in found.groups()]
    assert model.generated_names[0] == "model.embed_tokens.weight"
    embeddings = sum(parameter.numel() for parameter in model.hypernetwork.tensors[0].parameters())
    counted = [sum(parameter.numel() for parameter in model.hypernetwork.parameters()) - embeddings, embeddings]
    assert counted == pytest.approx(said, rel=1e-3)


def test_the_worked_example_says_what_is_so():
    names: dict = {}
    checked = 0
    for code in blocks(DOCS["explanation"]):
        for line in code.splitlines():
            exec(line, names)
            expression, _, said = line.partition("  # ")
            value = eval(expression, names) if said else None
            value = tuple(value) if isinstance(value, torch.Size) else value
            if isinstance(value, torch.Tensor):
                expected = [float(Fraction(number)) for number in re.findall(r"\d+(?:/\d+)?", said.partition(":")[0])]
                assert value.tolist() == pytest.approx(expected)
            elif said:
                assert str(value).replace("'", '"') == re.match(r"\{.*?\}|\(.*?\)|\w+", said)[0]
            checked += bool(said)
    assert checked == 15


def test_the_pictures_of_the_worked_example_can_be_drawn_again(tmp_path, monkeypatch):
    script = load_script("benchmarks/explanation_figures.py")
    monkeypatch.setattr("sys.argv", ["explanation_figures.py", "--output", str(tmp_path)])
    assert script.main() == 0
    linked = re.findall(r"\]\((\S+\.png)\)", DOCS["explanation"])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(linked)


def test_a_morph_is_chosen_and_exported_as_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(snippet(DOCS["guide_deploy"], "torch.export.export"), names)
    program = torch.export.load("digits.pt2").module()
    images = torch.randn(5, 1, 8, 8)
    assert torch.allclose(program(images).logits, names["model"](images).logits, atol=1e-5)


def test_a_network_of_ones_own_becomes_a_family(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = yaml.safe_load(snippet(OWN, "output_dir: outputs/mine", "yaml"))
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
    exec(snippet(OWN, 'load_recipe("mine.yaml"'), {})
    half = AutoModelForImageClassification.from_pretrained("again-half")
    assert type(half).__module__.startswith("transformers.")
    family = NeuMetaModel.from_pretrained("outputs/again")
    assert list(half.state_dict()) == list(family.morph(0.5).state_dict())
    for group in family.width_groups:
        assert cli.main(["morph", "outputs/again", "--width", f"{group}=0.5", "--output", f"half-{group}"]) == 0


def test_a_network_of_other_classes_gets_a_new_head_as_the_guide_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic", "num_labels": 3}
    network = ResNetForImageClassification(ResNetConfig(**sizes, image_size=32))
    network.save_pretrained("network")
    recipe = yaml.safe_load(snippet(OWN, "output_dir: outputs/mine", "yaml"))
    data = {"dataset": "digits", "image_size": 32, "augmentation": "none", "in_memory": True, "center_crop": False}
    recipe["data"] |= data
    recipe |= {"target": {"family": "resnet", "checkpoint": "network"}, "train": None}
    Path("mine.yaml").write_text(yaml.safe_dump(recipe))
    (overrides,) = re.findall(r"`(--set target\.new_head=true [^`]*)`", OWN)
    overrides = overrides.replace("epochs=10", "epochs=1").split()
    assert cli.main(["train", "--config", "mine.yaml"]) == 2  # 3 classes for 10
    assert cli.main(["train", "--config", "mine.yaml", *overrides]) == 0
    tuned = AutoModelForImageClassification.from_pretrained("outputs/mine/reference")
    assert list(tuned.config.id2label.values()) == list("0123456789")


def test_images_and_masks_of_ones_own_are_read_as_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("path/to/folder/train")
    line = re.search(r"`(\{\"image_file_name\".*?\})`", TRAINING)[1]
    for name in json.loads(line).values():
        (folder / name).parent.mkdir(parents=True)
        for number in range(1, 11):
            mask = np.zeros((12, 16), dtype=np.uint8)
            mask[number:, 3:9] = 255
            path = (folder / name).with_name(f"{number}.png")
            Image.fromarray(mask).convert("L" if "mask" in name else "RGB").save(path)
    lines = [line.replace("/1.png", f"/{number}.png") for number in range(1, 11)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    recipe = yaml.safe_load(snippet(TRAINING, "mask_values", "yaml"))
    data = load_image_data(recipe_from_dict(recipe).data)
    assert data.label_names == ["background", "lesion"]
    assert [len(data.train), len(data.validation), len(data.test)] == [7, 1, 2]
    assert data.test[0]["labels"].unique().tolist() == [0, 1]


def test_a_stream_is_asked_for_as_shown():
    asked = yaml.safe_load(snippet(TRAINING, "streaming: true", "yaml"))
    whole = load_recipe(ROOT / "examples" / "recipes" / "vit_finetune.yaml").to_dict()
    recipe = recipe_from_dict({**whole, **{part: {**whole[part], **values} for part, values in asked.items()}})
    assert (recipe.data.streaming, recipe.train.max_steps) == (True, asked["train"]["max_steps"])
