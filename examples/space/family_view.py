"""What the page shows of a family: its sizes, what they cost and score, their weights, what they make of an image.

Knows nothing of the page. Texts that come from a checkpoint are plain here; the page escapes them.
"""

import base64
import dataclasses
import io
import re
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageChops, ImageOps
from torch import Tensor, nn

from neumeta_hf import NeuMetaModel, SizeWarning, load_image_data, load_recipe
from neumeta_hf.errors import DataError, MissingCheckpointError, NeuMetaError
from neumeta_hf.evaluation import count_macs, count_parameters, evaluate_network
from neumeta_hf.hub import find_run_file
from neumeta_hf.hub.run_files import read_sweep
from neumeta_hf.scores import Score, score_of
from neumeta_hf.targets import load_image_processor

MOST_SLIDERS = 8
MOST_PIXELS = 40_000_000
MOST_WEIGHTS = 768
"""Of a side of the picture of a layer's weights."""
MOST_TEST_IMAGES = 1000
"""That a size is measured on while somebody waits."""
_AUTOENCODING = ("image-generation", "image-reconstruction")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slider:
    """One slider: a width group of the family, or several of a kind where there are many.

    Attributes:
        name: Such as "conv1", or "stage1.block*".
        groups: Width groups that it moves.
    """

    name: str
    groups: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """A network of the family, and what is known of it.

    Attributes:
        model: The morph.
        size: Counts by axis.
        width: The ratio; None where groups differ.
        depth: Ratio of blocks.
        num_parameters: Of the whole network.
        macs: Multiply-accumulates for one sample.
        milliseconds: Of one sample, the median of a few runs.
        score: The family's first score; None: not known for this size.
        is_measured: Whether the score was measured, and not read between two measured sizes.
        notes: What the library warns of.
    """

    model: nn.Module
    size: Any
    width: float | None
    depth: float
    num_parameters: int
    macs: int
    milliseconds: float
    score: float | None
    is_measured: bool
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a network makes of an image.

    Attributes:
        seen: The image as the network gets it.
        made: A reconstruction or segmentation; None: there is none.
        classes: Names with probabilities, the likeliest first; of a segmentation with shares of the image.
    """

    seen: Image.Image
    made: Image.Image | None = None
    classes: tuple[tuple[str, float], ...] = ()


class FamilyView:
    """A family, and all that is asked of it.

    Args:
        name: Folder or Hub id of the family.

    Raises:
        NeuMetaError: It cannot be loaded.
    """

    def __init__(self, name: str):
        self.name = Path(name).resolve().name if Path(name).is_dir() else name
        self.family: Any = NeuMetaModel.from_pretrained(name).eval()
        self.task: str = self.family.target_family.task
        self.takes_images = "pixel_values" in self.family.target_family.input_names
        self.sliders = find_sliders(self.family.width_groups)
        trained = self.family.config.trained_widths
        self.least_width, self.most_width = (min(trained), max(trained)) if len(trained) > 1 else (0.25, 1.0)
        self.least_depth = min(self.family.config.trained_depths)
        self.full = self.family.morph(1.0)
        self.sweep = self._read_sweep()
        self.score: Score = score_of((self.sweep or {}).get("facts", {}))
        self.test_images = self._embedded_test_images()
        self._processor = self._load_processor(name)
        self.layers = [name for name in self.family.generated_names if self._full_weight(name).dim() >= 2]

    def _read_sweep(self) -> dict[str, Any] | None:
        run = self.family.run_source
        return None if run is None else read_sweep(find_run_file(run, "sweep.json"))

    def _embedded_test_images(self) -> Any:
        """scikit-learn's digits, where the family was trained on them: they take no download, and little time."""
        run = self.family.run_source
        path = None if run is None else find_run_file(run, "recipe.yaml")
        if path is None or self.task != "image-classification":
            return None
        try:
            data = load_recipe(path, []).data
        except NeuMetaError:  # of another version of the library, say: nothing is measured then
            return None
        if data.dataset != "digits":
            return None
        test = load_image_data(data).test
        return test if len(test) <= MOST_TEST_IMAGES else None

    def _load_processor(self, name: str) -> Any:
        if not self.takes_images or self.task in _AUTOENCODING:  # the latter take [-1, 1], which needs no file
            return None
        try:
            return load_image_processor(name)
        except MissingCheckpointError:
            return None

    def _full_weight(self, name: str) -> Tensor:
        return self.full.state_dict()[self.family.space.names(self.family.space.full)[name]]

    @property
    def label_names(self) -> list[str]:
        """Of the classes, in order."""
        names = self.family.config.id2label or {}
        return [str(names[label]) for label in sorted(names)]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.family.target_family.image_shape(self.family.reference_config)

    @property
    def is_dark(self) -> bool:
        """Whether images are mostly black, as digits in ink are in data sets: a drawing is then white on black."""
        mean = getattr(self._processor, "image_mean", None)
        return self.image_shape[0] == 1 and (self._processor is None or (mean is not None and mean[0] < 0.5))

    # ---------------------------------------------------------------------------------------------------- sizes

    def morph(self, ratios: Sequence[float], depth: float = 1.0) -> Network:
        """Take the network of a size out of the family, and see what it costs.

        Args:
            ratios: One per slider.
            depth: Ratio of blocks.

        Returns:
            The network.

        Raises:
            SizeError: There is no such network.
            NeuMetaError: It cannot be generated.
        """
        width = ratios[0] if len(set(ratios)) == 1 else None
        by_group = {group: ratio for slider, ratio in zip(self.sliders, ratios, strict=True) for group in slider.groups}
        family = self.family.target_family
        size = self.family.size_at(by_group if width is None else width, depth=depth)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", SizeWarning)
            model = self.family.morph(size)
        example = family.example_batch(self.family.reference_config, 1)
        num_parameters = count_parameters(model)
        score, is_measured = self._score(model, width, depth, num_parameters)
        return Network(
            model=model,
            size=size,
            width=width,
            depth=depth,
            num_parameters=num_parameters,
            macs=count_macs(model, example, family=family),
            milliseconds=1000 * measure_seconds(lambda: family.forward(model, example)),
            score=score,
            is_measured=is_measured,
            notes=tuple(str(entry.message) for entry in caught if issubclass(entry.category, SizeWarning)),
        )

    @property
    def curve(self) -> list[tuple[float, int, float]]:
        """Width, parameters and score of the measured uniform sizes of full depth, the smallest first."""
        rows = (self.sweep or {}).get("rows", [])
        return sorted(
            (row["width"], row["num_parameters"], row[self.score.name])
            for row in rows
            if not isinstance(row["width"], Mapping) and row.get("depth", 1) == 1 and row[self.score.name] is not None
        )

    def _score(
        self, model: nn.Module, width: float | None, depth: float, num_parameters: int
    ) -> tuple[float | None, bool]:
        if self.test_images is not None:
            scores = evaluate_network(model, self.test_images, family=self.family.target_family)
            return scores.get(self.score.name), True
        for row in (self.sweep or {}).get("rows", []):
            if (row["width"], row.get("depth", 1), row["num_parameters"]) == (width, depth, num_parameters):
                return row[self.score.name], True
        if width is None or depth != 1 or not self.curve:
            return None, False
        widths, _, scores = zip(*self.curve, strict=True)
        if not widths[0] <= width <= widths[-1]:
            return None, False
        return float(np.interp(width, widths, scores)), False

    # -------------------------------------------------------------------------------------------------- weights

    def draw_weights(self, network: Network, layer: str) -> tuple[Image.Image, str]:
        """Draw the weights of a layer into the frame of their full size.

        Args:
            network: From `morph`.
            layer: One of `layers`.

        Returns:
            The picture, outputs from left to right and inputs from top to bottom, and what it shows.

        Raises:
            DataError: There is no such layer.
        """
        if layer not in self.layers:
            raise DataError(f"there is no layer {layer!r}: choose one of {', '.join(self.layers)}.")
        full = self._full_weight(layer)
        name = self.family.space.names(network.size).get(layer)
        weight = None if name is None else network.model.state_dict()[name]
        limit = full.float().abs().flatten().quantile(0.99).item() if full.numel() < 2**24 else full.abs().max().item()
        frame = np.full((*_as_matrix(full).shape, 3), 238, dtype=np.uint8)
        if weight is None:
            return Image.fromarray(frame), "this layer is left out at this depth"
        matrix = _as_matrix(weight)
        frame[: matrix.shape[0], : matrix.shape[1]] = _in_colours(matrix.numpy() / (limit or 1.0))
        kernel = "×".join(map(str, full.shape[2:]))
        said = f"{weight.shape[0]} of {full.shape[0]} outputs, {weight.shape[1]} of {full.shape[1]} inputs"
        if kernel:
            said += f", {kernel} each"
        if max(full.shape[0] * full.shape[-1], full.shape[1]) > MOST_WEIGHTS:
            said += "; the first of them are shown"
        return Image.fromarray(frame), said

    # ----------------------------------------------------------------------------------------------- predictions

    def read_drawing(self, url: str) -> Image.Image:
        """Read what somebody drew.

        Args:
            url: A PNG as a browser's canvas gives it, with its data inside.

        Returns:
            The image.

        Raises:
            DataError: It is something else.
        """
        kind, _, data = url.partition(",")
        try:
            if kind != "data:image/png;base64":
                raise ValueError(kind)
            return self.read_image(io.BytesIO(base64.b64decode(data, validate=True)))
        except ValueError as error:
            raise DataError("this is no drawing: draw on the canvas.") from error

    def read_image(self, path: str | io.BytesIO) -> Image.Image:
        """Read an image that somebody chose.

        Args:
            path: The file.

        Returns:
            The image, the right way up.

        Raises:
            DataError: It is no image, or has too many pixels.
        """
        try:
            with (
                warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
                Image.open(path) as image,
            ):
                if image.width * image.height > MOST_PIXELS:
                    raise DataError(
                        f"the image has {image.width}x{image.height} pixels, and may have {MOST_PIXELS:,} in all: "
                        "give a smaller one."
                    )
                return ImageOps.exif_transpose(image).convert("RGBA")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError("this file cannot be read as an image: give a PNG or JPEG.") from error

    def predict(self, network: Network, image: Image.Image, *, is_drawn: bool = False) -> Prediction:
        """Let a network look at an image.

        Args:
            network: From `morph`.
            image: Of any size and mode.
            is_drawn: Whether somebody drew it, who need not fill the frame: it is cropped to its ink.

        Returns:
            What it makes of it.

        Raises:
            DataError: Nothing is drawn, or there is no image processor.
        """
        image = _without_alpha(image, black=self.is_dark)
        if is_drawn:
            image = crop_to_ink(image)
        pixels, seen = self._prepare(image)
        with torch.inference_mode():
            outputs = self.family.target_family.forward(network.model, {"pixel_values": pixels})
        if self.task in _AUTOENCODING:
            return Prediction(seen=seen, made=_as_image((outputs.sample[0].float() + 1) / 2))
        names, logits = self.label_names, outputs.logits[0].float()
        if self.task == "semantic-segmentation":
            mask = logits.argmax(0)
            shares = torch.bincount(mask.flatten(), minlength=len(names)) / mask.numel()
            found = [(names[label], share) for label, share in enumerate(shares.tolist()) if share > 0]
            colours = np.array(_PALETTE, dtype=np.uint8)[mask.numpy() % len(_PALETTE)]
            return Prediction(seen=seen, made=Image.fromarray(colours), classes=_likeliest(found))
        return Prediction(seen=seen, classes=_likeliest(list(zip(names, logits.softmax(-1).tolist(), strict=True))))

    def _prepare(self, image: Image.Image) -> tuple[Tensor, Image.Image]:
        channels, height, width = self.image_shape
        if self.task in _AUTOENCODING:
            image = image.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
            values = np.atleast_3d(np.asarray(image, dtype=np.float32)) / 127.5 - 1
            pixels = torch.from_numpy(values).movedim(-1, 0)[None]
            return pixels, _as_image((pixels[0] + 1) / 2)
        if self._processor is None:
            raise DataError(f"{self.name} has no image processor, which says what its networks take: no prediction.")
        pixels = self._processor(image, return_tensors="pt")["pixel_values"]
        mean, std = (
            torch.tensor(getattr(self._processor, key, None) or [default]).view(-1, 1, 1)
            for key, default in (("image_mean", 0.0), ("image_std", 1.0))
        )
        return pixels, _as_image(pixels[0].float() * std + mean)


def find_sliders(groups: Sequence[str]) -> list[Slider]:
    """Find a few sliders for the width groups of a family.

    Args:
        groups: As the family names them.

    Returns:
        One per group; where they are too many, one for those of a stage that differ by a number; else one for all that
        differ by numbers.
    """
    ways = (
        lambda name: name,
        lambda name: re.sub(r"(?<=\.)(\D*)\d+", r"\1*", name),
        lambda name: re.sub(r"\d+", "*", name),
    )
    for way in ways:
        found: dict[str, list[str]] = {}
        for group in groups:
            found.setdefault(way(group), []).append(group)
        if len(found) <= MOST_SLIDERS:
            break
    return [Slider(name=name, groups=tuple(members)) for name, members in found.items()]


def measure_seconds(run: Any) -> float:
    """Measure how long something takes.

    Args:
        run: Called without arguments.

    Returns:
        The median of up to 15 runs, fewer where they take long.
    """
    taken: list[float] = []
    with torch.inference_mode():
        run()
        while len(taken) < 15 and sum(taken) < 0.3:
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def crop_to_ink(image: Image.Image) -> Image.Image:
    """Cut a drawing to what is drawn, as a square with a narrow margin.

    Args:
        image: On a background of one colour, that of its first pixel.

    Returns:
        The part of it.

    Raises:
        DataError: Nothing is drawn.
    """
    background = image.getpixel((0, 0))
    empty = Image.new(image.mode, image.size, background)
    box = ImageChops.difference(image, empty).convert("L").point(lambda value: 255 * (value > 32)).getbbox()
    if box is None:
        raise DataError("nothing is drawn yet: draw something, or choose an image.")
    side = round(1.05 * max(box[2] - box[0], box[3] - box[1]))
    square = Image.new(image.mode, (side, side), background)
    ink = image.crop(box)
    square.paste(ink, ((side - ink.width) // 2, (side - ink.height) // 2))
    return square


_PALETTE = [
    *((238, 238, 238), (31, 95, 168), (192, 57, 43), (39, 138, 91), (214, 137, 16), (125, 60, 152), (23, 142, 153)),
    *((99, 110, 114), (211, 84, 134), (124, 88, 60), (90, 120, 30)),
]
"""The first is mostly the background's."""


def _likeliest(classes: list[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(classes, key=lambda entry: -entry[1])[:5])


def _as_matrix(weight: Tensor) -> Tensor:
    """`[out, in, ...]` to inputs by outputs, kernels as small tiles, the first of what is too many."""
    weight = weight.detach()[:MOST_WEIGHTS, :MOST_WEIGHTS].float()
    high, wide = (1, 1, *weight.shape[2:])[-2:]  # of a kernel; a matrix has none
    weight = weight.reshape(*weight.shape[:2], -1, wide)[:, :, :high]
    tiles = weight.permute(1, 2, 0, 3).reshape(weight.shape[1] * high, weight.shape[0] * wide)
    return tiles[:MOST_WEIGHTS, :MOST_WEIGHTS]


def _in_colours(values: np.ndarray) -> np.ndarray:
    """Blue where negative, red where positive, white at 0; 1 is the end of the scale."""
    values = np.clip(np.nan_to_num(values), -1, 1)[..., None]
    blue, red, white = (np.array(colour) for colour in ((31, 95, 168), (192, 57, 43), (255, 255, 255)))
    return np.where(values < 0, white + (white - blue) * values, white + (red - white) * values).astype(np.uint8)


def _as_image(values: Tensor) -> Image.Image:
    pixels = (255 * values.clamp(0, 1)).round().byte().movedim(0, -1).squeeze(-1).numpy()
    return Image.fromarray(pixels)


def _without_alpha(image: Image.Image, *, black: bool) -> Image.Image:
    image = image.convert("RGBA")
    below = Image.new("RGBA", image.size, "black" if black else "white")
    return Image.alpha_composite(below, image).convert("RGB")
