"""Whole runs of segmentation networks and autoencoders: the same trainer, sweep and command as for classifiers."""

import copy
import json

import datasets
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from PIL import Image
from safetensors.torch import load_file
from tiny_runs import reset_accelerate
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline

from neumeta_hf.cli import main
from neumeta_hf.errors import RecipeError
from neumeta_hf.modeling_neumeta import NeuMetaModel
from neumeta_hf.modeling_tasks import NeuMetaForImageGeneration, NeuMetaForSemanticSegmentation
from neumeta_hf.targets import MlpVae
from neumeta_hf.training import recipe_from_dict, train

GRID = {"hypernetwork": {"type": "grid", "positions": "absolute", "levels": 2}, "coordinate_noise": 0.0}
LOOP = {"epochs": 2, "batch_size": 16, "optimizer": {"learning_rate": 0.01}, "schedule": {"name": "constant"}}
SIZES = {"widths": [0.5, 0.75, 1.0], "sampler": "sandwich"}
LOSSES = {"reconstruction": 0.0, "regularization": 0.0, "distillation": 1.0}
DIGITS = {"dataset": "digits", "labels": "none", "image_size": 8, "mean": [0.5], "std": [0.5]}


def vae_recipe(output, **changes):
    values = {
        "output_dir": str(output),
        "data": DIGITS,
        "target": {
            "family": "mlp_vae",
            "config": {"encoder_hidden_channels": [16], "decoder_hidden_channels": [16], "latent_channels": 3},
        },
        "preparation": {"normalization": "keep", "order": "importance"},
        "pretrain": {**LOOP, "epochs": 1, "batch_size": 128},
        "family": {**GRID, "generated": ["decoder"]},
        "sizes": SIZES,
        "losses": LOSSES,
        "train": {**LOOP, "batch_size": 128},
    }
    return recipe_from_dict({**copy.deepcopy(values), **changes})


def tiny_recipe(output, **changes):
    widths = {"encoder_block_out_channels": [8, 8], "decoder_block_out_channels": [8, 8], "latent_channels": 2}
    blocks = {"num_encoder_blocks": [1, 1], "num_decoder_blocks": [1, 1]}
    target = {"family": "autoencoder_tiny", "config": {"vae": {**widths, **blocks}}}
    return vae_recipe(output, **{"target": target, **changes})


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Images of two colours, the mask saying which; a band without any class."""
    folder, rng = tmp_path_factory.mktemp("scenes"), np.random.default_rng(0)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    for split, number in (("train", 48), ("validation", 8)):
        rows = {"image": [], "label": []}
        for _ in range(number):
            mask = np.zeros((32, 48), dtype=np.uint8)
            mask[:, rng.integers(8, 40) :] = 1
            image = np.where(mask[..., None] == 1, (200, 60, 40), (40, 90, 180)) + rng.integers(-20, 20, (32, 48, 3))
            mask[:2] = 7
            rows["image"].append(Image.fromarray(image.astype(np.uint8)))
            rows["label"].append(Image.fromarray(mask))
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return folder


def segmentation_recipe(scenes, output, **changes):
    backbone = {"layer_type": "basic", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    values = {
        "output_dir": str(output),
        "data": {
            "dataset": str(scenes),
            "labels": "mask",
            "label_names": ["water", "rust"],
            "ignore_index": 7,
            "image_size": [32, 48],
            "num_channels": 3,
            "mean": [0.5] * 3,
            "std": [0.25] * 3,
            "augmentation": "scale_crop_flip",
            "test_split": "validation",
            "validation_fraction": 0.2,
        },
        "target": {
            "family": "upernet",
            "config": {"backbone_config": backbone, "hidden_size": 8, "pool_scales": [1, 2]},
        },
        "task": {"dice": 0.5},
        "preparation": {"normalization": "keep", "order": "importance"},
        "pretrain": {**LOOP, "epochs": 4, "batch_size": 8},
        "family": {**GRID, "width_groups": ["backbone.*"]},
        "sizes": SIZES,
        "losses": LOSSES,
        "train": {**LOOP, "batch_size": 8},
    }
    return recipe_from_dict({**values, **changes})


@pytest.fixture(scope="module")
def segmented(scenes, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "segmentation"
    reset_accelerate()
    assert train(segmentation_recipe(scenes, output)) == output
    reset_accelerate()
    return output


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "vae"
    reset_accelerate()
    assert train(vae_recipe(output)) == output
    reset_accelerate()
    return output


def test_a_segmentation_run_ends_in_a_family_and_its_processor(segmented):
    family = NeuMetaForSemanticSegmentation.from_pretrained(segmented)
    assert family.config.id2label == {0: "water", 1: "rust"}
    assert "head" not in family.width_groups
    assert AutoImageProcessor.from_pretrained(segmented).size == {"height": 32, "width": 48}
    log = [json.loads(line) for line in (segmented / "log.jsonl").read_text().splitlines()]
    validated = [entry for entry in log if "train/validation/mean_iou" in entry]
    assert {"train/validation/mean_iou@0.5", "train/validation/mean_iou@1"} <= set(validated[-1])


def test_the_command_evaluates_draws_and_morphs_segmentation(segmented, tmp_path, capsys):
    prefix = tmp_path / "sweep"
    assert main(["evaluate", str(segmented), "--widths", "0.5,1.0", "--output", str(prefix), "--figures"]) == 0
    assert "IoU" in capsys.readouterr().out
    result = json.loads(prefix.with_name("sweep.json").read_text())
    assert result["facts"]["task"] == "semantic-segmentation"
    assert result["facts"]["score"]["name"] == "mean_iou"
    assert result["reference"]["mean_iou"] > 0.5  # two colours are not hard to tell apart
    for row in result["rows"]:
        assert 0 <= row["mean_iou"] <= row["pixel_accuracy"] + 0.5
    for name in ("sweep.png", "sweep_images.png", "sweep.csv"):
        assert prefix.with_name(name).stat().st_size > 0
    assert main(["morph", str(segmented), "--width", "0.5", "--output", str(tmp_path / "morph")]) == 0
    network = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "morph")
    assert type(network).__name__ == "UperNetForSemanticSegmentation"
    segment = pipeline("image-segmentation", model=str(tmp_path / "morph"), device="cpu")
    found = segment(Image.new("RGB", (48, 32), (40, 90, 180)))
    assert {entry["label"] for entry in found} <= {"water", "rust"}


def test_figures_are_calibrated_as_the_sweep_is(segmented, tmp_path):
    """At a width without stored statistics there is nothing else to draw with."""
    options = ["--widths", "0.6", "--calibrate", "16", "--figures", "--output", str(tmp_path / "sweep")]
    assert main(["evaluate", str(segmented), *options]) == 0
    assert (tmp_path / "sweep_images.png").stat().st_size > 0


def test_the_command_evaluates_draws_and_morphs_autoencoders(generated, tmp_path, capsys):
    prefix = tmp_path / "sweep"
    assert main(["evaluate", str(generated), "--widths", "0.5,1.0", "--output", str(prefix), "--figures"]) == 0
    assert "MSE" in capsys.readouterr().out
    rows = json.loads(prefix.with_name("sweep.json").read_text())["rows"]
    assert {"mse", "ssim", "psnr", "elbo", "kl"} <= set(rows[0])
    assert prefix.with_name("sweep_images.png").stat().st_size > 0
    assert main(["morph", str(generated), "--width", "0.5", "--output", str(tmp_path / "morph")]) == 0
    network = MlpVae.from_pretrained(tmp_path / "morph")
    assert network.decode(torch.zeros(2, 3, 1, 1)).sample.shape == (2, 1, 8, 8)


def test_an_interrupted_autoencoder_ends_as_one_that_ran_through(generated, tmp_path):
    """What the posterior draws is a function of seed and step, so that nothing is lost with the process."""
    output = tmp_path / "run"
    stopped = vae_recipe(output, train={**LOOP, "batch_size": 128, "stop_after_steps": 13})
    assert train(stopped) is None
    reset_accelerate()
    assert train(vae_recipe(output), resume=True) == output
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (output, generated))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_a_small_autoencoder_kl_trains_and_morphs_to_the_stock_class(tmp_path):
    vae = {"block_out_channels": [8, 16], "norm_num_groups": 4, "latent_channels": 2, "mid_block_add_attention": False}
    recipe = vae_recipe(
        tmp_path / "run",
        target={"family": "autoencoder_kl", "config": {"vae": vae}},
        family={**GRID, "generated": ["*"]},
        train={**LOOP, "epochs": 1, "batch_size": 256},
        pretrain={**LOOP, "epochs": 1, "batch_size": 256},
        task={"kl": 0.001, "perceptual": 0.1},
    )
    output = train(recipe)
    assert output is not None
    family = NeuMetaForImageGeneration.from_pretrained(output)
    morph = family.morph(0.5)
    assert type(morph) is AutoencoderKL
    assert morph.config["block_out_channels"] == [4, 8]
    assert {path.name for path in output.iterdir()} >= {"reference", "model.safetensors"}
    assert not (output / "preprocessor_config.json").exists()  # diffusers has it in code


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {**DIGITS, "labels": "mask"}}, "needs 'none' or 'class'"),
        ({"task": {"dice": 1.0}}, "image-generation takes perceptual, kl, features, num_samples"),
        ({"task": {"kl": -1.0}}, "task.kl=-1.0"),
        ({"data": {**DIGITS, "std": [0.3]}}, r"take images in \[-1, 1\]"),
    ],
)
def test_what_does_not_fit_the_task_is_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(RecipeError, match=message):
        train(vae_recipe(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_a_tiny_autoencoder_trains_its_decoder_and_its_morphs_are_stock(tmp_path, capsys):
    output = train(tiny_recipe(tmp_path / "run"))
    assert output is not None
    family = NeuMetaModel.from_pretrained(output)
    assert family.target_family.image_shape(family.reference_config) == (1, 8, 8)
    assert main(["morph", str(output), "--width", "0.5", "--output", str(tmp_path / "morph")]) == 0
    network = AutoencoderTiny.from_pretrained(tmp_path / "morph")
    assert (network.config.encoder_block_out_channels, network.config.decoder_block_out_channels) == ([8, 8], [4, 4])
    options = ["--widths", "0.5,1.0", "--output", str(tmp_path / "sweep"), "--figures"]
    assert main(["evaluate", str(output), *options]) == 0
    assert "PSNR" in capsys.readouterr().out
    result = json.loads((tmp_path / "sweep.json").read_text())
    assert (result["facts"]["task"], result["facts"]["score"]["name"]) == ("image-reconstruction", "psnr")
    for row in result["rows"]:
        assert row["psnr"] == pytest.approx(10 * np.log10(4 / row["mse"]), abs=0.01)
        assert 0 < row["ssim"] < 1
    assert (tmp_path / "sweep_images.png").stat().st_size > 0
    assert not (output / "preprocessor_config.json").exists()  # diffusers has it in code


def test_a_classifier_of_mixed_and_changed_images_with_smoothed_labels_resumes_to_the_bit(tmp_path):
    data = {**DIGITS, "labels": "class", "augmentation": "randaugment", "mixup": 0.2, "cutmix": 1.0}
    target = {"family": "lenet", "config": {"hidden_channels": [4, 6, 8], "kernel_size": 3}}
    changes = {"data": data, "target": target, "task": {"label_smoothing": 0.1}, "family": {**GRID}}
    whole = train(vae_recipe(tmp_path / "whole", **changes))
    reset_accelerate()
    stop = {**LOOP, "batch_size": 128, "stop_after_steps": 13}
    assert train(vae_recipe(tmp_path / "stopped", **changes, train=stop)) is None
    reset_accelerate()
    resumed = train(vae_recipe(tmp_path / "stopped", **changes), resume=True)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (resumed, whole))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
