import datetime
import json
import sys

import pytest
import torch

from neumeta_hf.evaluation import environment_facts


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["/home/someone/.venv/bin/neumeta", *arguments])
    return environment_facts()["command"]


def test_facts_say_where_when_and_with_what():
    facts = json.loads(json.dumps(environment_facts("cpu")))
    assert facts["versions"]["torch"] == torch.__version__
    assert {"neumeta_hf", "transformers", "accelerate", "datasets"} <= facts["versions"].keys()
    assert facts["device"] == "cpu"
    assert facts["cores"] >= 1
    assert facts["threads"] == torch.get_num_threads()
    assert facts["python"].startswith("3.")
    assert datetime.date.fromisoformat(facts["date"])


@pytest.mark.parametrize(
    ("argument", "written"),
    [
        ("/home/someone/project/outputs/digits", "outputs/digits"),
        ("/tmp", "tmp"),
        ("/home/my name/a b/c", "a b/c"),
        ("data.dataset=/srv/data/mnist", "data.dataset=data/mnist"),
        ("--reference=/srv/runs/a", "--reference=runs/a"),
        ("target={'checkpoint': '/srv/weights/r20.safetensors'}", "target={'checkpoint': 'weights/r20.safetensors'}"),
        ("a=[/srv/x/y,/srv/x/z]", "a=[x/y,x/z]"),
        ("file:///srv/data/mnist", "data/mnist"),
        ("../../elsewhere/data/mnist", "data/mnist"),
        ("~/data/mnist", "data/mnist"),
        ("~somebody/data/mnist", "data/mnist"),
        ("$HOME/data/mnist", "data/mnist"),
        ("--output=${HOME}/data/mnist", "--output=data/mnist"),
        ("/home/somebody/run", "run"),
        ("/home/somebody", "~"),
        ("C:\\Users\\somebody\\My Documents\\run", "My Documents/run"),
        ("data.dataset=D:/srv/data/mnist", "data.dataset=data/mnist"),
        ("\\\\server\\share\\data\\mnist", "data/mnist"),
        ("%USERPROFILE%\\data\\mnist", "data/mnist"),
        ("..\\..\\data\\mnist", "data/mnist"),
        ("file:///C:/srv/data/mnist", "data/mnist"),
        ("a={'b': '/srv/my folder/x', \"c\": \"C:\\my folder\\x\"}", "a={'b': 'my folder/x', \"c\": \"my folder/x\"}"),
        ("a=/srv/x/y b=/srv/x/z", "a=x/y b=x/z"),
    ],
)
def test_no_folder_of_a_machine_gets_into_the_command(monkeypatch, argument, written):
    assert command(monkeypatch, "train", argument) == f"neumeta train {written}"


@pytest.mark.parametrize(
    "argument",
    [
        "a / b",
        "50%/a",
        "s3://bucket/key",
        "outputs/digits",
        "ylecun/mnist",
        "https://example.org/a/b/c",
        "--widths=0.25:1:0.125",
        "1/2",
        "a/../b",
    ],
)
def test_other_arguments_stay_as_given(monkeypatch, argument):
    assert command(monkeypatch, argument) == f"neumeta {argument}"


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    import importlib.metadata

    def version(name):
        if name == "neumeta_hf":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert environment_facts()["versions"]["neumeta_hf"] is None
