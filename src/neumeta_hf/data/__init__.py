"""Data: from a data set's name to normalised, augmented batches."""

from neumeta_hf.data.config import DataConfig, Preprocessing
from neumeta_hf.data.counts import check_classes
from neumeta_hf.data.loading import ImageData, load_image_data
from neumeta_hf.data.splits import ImageSplit, collate

__all__ = [
    "DataConfig",
    "ImageData",
    "ImageSplit",
    "Preprocessing",
    "check_classes",
    "collate",
    "load_image_data",
]
