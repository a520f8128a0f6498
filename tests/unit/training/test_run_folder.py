import os
import signal

import pytest
import yaml

from neumeta_hf.errors import CheckpointError, RecipeError
from neumeta_hf.training.checks import check_output, recipe_text
from neumeta_hf.training.recipe import Recipe, recipe_from_dict
from neumeta_hf.training.run_folder import LOCK, locked, tidy_up, what_is_left


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def in_a_child(function):
    """Run in a process of its own, and wait for its end; returns what ended it."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(function() or 0)
        finally:
            os._exit(99)
    return os.waitpid(child, 0)[1]


# ------------------------------------------------------------------------------------------------ one run at a time


def test_a_second_run_in_a_folder_is_refused_while_the_first_goes_on(tmp_path):
    output = tmp_path / "run"
    with locked(output), pytest.raises(RecipeError, match="run: another run is going on in it"), locked(output):
        pytest.fail("two runs in one folder")
    with locked(output):
        pass

    def start():
        try:
            with locked(output):
                return 0
        except RecipeError:
            return 7

    with locked(output):
        assert os.waitstatus_to_exitcode(in_a_child(start)) == 7
        assert (output / LOCK).is_file()  # the loser has not removed it
    assert os.waitstatus_to_exitcode(in_a_child(start)) == 0


def test_the_lock_dies_with_its_process_and_leaves_at_most_a_file_that_does_not_count(tmp_path):
    output = tmp_path / "run"

    def start_and_be_killed():
        with locked(output):
            os.kill(os.getpid(), signal.SIGKILL)

    assert os.WTERMSIG(in_a_child(start_and_be_killed)) == signal.SIGKILL
    assert names(output) == [LOCK]
    check_output(Recipe(), output, resume=False)
    with locked(output):
        pass
    assert names(output) == []


def test_a_folder_that_stays_empty_is_removed_and_others_are_left(tmp_path):
    with locked(tmp_path / "deep" / "run"):
        assert names(tmp_path / "deep" / "run") == [LOCK]
    assert names(tmp_path) == []
    (tmp_path / "mine").mkdir()
    with locked(tmp_path / "mine"):
        pass
    assert names(tmp_path) == ["mine"]
    with locked(tmp_path / "run"):
        (tmp_path / "run" / "log").write_text("x")
    assert names(tmp_path / "run") == ["log"]


def test_a_folder_that_is_removed_or_replaced_is_noticed(tmp_path):
    output = tmp_path / "run"
    with locked(output) as check:
        check()
        output.rename(tmp_path / "elsewhere")
        with pytest.raises(CheckpointError, match="run was removed or replaced"):
            check()
        with locked(output) as check_of_another:
            with pytest.raises(CheckpointError, match="removed or replaced"):
                check()
            check_of_another()
    assert names(tmp_path) == ["elsewhere"]


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "thesis.txt")
    with pytest.raises(OSError, match="symbolic"), locked(tmp_path / "run"):
        pytest.fail("locked through a link")
    assert (tmp_path / "thesis.txt").read_text() == "mine"


# ------------------------------------------------------------------------------------------------ what may be in it


@pytest.fixture
def started(tmp_path):
    """What a run has written when it fails before its first state."""
    output = tmp_path / "run"
    output.mkdir()
    (output / "recipe.yaml").write_text(recipe_text(Recipe(output_dir=str(output))))
    (output / "log.jsonl").write_text("{}\n")
    return output


@pytest.mark.parametrize("left", [[], [LOCK, ".state-pretrain.partial", ".recipe.partial.yaml"]])
def test_a_run_that_failed_before_its_first_state_can_be_started_again(started, left):
    for name in left:
        (started / name).write_text("half")
    mended = recipe_from_dict({"output_dir": str(started), "seed": 5})
    check_output(mended, started, resume=False)
    (started / "log.jsonl").unlink()
    check_output(mended, started, resume=False)
    tidy_up(started)
    assert set(names(started)) - {LOCK} == {"recipe.yaml"}


@pytest.mark.parametrize(
    "name",
    ["state", "state-pretrain", "reference", "pretrained", "best", "last", "model.safetensors", "notes.txt", ".x"],
)
def test_a_folder_that_holds_more_is_in_use(started, name):
    (started / name).mkdir()
    with pytest.raises(RecipeError, match="is not empty: pass resume=True"):
        check_output(Recipe(output_dir=str(started)), started, resume=False)


@pytest.mark.parametrize(
    "text", ["seed: 5  # mine\n", "", "seed: [", "- seed", "\xff", recipe_text(Recipe()) + "# mine\n"], ids=repr
)
def test_a_recipe_that_somebody_wrote_is_never_replaced(started, text):
    (started / "recipe.yaml").write_bytes(text.encode("latin1"))
    with pytest.raises(RecipeError, match="is not empty"):
        check_output(Recipe(output_dir=str(started)), started, resume=False)


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("name", ["recipe.yaml", "log.jsonl"])
def test_a_link_in_the_folder_is_refused_by_name(started, tmp_path, name, resume):
    (started / name).rename(tmp_path / name)
    (started / name).symlink_to(tmp_path / name)
    with pytest.raises((CheckpointError, RecipeError), match="is a link|is not empty"):
        check_output(Recipe(output_dir=str(started)), started, resume=resume)


@pytest.mark.parametrize("name", ["state", "best", "family.partial", "neumeta"])
def test_a_link_to_a_folder_is_refused_in_a_resume(started, tmp_path, name):
    (started / name).symlink_to(tmp_path)
    with pytest.raises(CheckpointError, match=f"{name} is a link"):
        check_output(Recipe(output_dir=str(started)), started, resume=True)


def test_what_a_kill_leaves_is_tidied_up_and_what_it_does_not_know_stays(started):
    for name in (".state.replaced", ".best.replaced", "best", ".last.partial", ".family.partial", "mine.partial"):
        (started / name).mkdir()
        (started / name / "file").write_text(name)
    (started / ".training.partial.json").write_text("half")
    tidy_up(started)
    assert names(started) == ["best", "log.jsonl", "mine.partial", "recipe.yaml", "state"]
    assert (started / "state" / "file").read_text() == ".state.replaced"
    assert (started / "best" / "file").read_text() == "best"


def test_what_is_left_names_the_latest(tmp_path):
    output = tmp_path / "run"
    assert what_is_left(output) is None
    output.mkdir()
    assert what_is_left(output) is None
    (output / "recipe.yaml").write_text(yaml.safe_dump({}))
    assert what_is_left(output) == "the start"
    for name in ("state-pretrain", "reference", "state"):
        (output / name).mkdir()
        assert what_is_left(output) == f"the {name.partition('-')[0]} in {output / name}"
