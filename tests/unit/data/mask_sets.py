"""Small data sets of images with masks, as folders of parquet files."""

import io

import datasets
import numpy as np
from PIL import Image

from neumeta_hf.data import DataConfig

RGB = {"num_channels": 3, "mean": [0.0] * 3, "std": [1.0] * 3}


def in_file(image):
    """As files hold it: from a PIL image `datasets` would make TIFF of palettes and 16 bits."""
    buffer = io.BytesIO()
    image.save(buffer, "TIFF" if image.mode == "I" else "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def palette(indices):
    """A mask whose indices have colours that, read as grey, are other numbers."""
    mask = Image.fromarray(np.asarray(indices, dtype=np.uint8))
    mask.putpalette([255 - 20 * (index // 3) % 256 for index in range(768)])
    return mask


def save(folder, images, masks, *, columns=("image", "label"), more=(), **other_splits):
    """A folder of parquet files; test is what train is unless `other_splits` says otherwise."""
    folder.mkdir()
    features = datasets.Features({name: datasets.Image() for name in (*columns, *more)})
    for split, pair in {"train": (images, masks), "test": (images, masks), **other_splits}.items():
        shown = [[in_file(image) for image in part] for part in pair]
        rows = {**dict(zip(columns, shown, strict=True)), **dict.fromkeys(more, shown[0])}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return folder


def config_for(folder, **fields):
    options = {"labels": "mask", "image_size": [6, 8], "validation_fraction": 0, **RGB, **fields}
    return DataConfig(dataset=str(folder), **options)


def grey(number, size=(8, 6), seed=0):
    pixels = np.random.default_rng(seed).integers(1, 256, (number, size[1], size[0], 3), dtype=np.uint8)
    return [Image.fromarray(image) for image in pixels]


def plain(value, size=(8, 6)):
    return Image.new("L", size, value)
