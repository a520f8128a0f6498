"""A page beside a family on the Hub: complete, of the family it is pushed with, and never over somebody's own."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from huggingface_hub import HfApi

import neumeta_hf
from neumeta_hf import example
from neumeta_hf.cli import main
from neumeta_hf.errors import HubError
from neumeta_hf.hub import push_space
from neumeta_hf.shipped import space_files

DIGITS = str(example("digits-lenet"))


def push(*flags, repo="org/digits"):
    return main(["-q", "push", DIGITS, repo, "--space", *flags])


def space(hub, repo="org/digits"):
    return hub.files(repo, repo_type="space")


def header(files):
    return yaml.safe_load(files["README.md"].decode().split("---\n")[1])


def test_a_dry_run_lists_page_and_code_and_reaches_nothing(hub, capsys):
    assert push("--dry-run", "--private") == 0
    out, err = capsys.readouterr()
    assert "Space would be pushed to org/digits" in out
    listed = out.partition("Space would be")[2]
    for name in ("app.py", "family_view.py", "requirements.txt", "README.md", "neumeta_hf/modeling_neumeta.py"):
        assert f" {name}\n" in listed
    assert ".safetensors" not in listed
    assert "HF_TOKEN" in err
    assert not hub.requests


def test_the_space_has_the_page_the_code_and_the_name_of_the_family(hub):
    assert push() == 0
    files = space(hub)
    assert {path.name for path in space_files()} <= set(files)
    assert all(files[path.name] == path.read_bytes() for path in space_files() if path.name != "README.md")
    assert header(files)["models"] == ["org/digits"]
    assert (header(files)["sdk"], header(files)["app_file"]) == ("gradio", "app.py")
    assert not [name for name in files if "example_families" in name or name.endswith((".safetensors", ".pyc"))]
    assert "model.safetensors" in hub.files("org/digits")
    package = Path(neumeta_hf.__file__).parent
    modules = {f"neumeta_hf/{path.relative_to(package).as_posix()}": path for path in package.rglob("*.py")}
    assert all(files[name] == path.read_bytes() for name, path in modules.items())


def test_the_commands_of_the_guide_do_what_it_says(hub):
    guide = (Path(__file__).parents[3] / "docs" / "guide_space.md").read_text(encoding="utf-8")
    dry, pushed = re.search(r"```bash\n(.*?)```", guide, flags=re.DOTALL)[1].splitlines()
    for line, is_there in ((dry, False), (pushed, True)):
        program, *words = shlex.split(line.replace("outputs/digits", DIGITS), comments=True)
        assert program == "neumeta"
        assert main(["-q", *words]) == 0
        assert bool(hub.requests) is is_there
    assert header(space(hub))["models"] == ["org/digits"]
    assert "model.safetensors" in hub.files("org/digits")


def test_pushing_again_updates_the_files_and_keeps_what_somebody_wrote(hub):
    push()
    count = len(hub.commits("org/digits", repo_type="space"))
    push()
    assert len(hub.commits("org/digits", repo_type="space")) == count
    card = space(hub)["README.md"].decode().replace("gradio\n", "gradio\nhardware: mine\n").replace("6.", "5.")
    card = card.replace("title: 'digits: any size'", "title: Mine") + "\nBy hand.\n"
    hub.put(
        "org/digits", {"README.md": card.encode(), "neumeta_hf/old.py": b"old", "mine.txt": b"mine"}, repo_type="space"
    )
    push()
    files = space(hub)
    assert "neumeta_hf/old.py" not in files
    assert files["mine.txt"] == b"mine"
    assert (header(files)["title"], header(files)["hardware"]) == ("Mine", "mine")
    assert header(files)["sdk_version"].startswith("6.")
    assert files["README.md"].decode().endswith("By hand.\n")


def test_a_space_of_somebodys_own_is_left_as_it_is(hub, capsys):
    own = {"app.py": b"mine", "README.md": b"---\ntitle: Mine\n---\nMine.\n"}
    hub.put("org/digits", own, repo_type="space")
    assert push() == 2
    assert "the Space org/digits holds files of somebody's own" in capsys.readouterr().err
    assert space(hub) == own


def test_a_space_that_holds_nothing_yet_is_filled(hub):
    hub.put("org/digits", {"README.md": b"---\ntitle: digits\n---\nCheck out the reference\n"}, repo_type="space")
    hub.fail("POST", "/api/spaces/.*/commit/", times=9, status=500)
    with pytest.raises(HubError, match="try again"):
        push_space("org/digits")
    assert set(space(hub)) == {"README.md"}
    hub.heal()
    push_space("org/digits")
    assert header(space(hub))["models"] == ["org/digits"]
    assert HfApi().space_info("org/digits").id == "org/digits"


@pytest.mark.parametrize("flags", [["--widths", "0.5"], ["--revision", "small"]])
def test_a_page_is_of_the_family_on_main(hub, capsys, flags):
    assert push(*flags) == 2
    assert "--space" in capsys.readouterr().err
    assert not hub.requests
