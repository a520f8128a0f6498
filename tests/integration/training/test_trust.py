"""What a run leaves is checked when it is taken up again: its networks, and the folders that they lie in."""

import pytest
from tiny_runs import RECIPE, reset_accelerate

from neumeta_hf.checkpoints import DIGEST_FILE
from neumeta_hf.cli import main
from neumeta_hf.errors import CheckpointError, NeuMetaError
from neumeta_hf.targets import load_network
from neumeta_hf.training import recipe_from_dict, train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    reset_accelerate()
    output = tmp_path_factory.mktemp("runs") / "run"
    return train(recipe_from_dict({**RECIPE, "output_dir": str(output), "train": None}))


def resume(run):
    reset_accelerate()
    return train(recipe_from_dict({**RECIPE, "output_dir": str(run), "train": None}), resume=True)


@pytest.fixture
def flipped(run):
    """The reference with another last bit, for as long as the test runs."""
    weights = run / "reference" / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    yield run
    weights.write_bytes(data)


@pytest.mark.parametrize("name", ["reference", "pretrained"])
def test_networks_of_a_run_have_a_checksum(run, name):
    assert (run / name / DIGEST_FILE).is_file()
    load_network(str(run / name))


def test_a_changed_bit_of_the_reference_is_found(flipped, tmp_path, capsys):
    with pytest.raises(CheckpointError, match=DIGEST_FILE):
        resume(flipped)
    assert main(["prepare", str(flipped / "reference"), "--output", str(tmp_path / "out")]) == 2
    assert DIGEST_FILE in capsys.readouterr().err


def test_a_reference_that_lies_elsewhere_is_not_taken_up(run):
    moved = run.parent / "elsewhere"
    (run / "reference").rename(moved)
    (run / "reference").symlink_to(moved)
    try:
        with pytest.raises(CheckpointError, match="run/reference is a link"):
            resume(run)
    finally:
        (run / "reference").unlink()
        moved.rename(run / "reference")


@pytest.mark.parametrize("text", ["[]", "{", '{"cliques": 3}', "[" * 10**5])
def test_a_report_that_is_none_is_one_error(run, text):
    report = run / "reference" / "preparation.json"
    kept = report.read_text()
    report.write_text(text)
    try:
        with pytest.raises(NeuMetaError):
            resume(run)
    finally:
        report.write_text(kept)


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"a": ' * 10**4, '{"model_type": "evil"}', '{"model_type": "resnet", "a": NaN}']
)
def test_a_config_of_the_reference_that_is_none_is_one_error(run, text):
    config = run / "reference" / "config.json"
    kept = config.read_text()
    config.write_text(text)
    try:
        with pytest.raises(CheckpointError):
            resume(run)
    finally:
        config.write_text(kept)


def test_a_config_of_the_reference_that_lies_elsewhere_is_not_read(run):
    config = run / "reference" / "config.json"
    moved = config.rename(run.parent / "config.json")
    config.symlink_to(moved)
    try:
        with pytest.raises(CheckpointError, match="is a link to"):
            resume(run)
    finally:
        config.unlink()
        moved.rename(config)


def test_a_run_that_is_whole_is_taken_up(run):
    assert resume(run) == run
