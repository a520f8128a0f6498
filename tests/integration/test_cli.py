import csv
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import AutoModelForImageClassification

from neumeta_hf import cli, example
from neumeta_hf.cli.numbers import parse_budget
from neumeta_hf.data import DataConfig, load_image_data
from neumeta_hf.errors import SizeError
from neumeta_hf.evaluation import count_parameters, evaluate_network
from neumeta_hf.modeling_tasks import NeuMetaForImageClassification
from neumeta_hf.printable import printable
from neumeta_hf.targets import CifarResNetConfig, LeNetConfig, build_image_processor, find_target
from neumeta_hf.training import Recipe

COMMANDS = ["train", "prepare", "morph", "evaluate", "info", "push"]
OTHERS = ["recipes", "init", "docs", "example"]


@pytest.fixture(scope="session")
def family(tmp_path_factory):
    """Output folder of a run, as `train` leaves it, without the training. Tests must not write into it."""
    folder = tmp_path_factory.mktemp("runs") / "family"
    torch.manual_seed(0)
    config = LeNetConfig(hidden_channels=[4, 6, 8], kernel_size=3, image_size=8, num_labels=10)
    reference = find_target(config).build(config).eval()
    model = NeuMetaForImageClassification.from_reference(
        reference, trained_widths=[0.5, 1.0], hypernetwork={"type": "grid"}
    )
    model.save_pretrained(folder)
    reference.save_pretrained(folder / "reference")
    build_image_processor(num_channels=1, image_size=8, mean=[0.5], std=[0.5]).save_pretrained(folder)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(Recipe().to_dict()))
    (folder / "training.json").write_text('{"seed": 7}')
    return folder


class Records(logging.Handler):
    """What transformers logs; its own handler writes past pytest's capture."""

    said: ClassVar[list[str]] = []

    def emit(self, record):
        self.said.append(record.getMessage())


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger("transformers")
    monkeypatch.setattr(logger, "level", logging.WARNING)
    monkeypatch.setattr(logger, "handlers", [Records()])
    Records.said.clear()
    # A captured stream is no terminal, and rich would wrap at 80 columns.
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def changed(family, tmp_path):
    """A copy of the family whose config.json has other values."""

    def change(**values):
        folder = shutil.copytree(family, tmp_path / "changed")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **values}))
        return folder

    return change


def refusal(capsys, *arguments):
    """The one line that a refused command says."""
    code = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert code == 2, (out, err)
    assert err.startswith("neumeta: error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert out == ""
    assert Records.said == []
    return err


# ------------------------------------------------------------------------------------------------ help


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS + OTHERS)])
def test_help_fits_a_terminal_of_80_columns_and_breaks_no_word(arguments, capsys, monkeypatch):
    def words():
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == 0
        out = capsys.readouterr().out
        return out, sorted(out.replace("[", " ").replace("]", " ").split())

    wide, every_word = words()
    monkeypatch.setenv("COLUMNS", "80")
    narrow, same_words = words()
    assert max(map(len, narrow.splitlines())) <= 80 < max(len(" ".join(wide.split())), 81)
    assert same_words == every_word
    assert "examples/" not in narrow  # which an installed package does not have


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS + OTHERS)])
def test_help(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: neumeta")
    if arguments == ["--help"]:
        assert all(f"\n    {command} " in out for command in COMMANDS + OTHERS)


@pytest.mark.parametrize("command", ["morph", "evaluate", "push"])
def test_long_help_is_in_groups(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    groups = re.split(r"\n\n(?=\S.*:\n)", capsys.readouterr().out)[1:]
    flags = [re.findall(r"^  (--[\w-]+)", group, flags=re.M) for group in groups]
    assert max(map(len, flags)) <= 5
    assert len(sum(flags, [])) == len(set(sum(flags, [])))


@pytest.mark.parametrize(
    "arguments", [["nope"], ["morph"], ["morph", "x", "--output", "y", "--seed", "z"], ["prepare", "x", "--order", "y"]]
)
def test_argparse_refuses_with_the_same_exit_code(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert "error: " in capsys.readouterr().err.splitlines()[-1]


def test_no_command_prints_the_help_and_fails(capsys):
    assert cli.main([]) == 2
    assert capsys.readouterr().out.startswith("usage: neumeta")


def test_version(capsys):
    from neumeta_hf import __version__

    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"neumeta_hf {__version__}\n"


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("command", ["info", "morph", "evaluate", "prepare"])
def test_an_unknown_checkpoint_is_refused(command, capsys):
    output = ["--output", "out"] if command in ("morph", "prepare") else []
    said = refusal(capsys, command, "nowhere", *output)
    assert "nowhere cannot be loaded (no folder of that name is here" in said
    assert not os.listdir()


def test_the_hub_client_does_not_tell_of_every_try(family, capsys):
    logging.getLogger("huggingface_hub").setLevel(logging.WARNING)
    refusal(capsys, "info", "nowhere")
    assert not logging.getLogger("huggingface_hub.utils._http").isEnabledFor(logging.WARNING)


@pytest.mark.parametrize("command", ["info", "morph"])
def test_a_plain_network_is_no_family(command, family, capsys):
    said = refusal(capsys, command, family / "reference", *(["--output", "out"] if command == "morph" else []))
    assert "one network, of model type 'neumeta_lenet', and not a family" in said


def test_a_checkpoint_cut_short_is_refused(changed, capsys):
    weights = changed() / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "changed: its .safetensors file is damaged" in refusal(capsys, "info", weights.parent)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"format_version": 99}, "this neumeta_hf reads formats 1 to 2"),
        ({"coordinate_scale": "wide"}, "coordinate_scale"),
        ({"hypernetwork": {"type": "nope"}}, "choose one of field, grid, inr"),
        ({"width_groups": ["conv9"]}, "lenet has conv1, conv2, conv3"),
        ({"preparation": {"a": 1}}, "preparation has tv_before=None"),
        ({"id2label": []}, "id2label=[], and it must be a mapping"),
        ({"dtype": "x"}, "dtype='x', and it must be the name of a type of floats"),
        ({"quantization_config": {"bits": 4}}, "weights are quantised"),
        ({"trained_widths": [0.5, 5]}, "trained_widths holds [5]"),
        ({"normalization": "x"}, "normalization='x': choose one of fuse, keep"),
        (
            {"target_config": {"model_type": "neumeta_lenet", "hidden_channels": [4, 6, 9], "num_labels": 10}},
            "axis conv3",
        ),
    ],
)
def test_a_config_with_a_bad_value_is_refused_by_name(values, said, changed, capsys):
    folder = changed(**values)
    assert said in refusal(capsys, "info", folder)
    assert said in refusal(capsys, "push", folder, "org/family")


@pytest.mark.parametrize("command", ["morph", "prepare"])
def test_what_exists_is_not_written_over(command, family, capsys, tmp_path):
    (tmp_path / "out").mkdir()
    checkpoint = family if command == "morph" else family / "reference"
    assert "--output out exists already: name a new folder" in refusal(capsys, command, checkpoint, "--output", "out")
    assert not os.listdir("out")


@pytest.mark.parametrize(
    ("width", "said"),
    [
        ("wide", "width 'wide' is no size: give a ratio such as 0.5"),
        ("conv1=", "width 'conv1=' is no size"),
        ("conv1=0.5,conv1=1", "no size"),
        ("0", "must lie in (0, 4]"),
        ("nan", "must lie in (0, 4]"),
        ("8", "For 8 channels pass width=1.0"),
        ("0.01", "smallest possible ratio is 0.125"),
        ("conv9=0.5", "choose among conv1, conv2, conv3"),
    ],
)
def test_a_width_that_no_network_has_is_refused(width, said, family, capsys):
    # With "=", as argparse takes a text that starts with a dash for an option.
    assert said in refusal(capsys, "morph", family, f"--width={width}", "--output", "out")
    assert not os.listdir()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--num-samples", "0"], "--num-samples 0"),
        (["--calibrate", "8"], "generates no BatchNorm"),
        (["--calibrate=-8"], "--calibrate -8: give a number of images from 1 up"),
    ],
)
def test_bad_sampling_is_refused(options, said, family, capsys):
    assert said in refusal(capsys, "morph", family, "--output", "out", *options)


@pytest.mark.parametrize("flag", ["--max-macs", "--max-parameters"])
@pytest.mark.parametrize(
    "text", ["nan", "inf", "0", "-5", "many", "", "k", "1x", "1e999", "0k", "-1M", "1kk", "1e9999999k"]
)
def test_a_budget_that_is_no_number_is_refused_in_the_words_of_the_command(flag, text, family, capsys):
    said = refusal(capsys, "morph", family, f"{flag}={text}", "--output", "out")
    assert f"{flag} {text!r}: give a number above 0, such as 200000, 200k, 1.5M or 2G" in said
    assert not os.listdir()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-macs", "1e9", "--multiple-of", "0"], "--multiple-of 0: give"),
        (["--max-macs", "1e9", "--multiple-of=-8"], "--multiple-of -8: give"),
        (["--seed=-1"], "--seed -1: give a whole number from 0"),
        (["--seed", str(2**64)], "--seed 18446744073709551616: give"),
        (["--num-samples", "1000000000"], "--num-samples 1000000000: give"),
        (["--width", "inf"], "must lie in (0, 4]"),
        (["--width", "conv1=nan"], "must lie in (0, 4]"),
    ],
)
def test_numbers_that_are_none_are_refused_and_nothing_is_written(options, said, family, capsys):
    assert said in refusal(capsys, "morph", family, "--output", "out", *options)
    assert not os.listdir()
    if options[0].startswith(("--seed", "--num")):
        assert said in refusal(capsys, "-q", "evaluate", family, "--widths", "1.0", "--output", "sweep", *options)
        assert not os.listdir()


@pytest.mark.parametrize(
    ("text", "number"),
    [("200k", 2e5), ("1.5M", 1.5e6), ("2G", 2e9), ("200K", 2e5), ("3m", 3e6), (" 7 ", 7), ("1e9", 1e9), ("0.5", 0.5)],
)
def test_budgets_are_read_with_their_units(text, number):
    assert parse_budget(text, "--max-macs") == number


def test_the_unit_of_a_budget_is_in_the_help_and_counts(family, capsys):
    with pytest.raises(SystemExit):
        cli.main(["morph", "--help"])
    assert "200k or 1.5M" in " ".join(capsys.readouterr().out.split())
    assert cli.main(["morph", str(family), "--max-parameters", "0.3k", "--output", "small"]) == 0
    assert count_parameters(AutoModelForImageClassification.from_pretrained("small")) <= 300


def test_a_width_that_is_named_twice_is_refused(family, capsys):
    assert "names 0.5 twice" in refusal(capsys, "-q", "evaluate", family, "--widths", "0.5,0.50", "--output", "sweep")
    assert "--widths names 0.5 twice" in refusal(capsys, "push", family, "org/family", "--widths", "1.0,0.5,0.5")


NAMES = ["[red]x[/red]", "[/]", "\x1b[2J\x1b]0;owned\x07", "\u202egnp", "a\\["]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_are_shown_and_do_nothing_to_the_terminal(name, family, tmp_path, capsys):
    folder = tmp_path / name.replace("/", "")
    shutil.copytree(family, folder)
    assert cli.main(["info", folder.name]) == 0
    out = capsys.readouterr().out
    assert printable(folder.name) in out
    assert not set(out) & {"\x1b", "\x07", "\u202e"}
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, name: torch.zeros(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    said = refusal(capsys, "info", folder.name)
    assert f"unexpected keys in the checkpoint: {printable(name)} " in said
    assert not set(said) & {"\x1b", "\x07", "\u202e"}


def test_logs_and_warnings_are_inert_too():
    program = """
        import logging, warnings
        from neumeta_hf.cli import setup_logging
        setup_logging()
        logging.getLogger("neumeta_hf.hub").warning("saved %s\\nsecond line", "\\x1b[2Jx")
        warnings.warn("outside \\x1b[2Jx")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    assert done.stderr == "saved \\x1b[2Jx\nsecond line\nwarning: outside \\x1b[2Jx\n"


@pytest.mark.parametrize("widths", ["", "a", "0.5;1", "1:0.5:0.1", "0.5:1", "0.5:1:0", "nan", "0.5:inf:0.1"])
def test_widths_that_cannot_be_read_are_refused(widths, family, capsys):
    assert f"widths {widths!r}: write first:last:step" in refusal(capsys, "evaluate", family, f"--widths={widths}")


def test_an_impossible_width_stops_a_sweep_before_it_writes(family, capsys, tmp_path):
    said = refusal(capsys, "-q", "evaluate", family, "--widths", "0.5,9", "--output", tmp_path / "sweep")
    assert "width=9.0 is no ratio" in said
    assert not os.listdir()


@pytest.mark.parametrize(
    ("output", "said"), [("nope/sweep", "the folder nope does not exist"), (".", "name the files too")]
)
def test_an_output_prefix_that_cannot_be_written_is_refused_first(output, said, capsys):
    assert said in refusal(capsys, "evaluate", "nowhere", "--output", output)


def test_evaluate_needs_the_recipe(changed, capsys):
    folder = changed()
    (folder / "recipe.yaml").unlink()
    assert "changed has no recipe.yaml" in refusal(capsys, "evaluate", folder)
    (folder / "recipe.yaml").write_text("data: {datset: digits}")
    assert "data.datset is unknown: did you mean dataset?" in refusal(capsys, "evaluate", folder)


def test_a_damaged_file_of_the_run_is_one_line(changed, capsys):
    folder = changed()
    (folder / "training.json").write_text('{"seed": 7')
    assert "training.json is no JSON" in refusal(capsys, "-q", "evaluate", folder, "--widths", "1.0")
    (folder / "training.json").unlink()
    (folder / "recipe.yaml").write_text("data: [")
    assert "recipe.yaml is no YAML" in refusal(capsys, "push", folder, "org/family")


@pytest.mark.parametrize("seed", ["-1", str(2**63)])
def test_a_seed_that_no_generator_takes_is_refused(seed, family, capsys):
    said = refusal(capsys, "-q", "prepare", family / "reference", "--output", "out", f"--seed={seed}")
    assert f"--seed {seed}: give a whole number from 0" in said
    assert not os.listdir()


def test_evaluate_names_what_it_cannot_find(family, capsys):
    prefix = ["--widths", "1.0", "--output", "sweep"]
    assert "nowhere cannot be loaded" in refusal(capsys, "-q", "evaluate", family, "--reference", "nowhere", *prefix)
    said = refusal(capsys, "-q", "evaluate", family, "--dataset", "nowhere", *prefix)
    assert "data set 'nowhere' cannot be loaded" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--config", "nowhere.yaml"], "nowhere.yaml is neither a file nor a recipe"),
        (["--config", "digits_lenett"], "did you mean digits_lenet?"),
        (["--set", "train.epochs"], "write key=value"),
        (["--set", "=3"], "write key=value"),
        (["--set", "seed={"], "no YAML value"),
        (["--set", "trian.epochs=3"], "recipe key trian is unknown: did you mean train?"),
        (["--set", "train.epohcs=3"], "recipe key train.epohcs is unknown: did you mean epochs?"),
        (["--set", "train.epochs=many"], "recipe key train.epochs='many'"),
        (["--set", "target.family=lenett"], "there is autoencoder_kl, autoencoder_tiny, "),
        (["--resume"], "no run to resume"),
    ],
)
def test_a_bad_recipe_is_refused(options, said, capsys):
    Path("recipe.yaml").write_text("{output_dir: out, pretrain: {}}")  # argparse takes the last of two --config
    assert said in refusal(capsys, "-q", "train", "--config", "recipe.yaml", *options)
    assert not Path("out").exists()


def test_training_without_a_recipe_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["train"])
    assert stop.value.code == 2
    assert "required: --config" in capsys.readouterr().err


def test_a_system_error_is_one_line_too(family, capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert "file" in refusal(capsys, "morph", family, "--output", "file/out")
    assert (tmp_path / "file").read_text() == "in the way"


# ------------------------------------------------------------------------------------------------ what they do


def test_info_generates_nothing(family, capsys, monkeypatch):
    monkeypatch.setattr(NeuMetaForImageClassification, "generate", None)
    assert cli.main(["info", str(family), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["generated parameters"] > 0


def test_info_counts_what_is_there(family, capsys):
    assert cli.main(["info", str(family), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    total = count_parameters(AutoModelForImageClassification.from_pretrained(family / "reference"))
    assert facts["target family"] == "lenet"
    assert facts["width groups"] == {"conv1": 4, "conv2": 6, "conv3": 8}
    assert facts["trained widths"] == [0.5, 1.0]
    assert facts["generated parameters"] + facts["static parameters"] == total
    assert cli.main(["info", str(family)]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in facts)


def test_evaluate_takes_the_name_of_a_recipe_as_train_does():
    command = ["evaluate", str(example("digits-lenet")), "--config", "digits_lenet", "--widths", "0.5", "--output"]
    assert cli.main([*command, "half"]) == 0
    (row,) = json.loads(Path("half.json").read_text())["rows"]
    assert row["accuracy"] > 0.9


def test_morph_writes_a_plain_network_that_a_new_process_classifies_with(family, capsys, tmp_path, fork):
    assert cli.main(["morph", str(family), "--width", "0.5", "--output", "half"]) == 0
    half = NeuMetaForImageClassification.from_pretrained(family).morph(0.5)
    assert f"{count_parameters(half):,} parameters saved in half" in capsys.readouterr().out
    Image.effect_noise((8, 8), 100).save("digit.png")

    fork.run(
        """
        import json
        import neumeta_hf
        from transformers import AutoModelForImageClassification, pipeline
        model = AutoModelForImageClassification.from_pretrained("half")
        from PIL import Image
        classify = pipeline("image-classification", model="half", device="cpu")
        answers = classify(Image.open("digit.png"), top_k=10)
        found = {
            "class": type(model).__name__,
            "sum": sum(tensor.double().sum().item() for tensor in model.state_dict().values()),
            "answers": {answer["label"]: answer["score"] for answer in answers},
        }
        with open("found.json", "w") as file:
            json.dump(found, file)
        """,
        tmp_path,
    )
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["class"] == "LeNetForImageClassification"
    assert found["sum"] == pytest.approx(sum(t.double().sum().item() for t in half.state_dict().values()))
    processor = build_image_processor(num_channels=1, image_size=8, mean=[0.5], std=[0.5])
    with torch.no_grad():
        scores = half(**processor(Image.open("digit.png"), return_tensors="pt")).logits.softmax(-1)[0]
    assert found["answers"] == pytest.approx({f"LABEL_{i}": score.item() for i, score in enumerate(scores)}, abs=1e-5)


def test_morph_says_in_a_card_where_the_network_comes_from(family):
    options = ["--num-samples", "3", "--width", "0.5"]
    assert cli.main(["morph", str(family), "--output", "below/half", *options]) == 0
    assert sorted(os.listdir("below")) == ["half"]
    names = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json", "weights_digest.json"]
    assert sorted(os.listdir("below/half")) == names
    card = Path("below/half/README.md").read_text()
    assert "generated by the NeuMeta family `family` at width 0.5, the mean of 3 noisy generations" in card
    assert 'pipeline("image-classification", model="half")' in card


def test_morph_takes_a_width_per_group_and_warns_outside_the_trained_range(family, capsys):
    assert cli.main(["morph", str(family), "--width", "conv1=0.25, conv3=0.5", "--output", "odd"]) == 0
    config = AutoModelForImageClassification.from_pretrained("odd").config
    assert config.hidden_channels == [1, 6, 4]
    err = capsys.readouterr().err
    assert err.startswith("warning: the size asked for (conv1=1, conv2=6, conv3=4 channels) lies outside")
    assert err.count("\n") == 1


def test_morph_without_an_image_processor_says_so(changed, capsys):
    folder = changed()
    (folder / "preprocessor_config.json").unlink()
    assert cli.main(["morph", str(folder), "--output", "out"]) == 0
    assert capsys.readouterr().err.startswith("note: no image processor is written")
    assert "model.safetensors" in os.listdir("out")


def test_morph_draws_its_samples_from_the_seed(family):
    for name, options in (("a", ["--seed", "1"]), ("b", ["--seed", "1"]), ("c", ["--seed", "2"]), ("exact", [])):
        samples = [] if name == "exact" else ["--num-samples", "2"]
        assert cli.main(["morph", str(family), "--output", name, *samples, *options]) == 0
    a, b, c, exact = (
        AutoModelForImageClassification.from_pretrained(name).conv2.weight for name in ("a", "b", "c", "exact")
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert not torch.equal(a, exact)


def test_evaluate_measures_on_the_recipes_test_split(family, capsys):
    assert cli.main(["-q", "evaluate", str(family), "--widths", "0.5:1:0.5", "--output", "sweep"]) == 0
    out, err = capsys.readouterr()
    assert sorted(os.listdir()) == ["sweep.csv", "sweep.json", "sweep.png"]
    assert "reference" in out
    assert err == ""
    result = json.loads(Path("sweep.json").read_text())
    reference = AutoModelForImageClassification.from_pretrained(family / "reference")
    data = load_image_data(DataConfig())
    expected = evaluate_network(reference, data.test)
    assert [row["width"] for row in result["rows"]] == [0.5, 1.0]
    # The grid starts at the reference, so that the family at full size is the reference.
    for row in (result["reference"], result["rows"][-1]):
        assert row["accuracy"] == expected["accuracy"]
        assert row["loss"] == pytest.approx(expected["loss"])
    assert result["facts"]["num_images"] == len(data.test)
    assert result["facts"]["checkpoint"] == "family"
    assert result["facts"]["dataset"] == "digits"
    assert result["facts"]["training"] == {"seed": 7}
    assert str(family.parent) not in json.dumps(result)
    assert [row["width"] for row in csv.DictReader(Path("sweep.csv").read_text().splitlines())] == ["0.5", "1.0"]


def test_evaluate_takes_overrides_of_the_recipe(family, capsys):
    options = ["--widths", "1.0", "--output", "sweep"]
    override = ["--split", "validation", "--set", "data.validation_fraction=0.3"]
    assert cli.main(["-q", "evaluate", str(family), *override, *options]) == 0
    capsys.readouterr()
    expected = load_image_data(DataConfig(validation_fraction=0.3)).validation
    assert json.loads(Path("sweep.json").read_text())["facts"]["num_images"] == len(expected)
    assert "recipe key data.tst is unknown" in refusal(capsys, "evaluate", family, "--set", "data.tst=1", *options)


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("{pretrain: {num_workers: 2}, train: {num_workers: 3}}", 3),
        ("{pretrain: {num_workers: 2}, train: null}", 2),
        ("{pretrain: null, train: null}", 0),
    ],
)
def test_evaluate_loads_with_the_workers_of_the_recipe(recipe, expected, changed, monkeypatch):
    folder, asked = changed(), []

    def spy(*args, num_workers, persistent_workers, **options):
        asked.append(num_workers)
        return DataLoader(*args, **options)

    monkeypatch.setattr("neumeta_hf.data.workers.DataLoader", spy)
    (folder / "recipe.yaml").write_text(recipe)
    assert cli.main(["-q", "evaluate", str(folder), "--widths", "0.5"]) == 0
    assert asked == [expected]  # one loader for the reference and the morph


def test_evaluate_writes_beside_the_checkpoint_unless_told_otherwise(changed):
    folder = changed()
    shutil.rmtree(folder / "reference")
    (folder / "training.json").unlink()
    assert cli.main(["-q", "evaluate", str(folder), "--widths", "1", "--split", "validation"]) == 0
    result = json.loads((folder / "sweep.json").read_text())
    assert result["reference"] is None
    assert result["facts"]["split"] == "validation"
    assert result["facts"]["training"] is None
    assert result["facts"]["num_images"] == len(load_image_data(DataConfig()).validation)


def test_prepare_writes_the_same_function(family, capsys):
    assert cli.main(["-q", "prepare", str(family / "reference"), "--output", "prepared"]) == 0
    assert "prepared network saved in prepared" in capsys.readouterr().out
    before, after = (
        AutoModelForImageClassification.from_pretrained(name) for name in (family / "reference", "prepared")
    )
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(before.conv1.weight, after.conv1.weight)
    with torch.no_grad():
        assert torch.allclose(before(images).logits, after(images).logits, atol=1e-5)
    report = json.loads(Path("prepared/preparation.json").read_text())
    assert report["tv_after"] < report["tv_before"]


@pytest.fixture
def kept(family):
    """A family that keeps BatchNorm and stores no statistics."""
    torch.manual_seed(0)
    config = CifarResNetConfig(
        num_blocks=[1, 1, 1], stage_channels=[2, 4, 6], num_input_channels=1, num_labels=10, image_size=8
    )
    NeuMetaForImageClassification.from_reference(
        find_target(config).build(config).eval(),
        normalization="keep",
        trained_widths=[0.5, 1.0],
        hypernetwork={"type": "grid"},
    ).save_pretrained("kept")
    shutil.copy(family / "recipe.yaml", "kept")


def test_calibrate_measures_batch_norm_where_no_statistics_are_stored(kept, capsys):
    for command in (["morph", "kept", "--output", "out"], ["-q", "evaluate", "kept", "--widths", "1"]):
        said = refusal(capsys, *command)
        assert "--calibrate N" in said
        assert "morph(" not in said  # that is how Python says it
    assert cli.main(["-q", "morph", "kept", "--calibrate", "100", "--output", "out"]) == 0
    assert AutoModelForImageClassification.from_pretrained("out").bn1.running_mean.abs().max() > 0
    assert "BatchNorm statistics were measured on 100 images" in Path("out/README.md").read_text()
    capsys.readouterr()
    push = ["-q", "push", "kept", "org/name", "--dry-run"]
    assert "--calibrate N" in refusal(capsys, *push, "--widths", "0.6")
    assert "--calibrate is for morphs" in refusal(capsys, *push, "--calibrate", "100")
    assert cli.main([*push, "--widths", "0.6", "--calibrate", "100"]) == 0
    assert "BatchNorm statistics were measured on 100 images" in capsys.readouterr().out


def test_data_are_loaded_once(kept, monkeypatch):
    from neumeta_hf import data as room

    loaded = []
    for name in ("load_data", "load_image_data"):
        load = getattr(room, name)
        monkeypatch.setattr(room, name, lambda config, *args, load=load: loaded.append(config) or load(config, *args))
    options = ["--widths", "1.0", "--calibrate", "100", "--split", "validation"]
    assert cli.main(["-q", "evaluate", "kept", *options]) == 0
    assert len(loaded) == 1
    assert json.loads(Path("kept/sweep.json").read_text())["facts"]["calibrated"] == 100


@pytest.mark.parametrize(
    ("text", "width"), [("0.5", 0.5), ("1", 1.0), ("stage3=0.25", {"stage3": 0.25}), ("a=1, b = 2", {"a": 1, "b": 2})]
)
def test_parse_width(text, width):
    assert cli.parse_width(text) == width


def test_parse_width_names_what_it_takes():
    with pytest.raises(SizeError, match=r"such as 0\.5, or one per width group such as stage3=0\.25,stage2=0\.5"):
        cli.parse_width("half")


def test_the_default_data_of_a_recipe_are_the_digits():
    # `evaluate` above relies on it.
    assert Recipe().data == DataConfig()


def test_modules_of_ones_own_are_imported_first(family, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "imported_first.py").write_text("import sys\nprint('registered', 'neumeta_hf' in sys.modules)\n")
    assert cli.main(["info", "--import", "imported_first", str(family)]) == 0
    assert capsys.readouterr().out.startswith("registered True\n")
    sys.modules.pop("imported_first")


@pytest.mark.parametrize("command", COMMANDS)
def test_modules_that_are_not_there_end_every_command(command, family, tmp_path, capsys):
    rest = {
        "train": ["--config", "recipe.yaml"],
        "prepare": [str(family), "--output", "new"],
        "morph": [str(family), "--output", "new"],
        "push": [str(family), "org/family"],
    }.get(command, [str(family)])
    assert cli.main([command, "--import", "no_such_module", *rest]) == 2
    assert "--import no_such_module: No module named 'no_such_module'. Give the name" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_morph_takes_the_largest_width_of_a_budget(family, capsys):
    full = count_parameters(AutoModelForImageClassification.from_pretrained(family / "reference"))
    assert cli.main(["morph", str(family), "--max-parameters", str(full - 1), "--output", "small"]) == 0
    assert "of width 0.916667 with" in capsys.readouterr().out
    assert count_parameters(AutoModelForImageClassification.from_pretrained("small")) < full
    assert cli.main(["morph", str(family), "--max-macs", "1e9", "--output", "large"]) == 0
    assert "of width 1 with" in capsys.readouterr().out
    assert cli.main(["morph", str(family), "--max-macs", "1", "--output", "none"]) == 2
    assert "less than the" in capsys.readouterr().err
    assert not Path("none").exists()


def test_morph_takes_multiples_of_channels_within_a_budget(family, capsys):
    full = count_parameters(AutoModelForImageClassification.from_pretrained(family / "reference"))
    options = ["--max-parameters", str(full - 1), "--output", "out", "--multiple-of"]
    # Below 4, 6 and 8 channels, which 0.9375 rounds to as well, every width has an odd number somewhere.
    assert "smallest width with multiples of 2 channels, 0.9375:" in refusal(capsys, "morph", family, *options, "2")
    said = refusal(capsys, "morph", family, "--multiple-of", "8", "--output", "out")
    assert "has a multiple of 8 channels in every width group. Give 2" in said
    assert not os.listdir()
    assert cli.main(["morph", str(family), *options, "1"]) == 0
    assert "of width 0.916667 with" in capsys.readouterr().out


def test_morph_rounds_a_width_to_multiples_of_channels_where_one_is_near(family, capsys):
    options = ["--multiple-of", "2", "--output"]
    assert cli.main(["morph", str(family), "--width", "0.9", "--output", "odd"]) == 0
    assert AutoModelForImageClassification.from_pretrained("odd").config.hidden_channels == [4, 5, 7]
    assert cli.main(["morph", str(family), "--width", "0.9", *options, "near"]) == 0
    assert "of width 0.9375 with" in capsys.readouterr().out
    assert AutoModelForImageClassification.from_pretrained("near").config.hidden_channels == [4, 6, 8]
    # Half of 4, 6 and 8 is 2, 3 and 4: the next ones whose numbers are all even are far larger.
    said = refusal(capsys, "morph", family, "--width", "0.5", *options, "far")
    assert "no width near 0.5 has a multiple of 2" in said
    assert "the nearest is 0.9375" in said
    said = refusal(capsys, "morph", family, "--width", "conv1=0.5", *options, "far")
    assert "--multiple-of 2 looks for uniform widths" in said
    assert not Path("far").exists()
