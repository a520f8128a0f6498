"""What the command shows and copies: screens, recipes and guides, unfinished runs, a push before it goes."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from documents import DOCS, ROOT, snippet
from transformers import AutoModelForImageClassification

from neumeta_hf import cli, load_recipe
from neumeta_hf.evaluation import count_macs, count_parameters
from neumeta_hf.modeling_tasks import NeuMetaForImageClassification
from neumeta_hf.shipped import examples, guides, recipes
from neumeta_hf.targets import CifarResNetConfig, find_target
from neumeta_hf.training import Recipe

TRAINED = [0.25 + step / 64 for step in range(49)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Output folder of a run, as `train` leaves it, with numbers of many digits."""
    folder = tmp_path_factory.mktemp("runs") / "a_family_of_a_residual_network"
    torch.manual_seed(0)
    config = CifarResNetConfig(
        num_blocks=[1, 1, 1], stage_channels=[16, 32, 64], num_input_channels=1, num_labels=10, image_size=8
    )
    reference = find_target(config).build(config).eval()
    NeuMetaForImageClassification.from_reference(
        reference, trained_widths=TRAINED, hypernetwork={"type": "grid"}
    ).save_pretrained(folder)
    reference.save_pretrained(folder / "reference")
    recipe = Recipe()
    recipe.output_dir = str(folder)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.to_dict()))
    return folder


@pytest.fixture(autouse=True)
def at_80_columns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


def screen(capsys, *arguments):
    assert cli.main([str(argument) for argument in arguments]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    return out


def refusal(capsys, *arguments):
    assert cli.main([str(argument) for argument in arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


def cells(line):
    return [cell.strip() for cell in re.split("[│┃]", line)[1:-1]]


def test_info_and_evaluate_are_whole_at_80_columns(run, capsys):
    folder = Path(shutil.copytree(run, "run"))
    before = screen(capsys, "info", folder)
    assert "0.25:1.0:0.015625 (49)" in before
    assert "accuracy" not in before
    table = screen(capsys, "-q", "evaluate", folder, "--widths", "0.5,1.0", "--figures")
    result = json.loads((folder / "sweep.json").read_text())
    rows = [cells(line) for line in table.splitlines() if "%" in line]
    assert [row[0] for row in rows] == ["reference", "0.5", "1"]
    for row, expected in zip(rows, [result["reference"], *result["rows"]], strict=True):
        assert {f"{expected['num_parameters']:,}", f"{expected['macs']:,}", f"{expected['accuracy']:.2%}"} <= set(row)
    after = screen(capsys, "info", folder)
    rows = [cells(line) for line in after.splitlines() if "%" in line]
    assert [row[0] for row in rows] == ["0.5", "1"]
    assert [row[1] for row in rows] == [f"{row['accuracy']:.2%}" for row in result["rows"]]
    assert "reference/" in after


def test_info_as_json_has_sizes_scores_and_the_disk(run, capsys):
    folder = Path(shutil.copytree(run, "run"))
    facts = json.loads(screen(capsys, "info", folder, "--json"))
    family = NeuMetaForImageClassification.from_pretrained(folder)
    assert len(facts["sizes"]) == 9
    assert (facts["sizes"][0]["width"], facts["sizes"][-1]["width"]) == (0.25, 1.0)
    for row in facts["sizes"]:
        network = family.morph(row["width"])
        assert row["parameters"] == count_parameters(network)
        assert row["macs"] == count_macs(network, torch.zeros(1, 1, 8, 8))
        assert "scores" not in row
    assert facts["disk"]["reference/"] == sum(path.stat().st_size for path in (folder / "reference").iterdir())
    assert facts["disk"]["all"] == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_scores_of_other_networks_are_not_shown(run, capsys):
    folder = Path(shutil.copytree(run, "run"))
    screen(capsys, "-q", "evaluate", folder, "--widths", "0.5,1.0")
    result = json.loads((folder / "sweep.json").read_text())
    result["rows"][0]["num_parameters"] += 1
    (folder / "sweep.json").write_text(json.dumps(result))
    assert cli.main(["info", str(folder), "--json"]) == 0
    out, err = capsys.readouterr()
    assert ["scores" in row for row in json.loads(out)["sizes"]] == [False, True]
    assert "sweep.json belongs to other networks" in err


def test_an_unfinished_run_says_how_to_go_on(run, capsys):
    folder = Path(shutil.copytree(run, "half run"))
    (folder / "config.json").unlink()
    (folder / "log.jsonl").touch()
    said = f"{folder} is a run that is not finished: go on with neumeta train --config '{folder}/recipe.yaml' --resume"
    moved = f"{said} --set 'output_dir={folder}'"  # its recipe names the folder that it was first in
    assert cli.main(["info", str(folder)]) == 0
    assert capsys.readouterr().out == moved + "\n"
    assert moved in refusal(capsys, "morph", folder, "--output", "out")
    values = load_recipe(folder / "recipe.yaml", [f"output_dir={folder}"])
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values.to_dict()))
    assert cli.main(["info", str(folder)]) == 0
    assert capsys.readouterr().out == said + "\n"


def test_a_folder_with_a_recipe_alone_is_no_run(capsys):
    Path("mine").mkdir()
    Path("mine/recipe.yaml").write_text("{}")
    assert "not finished" not in refusal(capsys, "info", "mine")


# ------------------------------------------------------------------------------------------------ recipes and guides


def test_recipes_are_listed_printed_and_copied(capsys):
    listed = screen(capsys, "recipes")
    files = sorted((ROOT / "examples" / "recipes").glob("*.yaml"))
    assert [line for line in listed.splitlines() if not line.startswith(" ")] == [path.stem for path in files]
    assert cli.main(["recipes", "digits_lenet"]) == 0
    text = (ROOT / "examples" / "recipes" / "digits_lenet.yaml").read_text()
    assert capsys.readouterr().out == text
    assert "choose one of camvid_upernet, " in refusal(capsys, "recipes", "digits")
    assert cli.main(["init", "digits_lenet"]) == 0
    assert Path("digits_lenet.yaml").read_text() == text
    assert "digits_lenet.yaml exists already" in refusal(capsys, "init", "digits_lenet")


def test_init_writes_the_recipe_of_the_guide_and_nothing_over(capsys):
    assert cli.main(["init"]) == 0
    shown = snippet(DOCS["guide_own_network"], "output_dir: outputs/mine", "yaml")
    assert yaml.safe_load(Path("mine.yaml").read_text()) == yaml.safe_load(shown)
    Path("mine.yaml").write_text("of somebody")
    Path("link.yaml").symlink_to("nowhere.yaml")
    for output in ("mine.yaml", "link.yaml"):
        assert "exists already" in refusal(capsys, "init", "--output", output)
    assert Path("mine.yaml").read_text() == "of somebody"
    assert not Path("nowhere.yaml").exists()


def test_train_takes_a_recipe_by_its_name_where_there_is_no_such_file(capsys):
    override = ["--set", "train.epohcs=3"]
    assert "train.epohcs is unknown" in refusal(capsys, "-q", "train", "--config", "digits_lenet", *override)
    Path("digits_lenet").write_text("seed: one")
    assert "seed='one'" in refusal(capsys, "-q", "train", "--config", "digits_lenet")
    assert "nowhere is neither a file nor a recipe" in refusal(capsys, "-q", "train", "--config", "nowhere")


def test_guides_are_there_and_errors_name_one_of_them(run, capsys):
    assert cli.main(["docs"]) == 0
    listed = capsys.readouterr().out
    assert "A new target family in one file" in listed
    config = json.loads((run / "reference" / "config.json").read_text())
    Path("other").mkdir()
    Path("other/config.json").write_text(json.dumps({**config, "model_type": "beit"}))
    said = refusal(capsys, "prepare", "other", "--output", "out")
    (name,) = re.findall(r"`neumeta docs (\w+)`", said)
    assert cli.main(["docs", name]) == 0
    assert capsys.readouterr().out == (ROOT / "docs" / f"{name}.md").read_text()


def test_the_folder_of_an_example_is_printed_for_other_commands(capsys):
    assert cli.main(["example"]) == 0
    assert capsys.readouterr().out.split() == list(examples())
    for name in examples():
        assert cli.main(["example", name]) == 0
        assert cli.main(["morph", capsys.readouterr().out.rstrip("\n"), "--width", "0.5", "--output", name]) == 0
        assert AutoModelForImageClassification.from_pretrained(name).num_parameters() > 0
    assert "digits-lenet" in refusal(capsys, "example", "nowhere")


def test_a_wheel_has_recipes_guides_and_examples(tmp_path):
    pytest.importorskip("setuptools")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("src/neumeta_hf", "examples/recipes", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    build = "from setuptools import build_meta; print(build_meta.build_wheel('wheels'))"
    subprocess.run([sys.executable, "-c", build], check=True, capture_output=True)
    (wheel,) = Path("wheels").glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", "installed"]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    program = (
        "import json; from neumeta_hf import shipped; "
        "print(json.dumps([shipped.__file__, list(shipped.recipes()), list(shipped.guides())]))"
    )
    morphing = (
        "import neumeta_hf; folder = neumeta_hf.example('digits-lenet'); "
        f"assert folder.is_relative_to({str(tmp_path)!r}); "
        "neumeta_hf.NeuMetaModel.from_pretrained(folder).morph(width=0.5).save_pretrained('half')"
    )
    for arguments in (["-c", program], ["-m", "neumeta_hf", "init"], ["-c", morphing]):
        done = subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
            capture_output=True,
            text=True,
            check=True,
        )
        if arguments[1] == program:
            assert json.loads(done.stdout) == [
                str(tmp_path / "installed" / "neumeta_hf" / "shipped.py"),
                list(recipes()),
                list(guides()),
            ]
    assert Path("mine.yaml").is_file()
    assert Path("half/model.safetensors").is_file()


# ------------------------------------------------------------------------------------------------ push, devices


def test_a_dry_run_shows_card_and_files_and_reaches_no_network(run, capsys, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("the network was reached")

    monkeypatch.setattr("socket.socket.connect", refuse)
    assert cli.main(["push", str(run), "org/name", "--dry-run", "--license", "mit"]) == 0
    out = capsys.readouterr().out
    assert "license: mit" in out
    size = (run / "model.safetensors").stat().st_size
    assert re.search(rf"{size:,} bytes  model.safetensors", out)
    assert cli.main(["push", str(run), "org/name", "--dry-run", "--widths", "1.0,0.5"]) == 0
    out = capsys.readouterr().out
    assert "width 1 would be pushed to org/name-w100" in out
    assert "width 0.5 would be pushed to org/name-w50" in out
    assert "Give organisation/name" in refusal(capsys, "push", run, "a/b/c", "--dry-run")


@pytest.mark.parametrize("command", ["morph", "evaluate", "prepare"])
@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cuda:-1", "cpu:1", "meta", ""])
def test_a_device_that_is_not_there_is_refused(command, device, run, capsys):
    checkpoint = run / "reference" if command == "prepare" else run
    said = refusal(capsys, "-q", command, checkpoint, f"--device={device}", "--output", "out")
    assert "--device" in said
    assert not os.listdir()


def test_the_cpu_is_a_device(run):
    assert cli.main(["morph", str(run), "--device", "cpu", "--width", "0.5", "--output", "half"]) == 0
    assert cli.main(["prepare", "half", "--device", "cpu", "--output", "prepared"]) == 0


# ------------------------------------------------------------------------------------------------- completion


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["mor"], ["morph"]),
        (["morph", "--max"], ["--max-macs", "--max-parameters"]),
        (["prepare", "--order", "im"], ["importance"]),
        (["info", "a_fil"], ["a_file"]),
    ],
)
def test_a_shell_completes_commands_flags_choices_and_files(tmp_path, capsys, words, expected):
    pytest.importorskip("shtab", reason="the script is written by the extra `completion`")
    assert cli.main(["--print-completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    (tmp_path / "a_file").touch()
    given = " ".join(["neumeta", *words])
    ask = f"source ./script; COMP_WORDS=({given}); COMP_CWORD={len(words)}; _shtab_neumeta; echo ${{COMPREPLY[@]}}"
    said = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert said.stdout.split() == expected


def test_completion_without_what_writes_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert "neumeta_hf[completion]" in refusal(capsys, "--print-completion", "bash")


def test_an_unknown_shell_is_refused_with_those_that_there_are(capsys):
    pytest.importorskip("shtab", reason="the script is written by the extra `completion`")
    assert "zsh" in refusal(capsys, "--print-completion", "nosuchshell")
