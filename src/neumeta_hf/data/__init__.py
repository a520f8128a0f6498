"""Data: from a data set's name to normalised, augmented batches."""

from neumeta_hf.data.base import Data, Split
from neumeta_hf.data.config import DataConfig, Preprocessing
from neumeta_hf.data.counts import check_classes
from neumeta_hf.data.entry import check_keys, load_data, make_preprocessor
from neumeta_hf.data.generation import generated_data, write_texts
from neumeta_hf.data.image_streams import ImageStream
from neumeta_hf.data.loading import ImageData, load_image_data
from neumeta_hf.data.splits import ImageSplit, collate
from neumeta_hf.data.streams import StreamLoader, StreamSplit

__all__ = [
    "Data",
    "DataConfig",
    "ImageData",
    "ImageSplit",
    "ImageStream",
    "Preprocessing",
    "Split",
    "StreamLoader",
    "StreamSplit",
    "check_classes",
    "check_keys",
    "collate",
    "generated_data",
    "load_data",
    "load_image_data",
    "make_preprocessor",
    "write_texts",
]
