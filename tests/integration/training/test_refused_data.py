"""Data that nothing can be learned from stops a run before it starts, and leaves the folder to a mended one."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from tiny_runs import reset_accelerate

from neumeta_hf.cli.main import main
from neumeta_hf.errors import DataError, TargetError
from neumeta_hf.training import recipe_from_dict, train

GREY = {"image_size": 8, "num_channels": 1, "mean": [0.5], "std": [0.5]}
LOOP = {"epochs": 1, "batch_size": 4}


def image(label, number, size=(8, 8)):
    pixels = np.random.default_rng(number).integers(0, 60, (size[1], size[0]), dtype=np.uint8) + 120 * label
    return Image.fromarray(pixels.astype(np.uint8))


def class_folder(folder, classes=("cat", "dog"), number=6):
    for split in ("train", "test"):
        for label, name in enumerate(classes):
            place = folder / split / name
            place.mkdir(parents=True)
            for index in range(number):
                image(label, index).save(place / f"{index}.png")
    return folder


def mask_folder(folder, values, kind="png"):
    for split in ("train", "test"):
        rows = []
        for name in ("images", "masks"):
            (folder / split / name).mkdir(parents=True)
        for index in range(8):
            mask = np.resize(np.array(values, dtype=np.uint8), (8, 8))
            image(0, index).convert("RGB").save(folder / split / f"images/{index}.png")
            Image.fromarray(mask).save(folder / split / f"masks/{index}.{kind}")
            rows.append({"image_file_name": f"images/{index}.png", "label_file_name": f"masks/{index}.{kind}"})
        (folder / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def lenet(folder, output, *, pretrain=None, **data):
    return recipe_from_dict(
        {
            "output_dir": str(output),
            "data": {"dataset": str(folder), "validation_fraction": 0.25, **GREY, **data},
            "target": {"family": "lenet", "config": {"hidden_channels": [2, 2, 2], "kernel_size": 3}},
            "pretrain": {**LOOP, **(pretrain or {})},
            "train": None,
        }
    )


def upernet(folder, output, **data):
    backbone = {"layer_type": "basic", "embedding_size": 4, "hidden_sizes": [4, 4], "depths": [1, 1]}
    colours = {"image_size": 32, "num_channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3}
    return recipe_from_dict(
        {
            "output_dir": str(output),
            "data": {"dataset": str(folder), "labels": "mask", "validation_fraction": 0.25, **colours, **data},
            "target": {
                "family": "upernet",
                "config": {"backbone_config": backbone, "hidden_size": 4, "pool_scales": [1, 2]},
            },
            "pretrain": {**LOOP, "batch_size": 3},
            "preparation": {"normalization": "keep", "order": "identity"},
            "train": None,
        }
    )


def refuse_and_mend(recipe, mended, message, kind=DataError):
    """The run is refused with nothing left behind, and the mended one goes through in the same folder."""
    said = ""
    try:
        train(recipe)
    except kind as error:
        said = str(error)
        error.__traceback__ = None  # which keeps a worker alive for seconds
    assert re.search(message, said)
    reset_accelerate()
    output = train(mended)
    assert output is not None
    assert (output / "reference" / "config.json").is_file()


def test_an_empty_validation_split_is_refused_with_its_key_and_counts(tmp_path):
    folder, output = class_folder(tmp_path / "set"), tmp_path / "run"
    refuse_and_mend(
        lenet(folder, output, validation_fraction=0.04),
        lenet(folder, output),
        "data.validation_fraction=0.04 of 12 training rows leaves no row .* give about 0.1",
    )


def test_the_families_training_is_refused_too_and_nothing_is_written(tmp_path):
    recipe = lenet(class_folder(tmp_path / "set"), tmp_path / "run", validation_fraction=0.0)
    recipe.train = recipe.pretrain
    with pytest.raises(DataError, match="data.validation_fraction=0.0"):
        train(recipe)
    assert not (tmp_path / "run").exists()


def test_a_slice_with_one_class_is_refused(tmp_path):
    folder, output = class_folder(tmp_path / "set"), tmp_path / "run"
    refuse_and_mend(
        lenet(folder, output, train_split="train[:6]"),
        lenet(folder, output, train_split="train[2:10]"),
        "the 4 images for training have cat, but a network needs two",
    )


@pytest.mark.parametrize(
    ("values", "fields", "message", "mended"),
    [
        ([0, 255], {}, r"{0: \.\.\., 255: \.\.\.}", {"mask_values": {0: "skin", 255: "lesion"}}),
        (
            [0, 255],
            {"label_names": ["skin", "lesion"]},
            r"{0: skin, 255: lesion}",
            {"label_names": None, "mask_values": {0: "skin", 255: "lesion"}},
        ),
        ([0, 7], {}, r"{0: \.\.\., 7: \.\.\.}", {"mask_values": {0: "skin", 7: "lesion"}}),
        ([1, 2], {}, r"{1: \.\.\., 2: \.\.\.}", {"mask_values": {1: "skin", 2: "lesion"}}),
    ],
    ids=str,
)
def test_masks_whose_values_are_not_understood_are_refused_and_the_advice_works(
    tmp_path, values, fields, message, mended
):
    folder, output = mask_folder(tmp_path / "set", values), tmp_path / "run"
    refuse_and_mend(upernet(folder, output, **fields), upernet(folder, output, **{**fields, **mended}), message)


def test_masks_saved_as_jpeg_are_refused_by_name(tmp_path):
    folder = mask_folder(tmp_path / "set", [0, 255], kind="jpg")
    with pytest.raises(DataError, match=r"row 0 of split 'train' \('masks/0.jpg'\) is a JPEG"):
        train(upernet(folder, tmp_path / "run", mask_values={0: "skin", 255: "lesion"}))
    assert not (tmp_path / "run").exists()


def test_oblong_images_for_a_family_of_square_ones_are_refused(tmp_path):
    folder, output = class_folder(tmp_path / "set"), tmp_path / "run"
    refuse_and_mend(
        lenet(folder, output, image_size=[16, 24]),
        lenet(folder, output, image_size=16),
        "'lenet' takes square images alone",
        kind=TargetError,
    )


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_image_that_training_meets_and_cannot_read_leaves_the_folder_to_a_mended_recipe(tmp_path, num_workers):
    folder, output = class_folder(tmp_path / "set"), tmp_path / "run"
    image(0, 0, (60, 50)).save(folder / "train" / "cat" / "5.png")
    loop = {"num_workers": num_workers, "batch_size": 9}  # one batch, so that all images are in the first
    refuse_and_mend(
        lenet(folder, output, in_memory=False, max_image_pixels=2_000, pretrain=loop),
        lenet(folder, output, in_memory=False, max_image_pixels=3_000, pretrain=loop),
        r"^the image in row 5 of split 'train' \('cat/5.png'\) has more pixels than data.max_image_pixels=2000: .*$",
    )


def test_the_command_says_it_in_one_line(tmp_path, capsys):
    folder = class_folder(tmp_path / "set")
    broken = folder / "train" / "dog" / "2.png"
    broken.write_bytes(broken.read_bytes()[:60])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"output_dir: {tmp_path / 'run'}\n"
        f"data: {{dataset: {folder}, image_size: 8, validation_fraction: 0.25, in_memory: false}}\n"
        "target: {family: lenet, config: {hidden_channels: [2, 2, 2], kernel_size: 3}}\n"
        "pretrain: {epochs: 1, batch_size: 9, num_workers: 1}\ntrain: null\n"
    )
    assert main(["-q", "train", "--config", str(recipe)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("neumeta: error:")]
    assert "row 8 of split 'train' ('dog/2.png') cannot be decoded" in line
    assert "Traceback" not in line
    assert "Original" not in line
