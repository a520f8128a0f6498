"""Whole runs on the embedded digits, with networks of a few channels."""

import dataclasses
import json
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny_runs import RECIPE, reset_accelerate
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification

from neumeta_hf.data import load_image_data
from neumeta_hf.errors import CheckpointError, DataError, RecipeError, TargetError
from neumeta_hf.evaluation import evaluate_network
from neumeta_hf.modeling_neumeta import NeuMetaForImageClassification, family_class
from neumeta_hf.preparation import fuse_batch_norm
from neumeta_hf.targets import CifarResNetConfig, LeNetConfig, config_of, find_target
from neumeta_hf.training import (
    calibration_batches,
    load_recipe,
    load_target,
    precision,
    recipe_from_dict,
    run,
    task_of,
    train,
    training_widths,
)

RECIPES = sorted((Path(__file__).parents[3] / "examples" / "recipes").glob("*.yaml"))


def train_anew(recipe, *, resume=False):
    """A run in a process of its own, as far as Accelerate can tell."""
    reset_accelerate()
    return train(recipe, resume=resume)


def log_of(output):
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was never interrupted. Tests must not write into it."""
    output = tmp_path_factory.mktemp("finished") / "run"
    recipe = recipe_from_dict({**RECIPE, "output_dir": str(output)})
    assert train_anew(recipe) == output
    return recipe, output


def test_the_output_holds_everything(finished):
    recipe, output = finished
    assert load_recipe(output / "recipe.yaml") == recipe
    facts = json.loads((output / "training.json").read_text())
    assert facts["num_parameters"]["generated"] == facts["num_parameters"]["reference"]
    family = NeuMetaForImageClassification.from_pretrained(output)
    last = NeuMetaForImageClassification.from_pretrained(output / "last")
    assert list(family.config.trained_widths) == [0.5, 0.75, 1.0]
    assert family.config.preparation["method"] == "path"
    assert family.config.coordinate_noise == 0.5
    reference = AutoModelForImageClassification.from_pretrained(output / "reference")
    assert family.family.num_channels(reference.config) == family.family.num_channels(family.reference_config)
    for folder in (output, output / "reference"):
        assert AutoImageProcessor.from_pretrained(folder).size["height"] == 8
    assert {path.name for path in output.iterdir()} == {
        *("best", "last", "reference", "pretrained", "state", "state-pretrain"),
        *("config.json", "model.safetensors", "preprocessor_config.json"),
        *("recipe.yaml", "training.json", "log.jsonl"),
    }
    assert list(last.state_dict()) == list(family.state_dict())


def test_the_log_says_what_happened(finished):
    _, output = finished
    entries = log_of(output)
    steps = [entry["step"] for entry in entries if "train/loss" in entry]
    assert steps == [1, 10, 20]
    validations = [entry for entry in entries if "train/validation/accuracy" in entry]
    assert [entry["step"] for entry in validations] == [10, 20]
    last = validations[-1]
    widths = [last[f"train/validation/accuracy@{width}"] for width in ("0.5", "0.75", "1")]
    assert last["train/validation/accuracy"] == pytest.approx(sum(widths) / 3)


def test_the_result_is_the_best_on_the_validation_split(finished, digits):
    _, output = finished
    best = max(entry["train/validation/accuracy"] for entry in log_of(output) if "train/validation/accuracy" in entry)
    family = AutoModelForImageClassification.from_pretrained(output)
    scores = [evaluate_network(family.morph(width), digits.validation)["accuracy"] for width in (0.5, 0.75, 1.0)]
    assert sum(scores) / 3 == pytest.approx(best)


def test_static_and_generated_names_of_the_result_are_all_of_the_target(finished):
    _, output = finished
    family = AutoModel.from_pretrained(output)
    assert set(family.generate()) == set(dict(family.morph(1.0).named_parameters()))


def test_an_interrupted_run_ends_bit_equal(finished, make_recipe, tmp_path):
    _, whole = finished
    stops = [
        {"pretrain": {"stop_after_steps": 4}},
        {"train": {"stop_after_steps": 3}},
        {"train": {"stop_after_steps": 10}},
        {"train": {"stop_after_steps": 17}},
    ]
    for number, changes in enumerate(stops):
        assert train_anew(make_recipe("parts", **changes), resume=number > 0) is None
    output = train_anew(make_recipe("parts"), resume=True)
    for name in ("model", "best/model", "last/model", "state/model", "pretrained/model", "reference/model"):
        first, second = (load_file(folder / f"{name}.safetensors") for folder in (whole, output))
        assert list(first) == list(second)
        for key, tensor in first.items():
            assert torch.equal(tensor, second[key]), (name, key)
    averages = [
        torch.load(folder / "state" / "custom_checkpoint_2.pkl", weights_only=False)  # noqa: TID251
        for folder in (whole, output)
    ]
    for first, second in zip(*(average["shadow_params"] for average in averages), strict=True):
        assert torch.equal(first, second)
    values = [
        {key: value for entry in log_of(folder) for key, value in entry.items() if "/validation/" in key}
        for folder in (whole, output)
    ]
    assert values[0] == values[1]
    for folder in (whole, output):
        seconds = json.loads((folder / "training.json").read_text())["seconds"]
        assert list(seconds) == ["pretrain", "train"]
        assert min(seconds.values()) > 0


def test_a_finished_run_can_be_resumed(make_recipe):
    recipe = make_recipe(train={"epochs": 1})
    output = train_anew(recipe)
    before = load_file(output / "model.safetensors")
    assert train_anew(recipe, resume=True) == output
    assert all(torch.equal(before[key], tensor) for key, tensor in load_file(output / "model.safetensors").items())


class Forbidden:
    """The test split as training may see it."""

    def __getattribute__(self, name):
        raise AssertionError(f"training touched the test split: {name}")

    def __len__(self):
        raise AssertionError("training touched the test split: len")

    __getitem__ = __getitems__ = __iter__ = __bool__ = __len__


def test_training_and_selection_never_touch_the_test_split(make_recipe, monkeypatch):
    load = run.load_image_data
    monkeypatch.setattr(run, "load_image_data", lambda config: dataclasses.replace(load(config), test=Forbidden()))
    assert train(make_recipe(train={"epochs": 1})) is not None


def test_selection_measures_more_than_one_size(finished):
    _, output = finished
    measured = {key for entry in log_of(output) for key in entry if "accuracy@" in key}
    assert measured == {f"train/validation/accuracy@{width}" for width in ("0.5", "0.75", "1")}


def test_a_used_folder_is_refused(make_recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with pytest.raises(RecipeError, match="run is not empty: pass --resume"):
        train(make_recipe())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_nothing_to_resume_is_refused(make_recipe, tmp_path):
    with pytest.raises(CheckpointError, match="no run to resume in"):
        train(make_recipe(), resume=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seed": 1}, "seed"),
        ({"train": {"batch_size": 64}}, r"train\.batch_size"),
        ({"train": {"epochs": 3}}, r"train\.epochs"),
        ({"family": {"hypernetwork": {"type": "grid"}}}, r"family\.hypernetwork\.type"),
        ({"pretrain": None}, "pretrain"),
    ],
)
def test_resuming_with_another_recipe_is_refused_by_key(finished, changes, key):
    recipe, output = finished
    values = {**RECIPE, "output_dir": str(output)}
    for name, value in changes.items():
        values[name] = {**values[name], **value} if isinstance(value, dict) else value
    with pytest.raises(RecipeError, match=f"another recipe than the run .* different: .*{key}"):
        train(recipe_from_dict(values), resume=True)
    assert load_recipe(output / "recipe.yaml") == recipe


def test_data_that_cannot_be_read_leaves_no_half_run_behind(make_recipe, tmp_path):
    with pytest.raises(DataError):
        train(make_recipe(data={"dataset": "digits", "subset": "none such"}))
    assert not (tmp_path / "run").exists()


def test_a_target_that_cannot_be_built_leaves_no_half_run_behind(make_recipe, tmp_path):
    recipe = make_recipe(target={"family": "lenet", "checkpoint": str(tmp_path / "nowhere.safetensors")})
    with pytest.raises(TargetError):
        train_anew(recipe)
    assert not (tmp_path / "run").exists()


def test_a_run_that_diverges_says_so_and_saves_nothing(make_recipe, tmp_path):
    recipe = make_recipe(
        train={
            "clip": None,
            "epochs": 1,
            "optimizer": {"name": "sgd", "learning_rate": 1e20},
            "schedule": {"warmup": 0},
        }
    )
    with pytest.raises(RecipeError, match="train: the loss is .* at step .*Lower the learning rate"):
        train(recipe)
    assert not (tmp_path / "run" / "best").exists()
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_unknown_trackers_are_refused_before_anything_is_written(make_recipe, tmp_path):
    with pytest.raises(RecipeError, match="'no_such_tracker' is not installed"):
        train(make_recipe(trackers=["no_such_tracker"]))
    assert not (tmp_path / "run").exists()


def test_processes_that_do_not_see_each_other_are_refused(make_recipe, monkeypatch, tmp_path):
    monkeypatch.setattr(run.os, "environ", {**run.os.environ, "WORLD_SIZE": "2"})
    monkeypatch.setattr(run.Accelerator, "num_processes", property(lambda self: 1))
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RecipeError, match="2 processes that do not see each other"):
        train(make_recipe())
    assert not (tmp_path / "run").exists()


def test_a_target_without_weights_or_pretraining_is_refused(make_recipe):
    with pytest.raises(RecipeError, match="its weights would be random"):
        train(make_recipe(pretrain=None))


def test_kept_batch_norm_from_training_to_morph(make_recipe):
    recipe = make_recipe(
        target={"config": {**RECIPE["target"]["config"], "batch_norm": True}},
        preparation={"normalization": "keep", "order": "importance"},
        family={"hypernetwork": {"type": "grid"}},
        mixed_precision="bf16",
        statistics_widths="0.5:1.0:0.25",
        train={"epochs": 1},
    )
    family = AutoModelForImageClassification.from_pretrained(train(recipe))
    assert list(family.config.statistics_widths) == [0.5, 0.75, 1.0]
    images = calibration_batches(load_image_data(recipe.data).train, recipe.statistics_images)
    for width in (0.5, 0.75, 1.0):
        morph, measured = family.morph(width).state_dict(), family.morph(width, calibration=images).state_dict()
        assert morph["bn1.num_batches_tracked"] > 0
        for name, tensor in morph.items():
            assert torch.allclose(tensor, measured[name], atol=1e-5), name
    with pytest.raises(CheckpointError, match="stored widths"):
        family.morph(0.6)


def test_a_run_makes_images_on_which_any_size_is_measured(make_recipe):
    recipe = make_recipe(
        target={"config": {**RECIPE["target"]["config"], "batch_norm": True}},
        preparation={"normalization": "keep"},
        family={"hypernetwork": {"type": "grid"}},
        train={"epochs": 1},
        calibration={"images": 16, "networks": 3, "steps": 40},
    )
    family = AutoModelForImageClassification.from_pretrained(train(recipe))
    pixels = family.calibration.tensors()["pixels"]
    assert pixels.shape == (16, 1, 8, 8)
    assert pixels.float().std() > 5
    morph = family.morph({"conv1": 0.5, "conv3": 0.8})
    real = calibration_batches(load_image_data(recipe.data).train, 512)
    measured = family.morph({"conv1": 0.5, "conv3": 0.8}, calibration=real)
    for name, tensor in measured.state_dict().items():
        if name.endswith("running_mean"):
            spread = measured.state_dict()[name.replace("mean", "var")].sqrt()
            assert ((morph.state_dict()[name] - tensor).abs() / spread).mean() < 0.5, name


def test_a_run_can_end_with_the_reference(make_recipe, finished):
    output = train(make_recipe(train=None))
    assert not (output / "model.safetensors").exists()
    for name in ("model.safetensors", "config.json", "preparation.json"):
        assert (output / "reference" / name).read_bytes() == (finished[1] / "reference" / name).read_bytes()
    facts = json.loads((output / "training.json").read_text())
    assert list(facts["num_parameters"]) == ["reference"]


@pytest.mark.parametrize("train_static", [False, True])
def test_static_parameters_stay_the_references_unless_trained(make_recipe, train_static):
    output = train(
        make_recipe(
            family={"generated": ["conv2", "conv3.weight"], "width_groups": ["conv2"]},
            train={"epochs": 1, "ema_decay": 0.5},
            train_static=train_static,
        )
    )
    family = AutoModelForImageClassification.from_pretrained(output)
    reference = AutoModelForImageClassification.from_pretrained(output / "reference").state_dict()
    for name, tensor in family.static.tensors().items():
        assert torch.equal(tensor, reference[name]) != train_static, name
    assert torch.equal(family.morph(0.5).linear.weight, family.static.tensors()["linear.weight"])


def test_bf16_trains_and_saves_full_precision(make_recipe):
    output = train(
        make_recipe(mixed_precision="bf16", train={"epochs": 1}, losses={"distillation": 1.0}, fit={"steps": 5})
    )
    assert {tensor.dtype for tensor in load_file(output / "model.safetensors").values()} == {torch.float32}
    assert any("fit/relative_error" in entry for entry in log_of(output))


def test_a_run_from_a_checkpoint_starts_there(finished, make_recipe):
    _, output = finished
    target = {"family": "lenet", "checkpoint": str(output / "pretrained")}
    recipe = make_recipe("from_checkpoint", pretrain=None, train={"epochs": 1})
    recipe.target = dataclasses.replace(recipe.target, config={}, checkpoint=target["checkpoint"])
    other = train(recipe)
    first, second = (load_file(folder / "reference" / "model.safetensors") for folder in (output, other))
    assert all(torch.equal(first[key], tensor) for key, tensor in second.items())


# ------------------------------------------------------------------------------------------------ parts


def test_widths_are_a_list_or_a_range(make_recipe):
    assert training_widths(make_recipe(sizes={"widths": "0.25:1.0:0.25"})) == [0.25, 0.5, 0.75, 1.0]
    assert training_widths(make_recipe(sizes={"widths": [1.0, 0.5]})) == [0.5, 1.0]


def test_calibration_images_are_augmented_training_images(digits):
    split = digits.train
    split.config.augmentation = "crop"
    try:
        batches = calibration_batches(split, 300, batch_size=128)
        plain = split.subset(300, seed=0).with_augmentation(False)
        indices = list(range(300))
        assert [len(batch) for batch in batches] == [128, 128, 44]
        assert not torch.equal(torch.cat(batches), plain.__getitems__(indices)["pixel_values"])
        augmented = split.subset(300, seed=0).with_augmentation(True)
        assert torch.equal(torch.cat(batches), augmented.__getitems__(indices)["pixel_values"])
        assert sum(map(len, calibration_batches(split, 10**6))) == len(split)
    finally:
        split.config.augmentation = "none"


NAMES = [f"class {number}" for number in range(3)]


def test_a_fresh_target_has_the_labels_of_the_data(make_recipe):
    target = load_target(make_recipe(), NAMES)
    assert target.config.id2label == dict(enumerate(NAMES))
    assert target.config.label2id == {name: number for number, name in enumerate(NAMES)}
    assert target.linear.out_features == 3
    assert target.config.hidden_channels == [4, 6, 8]


def test_an_unknown_field_of_the_target_is_refused(make_recipe):
    recipe = make_recipe(target={"config": {"hiden_channels": [4, 6, 8]}})
    with pytest.raises(TargetError, match="target.config names hiden_channels: LeNetConfig has no such field"):
        load_target(recipe, NAMES)


def test_checkpoints_that_do_not_fit_are_refused(make_recipe, tmp_path):
    config = LeNetConfig(hidden_channels=[2, 2, 2], num_labels=3)
    find_target(config).build(config).save_pretrained(tmp_path / "lenet")

    def recipe(**target):
        made = make_recipe()
        made.target = dataclasses.replace(
            made.target, **{"config": {}, "checkpoint": str(tmp_path / "lenet"), **target}
        )
        return made

    assert load_target(recipe(), NAMES).config.id2label[2] == "class 2"
    with pytest.raises(TargetError, match="both given"):
        load_target(recipe(config={"image_size": 8}), NAMES)
    with pytest.raises(TargetError, match="is a neumeta_lenet, target.family is cifar_resnet"):
        load_target(recipe(family="cifar_resnet"), NAMES)
    with pytest.raises(TargetError, match="tells 3 classes apart, the data set has 2"):
        load_target(recipe(), NAMES[:2])
    with pytest.raises(TargetError, match="read for cifar_resnet alone"):
        load_target(recipe(checkpoint="x.safetensors"), NAMES)


def test_bare_weights_of_a_cifar_resnet_are_read(make_recipe, tmp_path):
    config = CifarResNetConfig(num_blocks=[1, 1, 1], stage_channels=[4, 6, 8], num_labels=3)
    network = find_target(config).build(config)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    recipe = make_recipe()
    recipe.target = dataclasses.replace(
        recipe.target, family="cifar_resnet", config={}, checkpoint=str(tmp_path / "weights.safetensors")
    )
    target = load_target(recipe, NAMES)
    assert all(torch.equal(tensor, target.state_dict()[name]) for name, tensor in network.state_dict().items())


def test_the_written_recipe_is_plain_yaml(finished):
    recipe, output = finished
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert yaml.safe_load((output / "recipe.yaml").read_text()) == recipe.to_dict()


# What shipped recipes take from a checkpoint.
CHECKPOINTS = {
    "cifar10_resnet20": {"num_blocks": [3, 3, 3], "shortcut": "projection"},
    "imagenet_resnet18_paper": {"layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]},
}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_describes_a_family(path):
    recipe = load_recipe(path)
    if recipe.target.checkpoint:
        recipe.target.checkpoint, recipe.target.config = None, CHECKPOINTS[path.stem]
    num_labels = 1000 if "imagenet" in path.stem else 100 if "cifar100" in path.stem else 10
    task = task_of(recipe)
    label_names = recipe.data.label_names or [str(label) for label in range(num_labels)]
    reference = load_target(recipe, label_names if task.has_classes else []).eval()
    config = config_of(reference)
    if recipe.preparation.normalization == "fuse":
        reference = fuse_batch_norm(reference, find_target(config).example_inputs(config))
    widths = training_widths(recipe)
    family = family_class(task.name).from_reference(
        reference,
        normalization=recipe.preparation.normalization,
        trained_widths=widths,
        **dataclasses.asdict(recipe.family),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # SizeWarning: no width is outside of the trained range
        sizes = [family.family.num_channels(family.target_config_at(width)) for width in widths]
    assert len({tuple(size.items()) for size in sizes}) == len(widths)
    assert sizes[-1] == family.family.num_channels(config)
    assert set(recipe.validation_widths or []) <= {round(width, 12) for width in widths}


@pytest.mark.parametrize("native", [True, False])
def test_one_process_runs_recipes_of_different_precision(make_recipe, monkeypatch, native):
    monkeypatch.setattr(precision, "has_native_bf16", lambda device: native)
    short = {"train": {"epochs": 1}, "fit": {"steps": 0}}
    for name, asked in (("first", "no"), ("second", "bf16"), ("third", "no"), ("fourth", "auto")):
        output = train(make_recipe(name=name, mixed_precision=asked, **short))
        assert output is not None
        assert (output / "model.safetensors").is_file()
        # What was asked for stays in the recipe, to resume with; what was computed in is a fact of the run.
        assert load_recipe(output / "recipe.yaml").mixed_precision == asked
        used = json.loads((output / "training.json").read_text())["mixed_precision"]
        assert used == ({"auto": "bf16" if native else "no"}.get(asked, asked))
