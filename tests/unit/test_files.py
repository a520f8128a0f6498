import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from neumeta_hf.files import recover, replace_folder, write_beside, write_files_beside, write_folder_beside


def test_write_beside_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")
    with write_beside(path) as beside:
        assert beside.parent == tmp_path
        assert beside.suffix == ".json"
        beside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_write_beside_keeps_the_old_file_when_the_block_fails(tmp_path, error):
    path = tmp_path / "result.json"
    path.write_text("old")

    def fail_half_way():
        with write_beside(path) as beside:
            beside.write_text("half")
            raise error

    with pytest.raises(error):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_beside_needs_something_written(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(OSError, match=r"result.*json"), write_beside(path):
        pass
    assert path.read_text() == "old"


def folder_with(path: Path, name: str) -> Path:
    path.mkdir()
    (path / name).write_text(name)
    return path


def test_replace_folder_puts_the_new_one_in_place_of_the_old_or_of_none(tmp_path):
    folder = tmp_path / "best"
    for name in ("first", "second"):
        replace_folder(folder_with(tmp_path / "beside", name), folder)
        assert [path.name for path in folder.iterdir()] == [name]
        assert list(tmp_path.iterdir()) == [folder]


def test_replace_folder_keeps_the_old_one_when_there_is_no_new_one(tmp_path):
    folder = folder_with(tmp_path / "best", "old")
    with pytest.raises(OSError, match="missing is no folder"):
        replace_folder(tmp_path / "missing", folder)
    assert (folder / "old").is_file()


def test_replace_folder_brings_the_old_one_back_when_the_new_one_cannot_be_moved(tmp_path, monkeypatch):
    folder, beside = folder_with(tmp_path / "best", "old"), folder_with(tmp_path / "beside", "new")
    rename = Path.rename

    def fail(self, target):
        if self == beside:
            raise OSError("no space")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no space"):
        replace_folder(beside, folder)
    assert (folder / "old").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["beside", "best"]


def test_write_folder_beside_replaces_the_folder_and_leaves_nothing_else(tmp_path):
    folder = tmp_path / "best"
    for name in ("first", "second"):
        before = sorted(folder.glob("*"))
        with write_folder_beside(folder) as beside:
            assert beside.parent == tmp_path
            assert not list(beside.iterdir())
            (beside / name).write_text(name)
            assert sorted(folder.glob("*")) == before
        assert [path.name for path in folder.iterdir()] == [name]
        assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_write_folder_beside_keeps_the_old_folder_when_the_block_fails(tmp_path, error):
    folder = folder_with(tmp_path / "best", "old")

    def fail_half_way():
        with write_folder_beside(folder) as beside:
            (beside / "half").write_text("half")
            raise error

    with pytest.raises(error):
        fail_half_way()
    assert [path.name for path in folder.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [folder]


def test_write_folder_beside_starts_afresh_after_a_process_that_was_killed(tmp_path):
    folder = tmp_path / "best"
    with write_folder_beside(folder) as beside:
        (beside / "new").write_text("new")
    folder_with(beside, "half")  # what a process that was killed leaves
    with write_folder_beside(folder) as again:
        assert again == beside
        assert not list(again.iterdir())
    assert list(tmp_path.iterdir()) == [folder]


# ------------------------------------------------------------------------------------------------ killed in between


class Killed(BaseException):
    """The process ends here: nothing of what it would have cleaned up is done."""


def kill_at_rename(monkeypatch, number: int) -> None:
    """Let a process do so many renames, and nothing that changes a file or folder from then on."""
    done = 0

    def counted(function):
        def call(*args, **options):
            nonlocal done
            if done == number:
                raise Killed
            done += function is rename
            return function(*args, **options)

        return call

    rename = os.rename
    for name in ("rename", "replace", "unlink", "rmdir"):
        monkeypatch.setattr(os, name, counted(rename if name == "replace" else getattr(os, name)))


def write_killed(monkeypatch, writer, name: str, renames: int) -> None:
    """Write a file, or one of that name into a folder, in a process that is killed after so many renames."""
    with monkeypatch.context() as patch, writer as beside:
        (beside / name).write_text(name)
        kill_at_rename(patch, renames)


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_folder_is_the_old_or_the_new_one_after_a_kill_between_two_renames(tmp_path, monkeypatch, renames):
    folder = folder_with(tmp_path / "state", "old")
    with pytest.raises(Killed):
        write_killed(monkeypatch, write_folder_beside(folder), "new", renames)
    recover(folder)
    assert tree(tmp_path) == ({"state/new": "new"} if renames == 2 else {"state/old": "old"})
    assert list(tmp_path.iterdir()) == [folder]
    recover(folder)  # twice does no harm
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_the_next_write_tidies_up_too(tmp_path, monkeypatch, renames):
    folder = folder_with(tmp_path / "state", "old")
    with pytest.raises(Killed):
        write_killed(monkeypatch, write_folder_beside(folder), "new", renames)
    with write_folder_beside(folder) as beside:
        (beside / "newer").write_text("newer")
    assert tree(tmp_path) == {"state/newer": "newer"}
    assert list(tmp_path.iterdir()) == [folder]


def test_what_a_killed_process_left_of_a_file_goes_with_the_next_write(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    with pytest.raises(Killed):
        write_killed(monkeypatch, write_beside(path), "", 0)
    assert len(list(tmp_path.iterdir())) == 1
    with write_beside(path) as beside:
        assert not beside.exists()
        beside.write_text("whole")
    assert tree(tmp_path) == {"result.json": "whole"}


def test_recover_leaves_what_it_does_not_know(tmp_path):
    for name in ("state", ".state", "state.partial", ".state.partial.txt"):
        (tmp_path / name).write_text(name)
    recover(tmp_path / "state")
    assert len(list(tmp_path.iterdir())) == 4


# ------------------------------------------------------------------------------------------------ files among others


def test_write_files_beside_replaces_the_files_of_its_names_and_leaves_the_others(tmp_path):
    for name in ("config.json", "log.jsonl"):
        (tmp_path / name).write_text("old")
    with write_files_beside(tmp_path, "family") as beside:
        (beside / "config.json").write_text("new")
        (beside / "model.json").write_text("new")
        assert tree(tmp_path)["config.json"] == "old"
    assert tree(tmp_path) == {"config.json": "new", "log.jsonl": "old", "model.json": "new"}
    assert len(list(tmp_path.iterdir())) == 3


def test_write_files_beside_changes_nothing_when_the_block_fails(tmp_path):
    (tmp_path / "config.json").write_text("old")

    def fail_half_way():
        with write_files_beside(tmp_path, "family") as beside:
            (beside / "config.json").write_text("new")
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        fail_half_way()
    assert tree(tmp_path) == {"config.json": "old"}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("write", [write_folder_beside, lambda folder: write_files_beside(folder, "family")])
def test_what_safetensors_says_of_a_full_disk_is_an_error_of_the_system(tmp_path, write):
    folder = folder_with(tmp_path / "best", "old")
    with pytest.raises(OSError, match="best.* cannot be written: No space left"), write(folder):
        raise SafetensorError("No space left on device")
    assert tree(tmp_path) == {"best/old": "old"}


# ------------------------------------------------------------------------------------------------ links


@pytest.fixture
def stranger(tmp_path):
    """Somebody's folder, which links point to."""
    folder = folder_with(tmp_path / "stranger", "thesis.txt")
    yield folder
    assert tree(folder) == {"thesis.txt": "thesis.txt"}


@pytest.mark.parametrize("name", ["best", ".best.partial", ".best.replaced"])
def test_a_link_is_never_followed_when_a_folder_is_written_or_removed(tmp_path, stranger, name):
    output = tmp_path / "output"
    output.mkdir()
    (output / name).symlink_to(stranger)
    with write_folder_beside(output / "best") as beside:
        (beside / "new").write_text("new")
    assert tree(output) == {"best/new": "new"}
    assert [path.name for path in output.iterdir()] == ["best"]


@pytest.mark.parametrize("name", [".best.partial", ".best.replaced"])
def test_recover_removes_a_link_and_not_what_it_points_to(tmp_path, stranger, name):
    output = tmp_path / "output"
    folder_with(output, "old").joinpath("best").mkdir()
    (output / name).symlink_to(stranger)
    recover(output / "best")
    assert sorted(path.name for path in output.iterdir()) == ["best", "old"]


@pytest.mark.parametrize("name", ["thesis.txt", ".thesis.partial.txt"])
def test_a_file_is_never_written_through_a_link(tmp_path, stranger, name):
    output = tmp_path / "output"
    output.mkdir()
    (output / name).symlink_to(stranger / "thesis.txt")
    with write_beside(output / "thesis.txt") as beside:
        beside.write_text("new")
    assert [path.name for path in output.iterdir()] == ["thesis.txt"]
    assert not (output / "thesis.txt").is_symlink()
    with write_files_beside(output, "family") as beside:
        (beside / "thesis.txt").write_text("newer")
    assert tree(output) == {"thesis.txt": "newer"}


def test_write_files_beside_unlinks_a_link_in_its_way(tmp_path, stranger):
    output = tmp_path / "output"
    output.mkdir()
    (output / ".family.partial").symlink_to(stranger)
    with write_files_beside(output, "family") as beside:
        (beside / "new").write_text("new")
    assert tree(output) == {"new": "new"}
    assert [path.name for path in output.iterdir()] == ["new"]
