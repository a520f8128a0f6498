"""A pretrained ViT of the user's becomes a family for images of the user's, and a morph of it answers in a pipeline."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import reset_accelerate
from transformers import AutoImageProcessor, ViTImageProcessor, pipeline

from neumeta_hf import NeuMetaModel, load_recipe, train
from neumeta_hf.targets import find_target
from tiny_targets import vit

RECIPE = Path(__file__).parents[3] / "examples" / "recipes" / "vit_finetune.yaml"
PROCESSING = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25], "resample": 3}
CLASSES = {"leaf": (40, 160, 60), "sand": (200, 170, 90)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The shipped recipe, shortened, on a folder of photos and a folder of a network: where all of it lies."""
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    find_target("vit").build(vit(image_size=16, num_labels=5)).save_pretrained(folder / "network")
    ViTImageProcessor(size={"height": 16, "width": 16}, **PROCESSING).save_pretrained(folder / "network")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("validation", 4)):
        for name, colour in CLASSES.items():
            (folder / "images" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(rng.normal(colour, 30, (24, 20, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / "images" / split / name / f"{number}.png")
    changes = {
        "output_dir": folder / "run",
        "data.dataset": folder / "images",
        "target.checkpoint": folder / "network",
        "sizes.widths": "[0.5, 0.75, 1.0]",
        "sizes.strata": 0,
        "sizes.turns": "[1.0, 0.5]",
        "validation_widths": "[0.5, 1.0]",
    }
    for loop in ("pretrain", "train"):
        changes |= {f"{loop}.{key}": value for key, value in (("epochs", 1), ("batch_size", 8), ("num_workers", 0))}
    recipe = load_recipe(RECIPE, [f"{key}={value}" for key, value in changes.items()])
    train(recipe)
    reset_accelerate()
    return folder


@pytest.mark.filterwarnings("ignore::neumeta_hf.SizeWarning")
@pytest.mark.parametrize("width", [0.5, 0.6])
def test_a_morph_answers_in_the_users_classes_by_the_checkpoints_processing(run, width):
    family = NeuMetaModel.from_pretrained(run / "run")
    morph = family.morph(width=width)
    assert morph.config.hidden_size < 12
    morph.save_pretrained(run / f"{width}")
    AutoImageProcessor.from_pretrained(run / "run").save_pretrained(run / f"{width}")
    classify = pipeline("image-classification", model=str(run / f"{width}"), device="cpu")
    photo = Image.open(run / "images" / "validation" / "sand" / "0.png")
    answers = {answer["label"]: answer["score"] for answer in classify(photo)}
    pixels = ViTImageProcessor.from_pretrained(run / "network")(photo, return_tensors="pt")
    with torch.no_grad():
        wanted = morph(**pixels).logits.softmax(-1)[0]
    assert answers == pytest.approx(dict(zip(CLASSES, wanted.tolist(), strict=True)), abs=1e-5)


def test_all_but_the_head_comes_from_the_checkpoint(run):
    """One epoch at the recipe's small rate moves weights by far less than other random weights would differ."""
    old, tuned = (find_target("vit").load(str(run / name)).state_dict() for name in ("network", "run/pretrained"))
    assert tuned["classifier.weight"].shape[0] == len(CLASSES)
    names = [name for name in old if name.endswith("proj.weight")]
    moved = [(tuned[name] - old[name]).norm() / old[name].norm() for name in names]
    assert 0 < max(moved) < 0.1
