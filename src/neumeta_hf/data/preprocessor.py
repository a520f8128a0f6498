"""What a network's `preprocessor_config.json` says of its images, in the words of a recipe.

The file is read as plain values: no class that it names is made, and no code beside it runs. Those of the library's own
table say only what applies where the file leaves a key out.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any, NoReturn

from transformers import (
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    ConvNextImageProcessorPil,
    DeiTImageProcessorPil,
    MobileNetV1ImageProcessorPil,
    MobileNetV2ImageProcessorPil,
    PvtImageProcessorPil,
    SegformerImageProcessorPil,
    SiglipImageProcessorPil,
    ViTImageProcessorPil,
)

from neumeta_hf.errors import CheckpointError, HubError, TargetError, one_line
from neumeta_hf.hub.client import find_beside
from neumeta_hf.images import resampling
from neumeta_hf.reading import read_json
from neumeta_hf.targets import GrayscaleImageProcessor
from neumeta_hf.targets.image_processing import CONVNEXT_RESIZES_WHOLE_FROM

WAY_OUT = "Set `target.preprocessing: recipe` to ignore it and use what the recipe says under data."

# As transformers looks for it: a section of the newer file comes first.
_FILES = ("processor_config.json", "preprocessor_config.json")
MOST_PIXELS = 2**13
"""Of a side of the images that a checkpoint may ask for, so that it cannot ask for all memory."""

# Resize, crop, rescale and normalise in this order, and nothing else; two do some of it in their own way, see below.
_KNOWN: dict[str, Any] = {
    "BitImageProcessor": BitImageProcessorPil,
    "CLIPImageProcessor": CLIPImageProcessorPil,
    "ConvNextImageProcessor": ConvNextImageProcessorPil,
    "DeiTImageProcessor": DeiTImageProcessorPil,
    "GrayscaleImageProcessor": GrayscaleImageProcessor,
    "MobileNetV1ImageProcessor": MobileNetV1ImageProcessorPil,
    "MobileNetV2ImageProcessor": MobileNetV2ImageProcessorPil,
    "PvtImageProcessor": PvtImageProcessorPil,
    "SegformerImageProcessor": SegformerImageProcessorPil,
    "SiglipImageProcessor": SiglipImageProcessorPil,
    "ViTImageProcessor": ViTImageProcessorPil,
}
# Where a file names no type, transformers goes by that of the model.
_OF_MODELS = {
    "resnet": "ConvNextImageProcessor",
    "neumeta_resnet": "ConvNextImageProcessor",
    **dict.fromkeys(("convnext", "neumeta_convnext"), "ConvNextImageProcessor"),
    **dict.fromkeys(("convnextv2", "neumeta_convnextv2"), "ConvNextImageProcessor"),
    **dict.fromkeys(("mobilenet_v2", "neumeta_mobilenet_v2"), "MobileNetV2ImageProcessor"),
    **dict.fromkeys(("swin", "neumeta_swin"), "ViTImageProcessor"),
    **dict.fromkeys(("upernet", "segformer", "neumeta_segformer"), "SegformerImageProcessor"),
}
_READ = (
    *("do_resize", "size", "default_to_square", "resample", "do_center_crop", "crop_size", "crop_pct"),
    *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
)
# Names, bookkeeping, and what only applies beside another key.
_NO_PIXELS = (
    *("image_processor_type", "feature_extractor_type", "processor_class", "_processor_class", "auto_map"),
    *("_valid_processor_keys", "do_convert_rgb", "return_tensors", "input_data_format", "device", "use_fast"),
    *("disable_grouping", "image_seq_length", "pad_size"),
)
_INTERPOLATIONS: dict[int, Any] = {
    int(resampling(name)): name for name in ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
}


def stated_preprocessing(name: str, *, num_channels: int, model_type: str) -> dict[str, Any] | None:
    """Read how the images of a network are made.

    Args:
        name: A folder or Hub id, or a file of weights, which has no statement beside it.
        num_channels: That the network takes.
        model_type: Model type of its config, which decides where the file names no type.

    Returns:
        `image_size`, `center_crop`, `interpolation`, `mean` and `std` as `DataConfig` has them. None: it says nothing.

    Raises:
        CheckpointError: The file is damaged, or holds a value of the wrong kind.
        TargetError: The file says what `DataConfig` has no words for.
        HubError: Whether there is such a file cannot be told.
    """
    for file in _FILES:
        path = _find(name, file)
        if path is None:
            continue
        where, values = f"{file} of {name}", _read_values(path, f"{file} of {name}")
        if file == _FILES[0]:
            if "image_processor" not in values:
                continue
            values = values["image_processor"]
            if not isinstance(values, dict):
                raise CheckpointError(f"{where}: image_processor is no mapping. Save it again. {WAY_OUT}")
        return _Statement.of(values, where, num_channels=num_channels, model_type=model_type).fields()
    return None


def _find(name: str, file: str) -> Path | None:
    try:
        return find_beside(name, file)
    except HubError as error:
        raise HubError(f"{error} {WAY_OUT}", command=f"{error.command} {WAY_OUT}") from error


def _read_values(path: Path, where: str) -> dict[str, Any]:
    try:
        return read_json(path)
    except (OSError, CheckpointError) as error:
        raise CheckpointError(f"{where} cannot be read ({one_line(error)}) {WAY_OUT}") from error


@dataclasses.dataclass(frozen=True)
class _Statement:
    """The values of one file, each checked when it is asked for."""

    values: dict[str, Any]
    where: str
    processor: str
    num_channels: int

    @classmethod
    def of(cls, values: dict[str, Any], where: str, *, num_channels: int, model_type: str) -> "_Statement":
        named = values.get("image_processor_type") or values.get("feature_extractor_type")
        if named is None:
            named = _OF_MODELS.get(model_type, "ViTImageProcessor")
        plain = str(named).removesuffix("Fast").removesuffix("Pil")
        if plain.endswith("FeatureExtractor"):  # as they were called once
            plain = plain.removesuffix("FeatureExtractor") + "ImageProcessor"
        if plain not in _KNOWN:
            raise TargetError(
                f"{where} is of type {str(named)[:80]}, which is not known here: only {', '.join(_KNOWN)} are. "
                f"{WAY_OUT}"
            )
        statement = cls(values, where, plain, num_channels)
        statement.check_keys()
        return statement

    def fields(self) -> dict[str, Any]:
        """In the words of `DataConfig`."""
        image_size, center_crop = self.size_and_crop()
        resample = self.get("resample", int)
        if resample not in _INTERPOLATIONS:
            self.damaged("resample", f"a filter of Pillow has a number from 0 to {max(_INTERPOLATIONS)}")
        mean, std = [0.0] * self.num_channels, [1.0] * self.num_channels
        if self.get("do_normalize", bool):
            mean, std = self.by_channel("image_mean"), self.by_channel("image_std")
        if min(std) <= 0:
            self.damaged("image_std", "a channel is divided by a number above 0")
        return {
            "image_size": image_size,
            "center_crop": center_crop,
            "interpolation": _INTERPOLATIONS[resample],
            "mean": mean,
            "std": std,
        }

    def check_keys(self) -> None:
        """Refuse what changes pixels and has no words in a recipe."""
        for key, value in self.values.items():
            if key not in (*_READ, *_NO_PIXELS) and value not in (None, False, "channels_first"):
                self.unsaid(key, "data has no key for it")
        takes = 1 if self.processor == "GrayscaleImageProcessor" else 3 if self.get("do_convert_rgb", bool) else None
        if takes not in (None, self.num_channels):
            raise TargetError(
                f"{self.where} ({self.processor}) makes images of {takes} channel(s), but the network takes "
                f"{self.num_channels}: one of the two belongs to another network. {WAY_OUT}"
            )
        if not self.get("do_resize", bool):
            self.unsaid("do_resize", "images are always brought to data.image_size")
        rescales = self.get("do_rescale", bool)
        if not rescales or not math.isclose(self.get("rescale_factor", float), 1 / 255, rel_tol=1e-6):
            self.unsaid(
                "rescale_factor" if rescales else "do_rescale", "data.mean and data.std are of values in [0, 1]"
            )

    def size_and_crop(self) -> tuple[int | list[int], bool | int]:
        """`image_size` and `center_crop`."""
        size = self.sides("size", square=self.get("default_to_square", bool))
        edge = size.get("shortest_edge", 0)
        crops = self.get("do_center_crop", bool)
        if self.processor == "ConvNextImageProcessor" and set(size) == {"shortest_edge"} and not crops:
            if edge >= CONVNEXT_RESIZES_WHOLE_FROM:
                return edge, False
            resized, cropped = int(edge / self.crop_pct()), [edge, edge]
        elif self.processor == "ConvNextImageProcessor":
            self.unsaid("do_center_crop" if crops else "size", "this type crops to the `shortest_edge` of its size")
        elif set(size) == {"height", "width"}:
            whole = [size["height"], size["width"]]
            if crops and self.crop() != whole:
                self.unsaid("crop_size", "data.center_crop keeps the aspect ratio of an image when it resizes it")
            return _one_number(whole), False
        elif set(size) == {"shortest_edge"} and crops and self.processor != "SegformerImageProcessor":
            resized, cropped = edge, self.crop()
        else:
            self.unsaid("size", "images are resized whole, or to cover a size whose centre is cropped")
        height, width = cropped
        if height != width or resized < height:
            raise TargetError(
                f"{self.where} resizes the shorter side of images to {resized} pixels and crops {height}x{width}: "
                f"data.center_crop only crops a square inside the image. {WAY_OUT}"
            )
        return height, True if resized == height * 256 // 224 else resized

    def crop(self) -> list[int]:
        sides = self.sides("crop_size", square=True)
        if set(sides) != {"height", "width"}:
            self.damaged("crop_size", "it has a height and a width")
        return [sides["height"], sides["width"]]

    def crop_pct(self) -> float:
        share = self.get("crop_pct", float)
        if not 0.01 <= share <= 1:
            self.damaged("crop_pct", "it is a share from 0.01 to 1")
        return share

    def sides(self, key: str, *, square: bool) -> dict[str, int]:
        value, sides = self.raw(key), {}
        if isinstance(value, int):
            sides = {"height": value, "width": value} if square else {"shortest_edge": value}
        elif isinstance(value, list | tuple) and len(value) == 2:
            sides = {"height": value[0], "width": value[1]}
        elif isinstance(value, dict):
            sides = {name: side for name, side in value.items() if side is not None}
        whole = all(isinstance(side, int) and not isinstance(side, bool) for side in sides.values())
        if not sides or not whole or not all(1 <= side <= MOST_PIXELS for side in sides.values()):
            self.damaged(key, f"sides of images have 1 to {MOST_PIXELS:,} pixels")
        return sides

    def by_channel(self, key: str) -> list[float]:
        value = self.raw(key)
        values = list(value) if isinstance(value, list | tuple) else [value] * self.num_channels
        if not all(map(_is_number, values)):
            self.damaged(key, "give a number for each channel")
        if len(values) != self.num_channels:
            self.damaged(key, f"the network takes {self.num_channels} channel(s), so it has as many numbers")
        return [float(entry) for entry in values]

    def get(self, key: str, kind: type) -> Any:
        value = self.raw(key)
        if kind is bool:
            if value not in (None, False, True):
                self.damaged(key, "it is true or false")
            return bool(value)
        if not _is_number(value) or (kind is int and not isinstance(value, int)):
            self.damaged(key, "it is a number")
        return value

    def raw(self, key: str) -> Any:
        """As the file says, or as the type has it."""
        value = self.values.get(key)
        return getattr(_KNOWN[self.processor], key, None) if value is None else value

    def unsaid(self, key: str, reason: str) -> NoReturn:
        raise TargetError(f"{self.where} says {key}={str(self.raw(key))[:80]}, and {reason}. {WAY_OUT}")

    def damaged(self, key: str, rule: str) -> NoReturn:
        raise CheckpointError(f"{self.where}: {key}={str(self.raw(key))[:80]}: {rule}. Save it again. {WAY_OUT}")


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return -1e9 < value < 1e9  # neither NaN, nor an integer that is no float


def _one_number(sides: list[int]) -> int | list[int]:
    return sides[0] if sides[0] == sides[1] else sides
