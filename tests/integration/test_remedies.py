"""The way out is in the words of where the reader is: flags and recipe keys in the command, arguments in Python."""

import ast
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from transformers import ResNetConfig

import neumeta_hf
from neumeta_hf import NeuMetaError, cli
from neumeta_hf.cli import commands
from neumeta_hf.errors import CardError, HubError
from neumeta_hf.hub.client import explain_hub_errors
from neumeta_hf.hub.merging import merge_card
from neumeta_hf.modeling_tasks import NeuMetaForImageClassification
from neumeta_hf.targets import CifarResNetConfig, LeNetConfig, build_image_processor, find_target
from neumeta_hf.training import Recipe

PYTHON = re.compile(r"\b\w+=(True|False|None)\b|\b\w+\((?!s\)|es\))|\btoken=|\w=\.\.\.")
"""Arguments and calls, but for "process(es)"."""
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
LAUNCHERS = {"--multi_gpu", "--num_processes"}
"""Flags of what starts Python, whoever calls it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A family, its reference, a recipe, a family that keeps BatchNorm, and more to be refused."""
    root = tmp_path_factory.mktemp("remedies")
    torch.manual_seed(0)
    config = LeNetConfig(hidden_channels=[4, 6, 8], kernel_size=3, image_size=8, num_labels=10)
    reference = find_target(config).build(config).eval()
    options = {"trained_widths": [0.5, 1.0], "hypernetwork": {"type": "grid"}}
    NeuMetaForImageClassification.from_reference(reference, **options).save_pretrained(root / "family")
    reference.save_pretrained(root / "reference")
    build_image_processor(num_channels=1, image_size=8, mean=[0.5], std=[0.5]).save_pretrained(root / "family")
    config = CifarResNetConfig(
        num_blocks=[1, 1, 1], stage_channels=[2, 4, 6], num_input_channels=1, num_labels=10, image_size=8
    )
    kept = NeuMetaForImageClassification.from_reference(
        find_target(config).build(config).eval(), normalization="keep", **options
    )
    kept.save_pretrained(root / "kept")
    for name in ("family", "kept"):
        (root / name / "recipe.yaml").write_text(yaml.safe_dump(Recipe().to_dict()))
    stock = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=3)
    find_target(stock).build(stock).save_pretrained(root / "others")
    shutil.copytree(root / "reference", root / "code")
    (root / "code/config.json").write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}')
    (root / "r.yaml").write_text("output_dir: full\n")
    (root / "full").mkdir()
    (root / "full/mine.txt").write_text("")
    return root


COMMANDS = [
    "info nowhere",
    "info reference",
    "info a/b/c",
    "info family/config.json",
    "info code",
    "morph kept --output out",
    "morph family --output out --width 9",
    "morph family --output out --width conv1=9",
    "morph family --output out --width nope=0.5",
    "morph family --output out --seed -1",
    "morph family --output out --num-samples 0",
    "morph family --output out --calibrate 10",
    "morph family --output family",
    "morph family --output out --max-parameters 1",
    "morph family --output out --max-parameters 1M --multiple-of 64",
    "morph family --output out --max-parameters 1M --multiple-of 0",
    "prepare code --output out",
    "prepare reference --output out --seed -1",
    "evaluate family --reference others",
    "evaluate family --widths 0.5 --dataset ./nowhere",
    "evaluate kept --widths 0.3",
    "train --config nowhere.yaml",
    "train --config r.yaml",
    "train --config r.yaml --resume",
    "train --config r.yaml --set output_dir=new --resume",
    "train --config r.yaml --set data.dataset=no/such/folder --set output_dir=new",
    "train --config r.yaml --set target.checkpoint=nowhere --set output_dir=new",
    "push family org/name",
    "push family org/name --as-revisions",
    "push kept org/name --widths 0.5",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_names_no_argument_of_python_and_python_no_flag(command, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    name, *_ = command.split()
    function, raised = commands.COMMANDS[name], []

    def spy(arguments):
        try:
            function(arguments)
        except NeuMetaError as refused:
            raised.append(refused)
            raise

    monkeypatch.setitem(commands.COMMANDS, name, spy)
    assert cli.main(["-q", *command.split()]) == 2
    assert not PYTHON.search(capsys.readouterr().err)
    (error,) = raised
    # What the command checks itself has no other reader.
    assert _is_of_the_command(error) or not set(FLAG.findall(str(error))) - LAUNCHERS


def _is_of_the_command(error):
    traceback = error.__traceback__
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return Path(traceback.tb_frame.f_code.co_filename).parent.name == "cli"


def test_what_is_refused_on_the_hub_has_a_way_out_in_both():
    with pytest.raises(CardError) as caught:
        merge_card("---\nlicense: mit\n---\n", "---\nlicense: apache-2.0\n---\nmine\n")
    assert "overwrite_card=True" in str(caught.value)
    assert "--overwrite-card" in caught.value.command
    assert not PYTHON.search(caught.value.command)

    def refuse():
        raise ValueError("license is none")

    with pytest.raises(HubError) as caught:
        explain_hub_errors("pushing to org/name", refuse)
    assert "overwrite_card=True" in str(caught.value)
    assert not PYTHON.search(caught.value.command)


def _texts():
    """The texts of every error that is raised below the command: Python's, and the command's where it has its own."""
    root = Path(neumeta_hf.__file__).parent
    for path in sorted(root.rglob("*.py")):
        if path.parent.name == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("Error"):
                python = " ".join(_constants(argument) for argument in node.args)
                command = " ".join(_constants(keyword.value) for keyword in node.keywords if keyword.arg == "command")
                yield f"{path.relative_to(root)}:{node.lineno}", python, command


def _constants(node):
    return "".join(
        part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)
    )


def test_no_text_for_python_names_a_flag_of_the_command_and_none_for_the_command_an_argument():
    texts = list(_texts())
    assert len(texts) > 100
    for place, python, command in texts:
        assert not set(FLAG.findall(python)) - LAUNCHERS, (place, python)
        assert not PYTHON.search(command), (place, command)
