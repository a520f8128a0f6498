"""What a NeuMeta checkpoint says of itself, and what a morph may be asked for."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from neumeta_hf.checkpoints import check_numbers, forget_origin, without_origin
from neumeta_hf.config_fields import check_fields
from neumeta_hf.errors import CheckpointError, SizeError
from neumeta_hf.kinds import AMOUNT, COUNT, MAX_NOISE, MAX_SAMPLES, SEED, WIDTH, number, whole_number
from neumeta_hf.stored_space import check_description, version_to_install

FORMAT_VERSION = 2
"""Of the checkpoints that are saved. Raised when their meaning changes; newer formats are refused by name."""

_FORMATS = (1, FORMAT_VERSION)
"""Those that are read; format 1 states no space."""

MAX_STATISTICS = 4096
MAX_WIDTHS = 4096

_IS_REMOTE_CODE = __name__.startswith("transformers_modules.")
"""Whether this file lies beside somebody's weights, for people without the package: `auto_map` is what loads it."""

_NOISE = number(0, MAX_NOISE)
_SAMPLES = whole_number(1, MAX_SAMPLES)

_EARLIER_INR = {"num_frequencies": 16, "encode_sizes": True, "centered": False, "output": "channels"}
"""What an INR was whose config does not say it: saved before these were options."""


@strict
class NeuMetaConfig(PreTrainedConfig):
    """Configuration of a `NeuMetaModel`.

    Attributes:
        target_config: Config of the reference: the prepared target at width 1.0, of any registered family.
        hypernetwork: `{"type": name, ...options}` as `build_hypernetwork` takes it.
        generated: Which parameters of the target the hypernetwork makes: names, prefixes ("layer3.2") or patterns
            ("*"). The rest is static: saved in the checkpoint as it is.
        width_groups: Axes that a size may change: names or patterns ("backbone.*"). None: every axis all of whose
            parameters are generated.
        normalization: "fuse": BatchNorm was folded into the convolutions. "keep": its affine parameters are generated
            or static like others, and its running statistics are stored per size.
        trained_widths: Uniform widths that training drew; sizes outside their range warn.
        statistics_widths: With "keep", the uniform widths whose running statistics the checkpoint stores. Those of
            sizes between two of them at most 7 % apart are read between theirs.
        statistics_depths: Ratios of blocks at each of which these widths' statistics are stored.
        calibration_images: With "keep", how many images the checkpoint carries to measure the statistics of any other
            size on. They are synthetic: see `neumeta_hf.training.synthesize_images`.
        coordinate_scale: The constant `N` of the coordinates. None: the largest number of channels in the
            reference, as checkpoints of earlier versions have it; new ones take that of the axes that vary.
        coordinate_noise: Noise of training in channels, which the mean of several samples uses again.
        alignment: "corner" (`c / C`, the paper's) or "center" (`(c + 0.5) / C`).
        trained_depths: Ratios of blocks that training drew; 1.0 alone where it drew none.
        block_ranking: Stack of blocks to the numbers of those that a size may leave out, the last ones first. None: in
            the order of the network.
        clamp_sizes: Whether a size outside the trained range keeps the nearest trained size as its size coordinate.
        preparation: Report of the preparation: orders, total variation before and after.
        weights_digest: Checksum of the weights that were saved with this config; loading compares it.
        space: The sizes of the target as its rules gave them when it was saved: axes with their counts, steps and
            parents, and stacks of blocks. Loading compares them. None: not saved yet, or by format 1.
        neumeta_version: Version of this library that saved it.
        format_version: Format of the checkpoint.
    """

    model_type = "neumeta"
    sub_configs_defaults = {"target_config": SubConfigSpec(AutoConfig, model_type="resnet")}  # noqa: RUF012

    target_config: dict | PreTrainedConfig | None = None
    hypernetwork: dict = dataclasses.field(default_factory=lambda: {"type": "inr"})
    generated: list[str] | tuple[str, ...] = ("*",)
    width_groups: list[str] | tuple[str, ...] | None = None
    normalization: str = "fuse"
    trained_widths: list[float | int] | tuple[float | int, ...] = ()
    trained_depths: list[float | int] | tuple[float | int, ...] = (1.0,)
    block_ranking: dict | None = None
    statistics_widths: list[float | int] | tuple[float | int, ...] = ()
    statistics_depths: list[float | int] | tuple[float | int, ...] = (1.0,)
    calibration_images: int = 0
    coordinate_scale: int | None = None
    coordinate_noise: float | int = 1.0
    alignment: str = "corner"
    clamp_sizes: bool = True
    preparation: dict | None = None
    weights_digest: str | None = None
    space: dict | None = None
    neumeta_version: str | None = None
    format_version: int = FORMAT_VERSION

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Read a config from plain values, as transformers does; what cannot be a family is refused by name.

        What names code or tells where something was loaded from is left out.

        Raises:
            CheckpointError: It is not a mapping, or is of another model type. Its target is missing or unknown, or it
                names sizes that no network has. A field of it or of its target is of the wrong kind.
        """
        if not isinstance(config_dict, dict) or config_dict.get("model_type") != cls.model_type:
            found = config_dict.get("model_type") if isinstance(config_dict, dict) else type(config_dict).__name__
            raise CheckpointError(
                f"config.json {'names no model type' if found is None else f'is of model type {found!r}'}, but a "
                f"family's is {cls.model_type!r}: give the folder or repo of a family."
            )
        config_dict = {"format_version": 1, **config_dict}
        if config_dict["format_version"] in _FORMATS:  # others are refused as such
            check_numbers(config_dict)
            check_fields(config_dict)
            hypernetwork = config_dict.get("hypernetwork")
            if isinstance(hypernetwork, dict) and hypernetwork.get("type") == "inr":
                config_dict = {**config_dict, "hypernetwork": {**_EARLIER_INR, **hypernetwork}}
            target = config_dict.get("target_config")
            model_type = target.get("model_type") if isinstance(target, dict) else getattr(target, "model_type", None)
            if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
                found = f"is of model type {model_type!r}" if isinstance(model_type, str) else "names no model type"
                problem = (
                    f"config.json: target_config {found}, but must have one that transformers or this package knows."
                )
                raise CheckpointError(
                    f"{problem} Import the module that registers the target family first.",
                    command=f"{problem} Name the module that registers the target family with --import MODULE.",
                )
        return super().from_dict(_without_origin(config_dict), **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Write the fields as plain values, without what names code or tells where something was loaded from."""
        return _without_origin(super().to_dict())

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if isinstance(self.target_config, PreTrainedConfig):
            # Of the caller's own: morphs are made of it, and must not say where it was loaded from.
            self.target_config = copy.deepcopy(self.target_config)
            forget_origin(self.target_config)
        self.validate_neumeta()  # here too, where its error comes through as it is

    def validate_neumeta(self):
        """Refuse values that no model can be built from.

        Raises:
            CheckpointError: Naming the field, its value and what it may be.
        """
        if self.format_version not in _FORMATS:
            raise CheckpointError(
                f"format_version={self.format_version}: this neumeta_hf reads formats 1 to {FORMAT_VERSION}. To load "
                f"the checkpoint, {version_to_install(self.neumeta_version)}."
            )
        if self.space is not None:
            check_description(self.space)
        for name, allowed in (("normalization", ("fuse", "keep")), ("alignment", ("corner", "center"))):
            if getattr(self, name) not in allowed:
                raise CheckpointError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(allowed)}.")
        if not _NOISE.holds(self.coordinate_noise):
            raise CheckpointError(
                f"coordinate_noise={self.coordinate_noise}: give a width in channels, from 0 (no noise) to "
                f"{MAX_NOISE:g}; the paper uses 1."
            )
        if self.coordinate_scale is not None and self.coordinate_scale < 1:
            raise CheckpointError(
                f"coordinate_scale={self.coordinate_scale}: give a number of channels from 1 up, or None for the "
                "reference's largest."
            )
        if (count := len(self.statistics_widths) * len(self.statistics_depths)) > MAX_STATISTICS:
            raise CheckpointError(
                f"statistics_widths holds {len(self.statistics_widths)} widths and statistics_depths "
                f"{len(self.statistics_depths)} depths, which makes {count} sizes: at most {MAX_STATISTICS} are "
                "stored."
            )
        for name in ("trained_widths", "trained_depths", "statistics_depths"):
            if (count := len(getattr(self, name))) > MAX_WIDTHS:
                raise CheckpointError(f"{name} holds {count} ratios: at most {MAX_WIDTHS} are allowed.")
        for key in ("tv_before", "tv_after") if self.preparation else ():
            if not AMOUNT.holds(value := (self.preparation or {}).get(key)):
                raise CheckpointError(
                    f"preparation has {key}={value!r:.80}: it must be {AMOUNT.rule}, as `prepare` reports it."
                )
        if self.calibration_images < 0:
            raise CheckpointError(
                f"calibration_images={self.calibration_images}: give a number of images, or 0 for none."
            )
        for name in ("trained_depths", "statistics_depths"):
            if bad := [depth for depth in getattr(self, name) if not WIDTH.holds(depth) or depth > 1]:
                raise CheckpointError(f"{name} holds {bad[:5]}: depths are ratios in (0, 1], 1.0 is the reference.")
        for name, order in (self.block_ranking or {}).items():
            if not isinstance(order, list | tuple) or not all(COUNT.holds(number) for number in order):
                raise CheckpointError(
                    f"block_ranking has {name}={order!r:.80}: it must be a list of the numbers of its blocks."
                )
        for name in ("trained_widths", "statistics_widths"):
            if bad := [width for width in getattr(self, name) if not WIDTH.holds(width)]:
                raise CheckpointError(
                    f"{name} holds {bad[:5]}: widths are ratios in (0, 4], where 1.0 is the reference."
                )


def _without_origin(values: dict[str, Any]) -> dict[str, Any]:
    kept = {"auto_map": values["auto_map"]} if _IS_REMOTE_CODE and "auto_map" in values else {}
    return {**without_origin(values), **kept}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MorphConfig:
    """One morph: how large, and how its weights are sampled.

    Attributes:
        width: A ratio for all width groups, or a ratio per group; groups not named keep 1.0.
        num_samples: How many generations are averaged (cross-model smoothness); only noisy ones differ from each other.
        noise: Full width of their uniform coordinate noise, in channels; 0 is exact. None: 0 for one sample, the
            training's for several.
        seed: Seed of the noise.
    """

    width: float | Mapping[str, float] = 1.0
    num_samples: int = 1
    noise: float | None = None
    seed: int = 0

    def __post_init__(self):
        """Refuse what no morph can be made of.

        Raises:
            SizeError: Naming the field, its value and what it may be.
        """
        for ratio in self.width.values() if isinstance(self.width, Mapping) else (self.width,):
            if not isinstance(ratio, PreTrainedConfig) and not WIDTH.holds(ratio):
                raise SizeError(f"width={ratio!r} is no ratio: it must be {WIDTH.rule}, where 1.0 is the reference.")
        check_sampling(num_samples=self.num_samples, noise=self.noise, seed=self.seed)

    def to_dict(self) -> dict[str, Any]:
        """Write the fields as plain values."""
        return dataclasses.asdict(self)


def check_sampling(*, num_samples: int = 1, noise: float | None = None, seed: int = 0) -> None:
    """Refuse numbers that no network can be generated with.

    Args:
        num_samples: As of `MorphConfig`.
        noise: As of `MorphConfig`.
        seed: As of `MorphConfig`.

    Raises:
        SizeError: Naming the argument, its value and what it may be.
    """
    if not _SAMPLES.holds(num_samples):
        rule = f"give a whole number of at least 1, which averages nothing, and at most {MAX_SAMPLES:,}."
        raise SizeError(f"num_samples={num_samples!r}: {rule}", command=f"--num-samples {num_samples}: {rule}")
    if noise is not None and not _NOISE.holds(noise):
        raise SizeError(f"noise={noise!r}: give a width in channels, from 0 (no noise) to {MAX_NOISE:g}.")
    if not SEED.holds(seed):
        rule = "give a whole number from 0 to 2^63 - 1, which every generator takes."
        raise SizeError(f"seed={seed!r}: {rule}", command=f"--seed {seed}: {rule}")
