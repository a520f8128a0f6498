"""The whole-network benchmark: what it computes from its measurements, and a run of every part on a tiny network."""

import itertools
import json
import sys

import datasets
import numpy as np
import pytest
import torch
from example_scripts import EXAMPLES, load_script
from PIL import Image
from safetensors.torch import load_file
from tests.tiny_text import save, sentences

from neumeta_hf import NeuMetaModel, load_recipe
from neumeta_hf.evaluation import count_parameters
from neumeta_hf.scores import ACCURACY
from neumeta_hf.targets import LeNetConfig, find_target

RECIPES = EXAMPLES / "recipes"
DIGITS = RECIPES / "digits_lenet_whole.yaml"


@pytest.fixture(scope="module")
def whole_network():
    return load_script("benchmarks/whole_network.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Work of the whole file, which its tests share: what one of them has trained the others take."""
    return tmp_path_factory.mktemp("whole_network")


def row(method, width, accuracy, macs=100, seed=0, **facts):
    return {"method": method, "width": width, "accuracy": accuracy, "macs": macs, "seed": seed, **facts}


def test_a_family_is_measured_by_networks_alone_and_by_its_own_line(whole_network):
    stages = {"stage1": 0.3, "stage2": 0.9}
    rows = [
        row("individual", 1.0, 0.86),
        row("individual", 0.5, 0.82),
        row("individual", 0.5, 0.84, seed=1),
        row("individual, static part of the reference", 0.5, 0.80),
        row("family", 1.0, 0.87, macs=1000, trained=True),
        row("family", 0.5, 0.81, macs=10, trained=True),
        row("family", 0.5, 0.83, macs=10, seed=1, trained=True),
        row("family", 0.6, 0.82, macs=100, trained=False),
        row("family", 0.4, 0.70, macs=5, trained=False),
        row("family, random widths per stage", stages, 0.80, macs=100),
        row("individual, random widths per stage", stages, 0.79, macs=100),
        row("family, random widths per stage, calibrated on real images", stages, 0.815, macs=100),
        row("family, calibrated on real images", 1.0, 0.869, macs=1000),
        row("family, calibrated on real images", 0.4, 0.705, macs=5),
        row("family, one level", 1.0, 0.86, macs=1000),
        row("family, one level", 0.5, 0.79, macs=10),
        row("family, one level", 0.3, 0.10, macs=1),  # where the family was not measured
        row("family, one level, random widths per stage", stages, 0.81, macs=100),
    ]
    summary = whole_network.summarize(rows)
    assert summary["against_individual"] == {1.0: 1.0, 0.5: -1.0}
    assert summary["against_static"] == {0.5: 2.0}
    assert summary["between"] == {0.6: -1.0}  # the line from 82 at 0.5 to 87 at 1.0 is at 83; 0.4 is not between
    # The uniform family is at 82 at 100 MACs.
    assert summary["random"] == {"stage": {"worst": -2.0, "mean": -2.0}, "alone": {"worst": -3.0, "mean": -3.0}}
    assert summary["shapes"] == [1.0]
    assert summary["data_free"] == {"uniform": 0.5, "stage": 1.5}
    assert summary["families"] == {"family, one level": {"uniform": -2.0, "stage": 1.0}}


def test_a_summary_of_what_is_not_yet_measured_is_empty(whole_network):
    summary = whole_network.summarize([row("individual", 1.0, 0.86)])
    assert summary == {
        "against_individual": {},
        "against_static": {},
        "between": {},
        "shapes": [],
        "random": {},
        "data_free": {},
        "families": {},
    }


def test_every_other_family_changes_the_recipe(whole_network):
    recipes = {part: load_recipe(DIGITS, changes) for part, (_, changes) in whole_network.FAMILIES.items()}
    assert recipes["family"] == load_recipe(DIGITS)
    assert len({json.dumps(recipe.to_dict()) for recipe in recipes.values()}) == len(recipes)
    # Plain slices: one set of weights, and no width but uniform ones.
    assert (recipes["nested"].family.hypernetwork["levels"], recipes["nested"].sizes.num_per_group) == (1, 0)


def test_the_data_are_the_recipes_unless_others_are_named(whole_network):
    def dataset(*arguments):
        command = ["--recipe", str(RECIPES / "mnist_vae.yaml"), *arguments]
        return whole_network.recipe_of(whole_network.build_parser().parse_args(command)).data.dataset

    assert dataset() == "ylecun/mnist"
    assert dataset("--data", "path/to/mnist") == "path/to/mnist"


def test_parts_that_a_task_has_not_are_left_out(whole_network):
    of_autoencoders = ["individual", "family", "inr", "static", "shapes"]
    assert whole_network.choose_parts(None, "image-generation") == of_autoencoders
    of_classifiers = whole_network.choose_parts(None, "image-classification")
    assert [part for part in of_classifiers if part not in of_autoencoders] == ["fused", "untrained", "pruning"]
    assert whole_network.choose_parts("static,noise", "image-generation") == ["static", "noise"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--parts", "family,pruning"], "--parts pruning: of classifiers alone, and the recipe is of image-generation"),
        (["--parts", "familly"], "--parts familly: there is individual, family"),
        (["--set", "trian.epochs=1"], "trian is unknown: did you mean train?"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_loaded(arguments, said, whole_network, monkeypatch, capsys):
    monkeypatch.setattr(whole_network, "Benchmark", lambda _: pytest.fail("too late"))
    monkeypatch.setattr(sys, "argv", ["whole_network.py", "--recipe", str(RECIPES / "mnist_vae.yaml"), *arguments])
    with pytest.raises(SystemExit):
        whole_network.main()
    assert said in capsys.readouterr().err


def test_hessians_are_told_by_the_squared_gradients_of_each_image():
    torch.manual_seed(0)
    config = LeNetConfig(hidden_channels=[2, 2, 2], kernel_size=3, image_size=8, num_labels=3)
    network = find_target(config).build(config).eval()
    images, labels = torch.randn(2, 1, 8, 8), torch.tensor([0, 2])

    def filled(chosen, squared):
        network.zero_grad()
        load_script("benchmarks/pruning.py").fill_gradients(network, images[chosen], labels[chosen], squared=squared)
        return [parameter.grad for parameter in network.parameters()]

    wanted = [(first**2 + second**2) / 2 for first, second in zip(filled([0], False), filled([1], False), strict=True)]
    torch.testing.assert_close(filled([0, 1], True), wanted)


@pytest.fixture
def run_benchmark(whole_network, folder, monkeypatch):
    tiny = (
        "target.config={hidden_channels: [8, 8, 8], kernel_size: 3, batch_norm: true}",
        "pretrain.epochs=1",
        "train.epochs=1",
        "statistics_widths=0.25:1.0:0.25",
        "statistics_images=64",
        "calibration={images: 8, networks: 2, steps: 2}",
    )
    tiny_inr = (
        "family.hypernetwork={type: inr, hidden_size: 16, num_hidden_layers: 3, num_frequencies: 4}",
        "fit.steps=5",
    )

    def run(*arguments):
        command = ["whole_network.py", "--recipe", str(DIGITS), "--runs", str(folder / "runs")]
        sizes = ["--alone", "1.0,0.5", "--widths", "1.0,0.5,0.3", "--shapes", "1", "--finetune", "1"]
        sizes += ["--inr-epochs", "2"]
        overrides = [word for override in tiny for word in ("--set", override)]
        monkeypatch.setattr(sys, "argv", [*command, *sizes, *overrides, "--output", str(folder / "out"), *arguments])
        monkeypatch.setattr(whole_network, "NUM_RANDOM", 1)
        label, changes = whole_network.FAMILIES["inr"]
        monkeypatch.setitem(whole_network.FAMILIES, "inr", (label, (*changes, *tiny_inr)))
        assert whole_network.main() == 0
        return json.loads((folder / "out.json").read_text())

    return run


def test_every_part_runs_and_nothing_is_done_twice(run_benchmark, folder):
    result = run_benchmark()
    found = {(row["method"], json.dumps(row["width"])) for row in result["rows"]}
    assert len(found) == len(result["rows"])
    methods = [method for method, _ in found]
    uniform = ["family", "family, calibrated on real images", "family, the paper's INR", "family, BatchNorm fused"]
    assert {method: methods.count(method) for method in [*uniform, "slicing"]} == dict.fromkeys(
        [*uniform, "slicing"], 3
    )
    assert methods.count("individual") == 2
    assert {f"pruning, {name}{end}" for name in ("L1", "Taylor", "Hessian") for end in ("", ", fine-tuned")} <= set(
        methods
    )
    assert "individual, random widths per stage" in methods
    assert set(result["summary"]["families"]) == {"family, the paper's INR", "family, BatchNorm fused"}
    assert {"num_parameters", "mixed_precision"} <= set(result["facts"])
    assert set(result["facts"]["hypernetwork_parameters"]) == {"family", "inr", "fused"}
    assert {"individual-1", "individual-0.5", "family", "inr", "fused"} < set(result["facts"]["seconds"])
    assert result["facts"]["dataset"] == result["facts"]["recipe"]["data"]["dataset"] == "digits"
    assert (folder / "out.png").is_file()
    runs = {part: load_recipe(folder / "runs" / f"{part}-seed0" / "recipe.yaml") for part in ("family", "inr", "fused")}
    assert {part: recipe.train.epochs for part, recipe in runs.items()} == {"family": 1, "inr": 2, "fused": 1}

    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*") if path.is_file()}
    assert run_benchmark()["rows"] == result["rows"]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_what_was_fine_tuned_before_does_not_change_what_is_pruned(run_benchmark, folder, monkeypatch):
    # An interrupted benchmark would otherwise prune other channels: augmentation differs from epoch to epoch.
    pruning = sys.modules["pruning"]  # as the benchmark imported it
    seen, fill = [], pruning.fill_gradients

    def record(model, images, labels, **options):
        seen.append(images)
        fill(model, images, labels, **options)

    monkeypatch.setattr(pruning, "fill_gradients", record)
    run_benchmark("--parts", "individual,pruning", "--finetune", "2", "--runs", str(folder / "pruning"))
    assert len(seen) == 5
    assert all(torch.equal(images, seen[0]) for images in seen)


def test_a_figure_has_a_second_panel_where_the_family_would_look_like_what_it_is_compared_with(monkeypatch, tmp_path):
    script = load_script("benchmarks/size_summary.py")
    near = [row("individual", 1.0, 0.86), row("family", 1.0, 0.87), row("family", 0.5, 0.81, macs=50)]
    lowest, highest = script.near_the_bar([*near, row("slicing", 0.5, 0.10)], ACCURACY)
    assert (lowest, highest) == pytest.approx((0.79, 0.89))  # a third of 0.81 to 0.87 on either side

    def panels(rows):
        drawn = []
        monkeypatch.setattr(script.Figure, "savefig", lambda figure, *_, **__: drawn.append(figure.axes))
        script.plot(rows, ACCURACY, tmp_path / "out.png", split="test")
        return drawn[0]

    assert len(panels(near)) == 1
    assert len(panels([row("one", 1.0, 0.5), row("other", 1.0, 0.9)])) == 1  # nothing to be near to
    whole, close = panels([*near, row("slicing", 0.5, 0.10)])
    assert whole.get_ylim()[0] < 10
    assert close.get_ylim() == pytest.approx((79, 89))


def test_ablations_are_measured_on_the_validation_split_beside_what_the_test_split_gave(run_benchmark, folder):
    def tested():
        kept = folder / "runs" / "measurements.json"
        return kept.read_text() if kept.is_file() else None

    before = tested()
    result = run_benchmark("--parts", "family,one-level,orders", "--split", "validation")
    assert result["facts"]["split"] == "validation"
    assert set(result["summary"]["families"]) == {"family, one level"}
    for method in ("slicing", "slicing, importance by activations"):
        assert [row["width"] for row in result["rows"] if row["method"] == method] == [1.0, 0.5, 0.3]
    assert tested() == before


def test_what_a_family_leaves_as_it_is_can_be_left_to_networks_alone_as_well(run_benchmark, folder):
    # The reference is the network of width 1.0, whether or not it is among those to be measured.
    result = run_benchmark("--set", "family.generated=[conv2, bn2, conv3]", "--parts", "static", "--alone", "0.5")
    label = "individual, static part of the reference"
    assert [row["width"] for row in result["rows"] if row["method"] == label] == [0.5]
    output = folder / "runs" / "static-0.5-seed0"
    reference = load_file(output / "reference" / "model.safetensors")
    assert reference["conv2.weight"].shape[0] == 8
    half = NeuMetaModel.from_pretrained(output).morph(0.5)
    assert half.conv2.weight.shape[0] == 4
    assert torch.equal(half.state_dict()["conv1.weight"], reference["conv1.weight"])


def test_what_a_family_leaves_as_it_is_is_neither_sliced_nor_pruned(run_benchmark, folder):
    # One of three layers: of the same size in every method, and larger than half of the whole network.
    block = ["--set", "family.generated=[conv2, bn2, conv3.weight]", "--set", "family.width_groups=[conv2]"]
    parts = "individual,family,untrained,pruning"
    result = run_benchmark(*block, "--parts", parts, "--runs", str(folder / "block"))
    halves = [row for row in result["rows"] if row["width"] == 0.5]
    methods = {row["method"] for row in halves}
    assert {
        "family",
        "individual",
        "slicing",
        "interpolation",
        "pruning, L1",
        "pruning, Hessian, fine-tuned",
    } <= methods
    config = LeNetConfig(hidden_channels=[8, 4, 8], kernel_size=3, batch_norm=True, image_size=8, num_labels=10)
    assert {row["num_parameters"] for row in halves} == {count_parameters(find_target(config).build(config))}


def test_a_family_over_width_and_depth_is_measured_beside_networks_of_fewer_blocks(run_benchmark, folder, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    texts = {split: {"text": sentences(8)} for split in ("train", "validation", "test")}
    config = "{hidden_size: 8, num_hidden_layers: 4, num_attention_heads: 2, num_key_value_heads: 2, head_dim: 4, "
    overrides = [f"target.config={config}intermediate_size: 8}}", "data.block_size=16", "train.batch_size=4"]
    overrides += ["pretrain.batch_size=4", "calibration={}"]
    result = run_benchmark(
        *("--recipe", str(RECIPES / "shakespeare_llama_whole.yaml"), "--data", save(folder / "texts", **texts)),
        *(word for override in overrides for word in ("--set", override)),
        *("--runs", str(folder / "depth"), "--parts", "depth", "--alone", "0.5", "--widths", "1.0,0.5"),
    )
    found = {(row["method"], row["width"]): row for row in result["rows"]}
    label = "family over width and depth, depth"
    family = {(f"{label} {depth}", width) for depth in ("1", "0.75", "0.5") for width in (1.0, 0.5)}
    assert found.keys() == family | {("individual, depth 0.5", 0.5)}
    alone, morph = found["individual, depth 0.5", 0.5], found[f"{label} 0.5", 0.5]
    assert alone["macs"] == morph["macs"] < found[f"{label} 0.75", 0.5]["macs"]
    assert alone["loss"] != morph["loss"]
    assert load_recipe(folder / "depth" / "depth-seed0" / "recipe.yaml").sizes.depths == [1.0, 0.75, 0.5]


@pytest.mark.parametrize(
    ("steps", "batch_size", "most"), [(100, 16, 20_000), (6000, 16, 20_000), (10, 4, 60), (1, 2, 9)]
)
def test_crops_and_epochs_make_up_the_steps_that_are_asked_for(steps, batch_size, most):
    script = load_script("benchmarks/taesd.py")
    crops, epochs = script.plan_steps(steps, batch_size, most)
    trained_on = crops - 2 * round(script.CUT_OFF * crops)
    made = epochs * max(1, trained_on // batch_size)
    # Whole epochs come near; where few crops are too many already, one epoch is the least there is.
    assert abs(made - steps) <= max(0.2 * steps, trained_on / batch_size / 2) or epochs == 1
    assert crops <= max(most, 40)


def test_crops_of_photos_are_parts_at_their_own_scale_and_small_images_are_enlarged(tmp_path):
    script = load_script("benchmarks/taesd.py")
    rng = np.random.default_rng(0)
    for name, (height, width) in {"large": (40, 60), "small": (12, 12)}.items():
        images = [Image.fromarray(rng.integers(0, 255, (height, width, 3)).astype(np.uint8)) for _ in range(3)]
        features = datasets.Features({"photo": datasets.Image()})
        (tmp_path / name).mkdir()
        datasets.Dataset.from_dict({"photo": images}, features=features).to_parquet(tmp_path / name / "train.parquet")
    folders = [str(tmp_path / name) for name in ("large", "small")]
    crops, again = script.make_crops(folders, 6, 16), script.make_crops(folders, 6, 16)
    assert {crop.size for crop in crops} == {(16, 16)}
    assert [crop.tobytes() for crop in crops] == [crop.tobytes() for crop in again]
    assert len({crop.tobytes() for crop in crops}) > 3
    assert script.to_tensor(Image.new("RGB", (30, 20), (255, 0, 0))).shape == (1, 3, 16, 24)


def test_steps_of_common_networks_are_timed_beside_plain_ones(tmp_path, monkeypatch):
    script = load_script("benchmarks/step_times.py")
    command = ["step_times.py", "--small", "--repeats", "1", "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", command)
    script.main()
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [(row["network"], row["width"]) for row in rows] == list(itertools.product(script.NETWORKS, script.WIDTHS))
    for full, half in zip(rows[::2], rows[1::2], strict=True):
        assert half["num_parameters"] < full["num_parameters"] < full["hypernetwork_parameters"]
        assert full["ratio"] > 0
    assert (tmp_path / "out.png").is_file()
