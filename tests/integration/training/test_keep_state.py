"""What a run that has ended well keeps, and how often it logs."""

import json

import pytest
import yaml

from neumeta_hf import cli, train
from neumeta_hf.errors import RecipeError
from neumeta_hf.modeling_neumeta import NeuMetaModel
from neumeta_hf.training.recipe import recipe_from_dict


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_keep_state_false_removes_what_is_needed_no_more_and_nothing_else(make_recipe, tmp_path):
    kept = train(make_recipe("kept", train={"epochs": 1, "logging_steps": 4}))
    recipe = make_recipe("run", keep_state=False, train={"epochs": 1, "logging_steps": 4, "stop_after_steps": 2})
    assert train(recipe) is None
    folder = tmp_path / "run"
    assert "state" in names(folder)  # it has not ended yet
    (folder / "notes").mkdir()  # of somebody
    (folder / "notes" / "last").write_text("mine")
    recipe.train.stop_after_steps = None
    train(recipe, resume=True)
    assert names(kept) - names(folder) == {"state", "state-pretrain", "best", "last", "pretrained"}
    assert names(folder) - names(kept) == {"notes"}
    assert (folder / "notes" / "last").read_text() == "mine"
    assert not [name for name in names(folder) if name.startswith(".")]
    again, first = (NeuMetaModel.from_pretrained(path).state_dict() for path in (folder, kept))
    assert all(again[name].equal(first[name]) for name in first)
    before = (folder / "training.json").read_bytes()
    with pytest.raises(RecipeError, match="has ended, and its state was removed"):
        train(recipe, resume=True)  # and does not train anew, in silence
    assert (folder / "training.json").read_bytes() == before
    log = [json.loads(line) for line in (kept / "log.jsonl").read_text().splitlines()]
    steps = [entry["step"] for entry in log if "train/loss" in entry]
    assert steps[:3] == [1, 4, 8]
    assert all(step == 1 or step % 4 == 0 for step in steps)


def test_a_run_with_the_reference_alone_keeps_it(make_recipe):
    values = {**make_recipe("reference").to_dict(), "train": None, "keep_state": False}
    output = train(recipe_from_dict(values))
    assert names(output) == {"recipe.yaml", "log.jsonl", "training.json", "reference"}


def test_a_quiet_run_says_nothing(make_recipe, tmp_path, capsys):
    recipe = make_recipe("quiet", train={"epochs": 1}, fit={"steps": 2})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.to_dict()))
    assert cli.main(["train", "-q", "--config", str(tmp_path / "recipe.yaml")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("family saved in ")
