from pathlib import Path

import pytest

from neumeta_hf.files import replace_folder, write_beside, write_folder_beside


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
