"""`NeuMetaModel`: a hypernetwork that holds a family of networks, and hands back any member of it."""

import contextlib
import copy
import functools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput, SemanticSegmenterOutput

from neumeta_hf.batches import Inputs
from neumeta_hf.calibration import calibrate
from neumeta_hf.checkpoints import HeldWeights, check_loaded, limit_building, open_checkpoint, weights_digest
from neumeta_hf.configuration_neumeta import MAX_STATISTICS, MorphConfig, NeuMetaConfig, check_sampling
from neumeta_hf.coordinates import TensorCoordinates, add_noise, make_coordinates
from neumeta_hf.errors import CheckpointError, SizeError, TargetError
from neumeta_hf.hub import FamilyFacts, MorphOrigin, PushPlan, RunSource, push_family, push_morph
from neumeta_hf.hypernetworks import build_hypernetwork, complete_options
from neumeta_hf.image_batches import ImageBatches, NormalizedImages, images_of
from neumeta_hf.pixels import pixel_cross_entropy
from neumeta_hf.selection import select
from neumeta_hf.space import Size
from neumeta_hf.static_outputs import KnownOutputs, StaticOutputs
from neumeta_hf.stored_statistics import StoredStatistics
from neumeta_hf.targets import AutoencoderOutput, TargetFamily, config_of, find_target, size_of
from neumeta_hf.tensor_tree import TensorTree

_MAX_KEPT = 64
"""Sizes whose network and coordinates are kept: sizes per group are too many."""

_PIXEL_STEPS = 32
"""Calibration images are stored as bytes, in steps of 1/32 of a standard deviation: from -4 to just below 4."""

Width = float | Mapping[str, float] | Size | PreTrainedConfig
"""A ratio for all width groups, a ratio per group or pattern, or a `Size` of the family's space; deprecated: the config
of a network of the family."""


class SizeWarning(UserWarning):
    """A morph outside the range of sizes that training drew."""


@contextlib.contextmanager
def ignore_size_warnings() -> Iterator[None]:
    """Silence `SizeWarning`: for sizes that this library asks for itself, or reports on in another way."""
    with warnings.catch_warnings(action="ignore", category=SizeWarning):
        yield


class _Forward(nn.Module):
    """A family's forward pass as a module, so that tensors can be put in the place of the network's own."""

    def __init__(self, family: TargetFamily, target: nn.Module):
        super().__init__()
        self.family = family
        self.target = target

    def forward(self, batch: Inputs, *, seed: int | None) -> Any:
        return self.family.forward(self.target, batch, seed=seed)


class NeuMetaModel(PreTrainedModel):
    """A family of networks in one checkpoint: the hypernetwork, and the tensors that it does not generate.

    `morph` makes a plain network of a size; `forward` runs one without making it; both go through `generate`.

    Attributes:
        target_family: What its networks are.
        generated_names: Parameters of the target that the hypernetwork makes, in the order that numbers them.
        static_names: Tensors of the target that the checkpoint holds as they are.
        static_modules: The outermost modules of the target that have no tensor which differs by size: static ones, or
            none at all.
        statistic_names: Statistics of the target's generated BatchNorm, which every size has its own of.
        constants: Tensors of BatchNorm that was fused but that the architecture cannot leave out, to their values.
        space: The sizes of the target.
        width_groups: Axes of it that a size may change.
        varying_axes: Generated name to whether sizes change the number of its output and of its input channels.
        hypernetwork: Coordinates to values.
        run_source: Where the files of its run lie, which pushes take along; None: nowhere.

    Args:
        config: Names the target family, the reference's config, the hypernetwork and what is generated.
        held: What the files hold that it is loaded from, which it must fit. None: it is not loaded.

    Raises:
        TargetError: `generated` matches nothing, a width group is unknown, a static tensor would change its shape with
            a size, or the target family is for another task than the class.
    """

    config_class = NeuMetaConfig
    config: NeuMetaConfig
    base_model_prefix = ""
    task: ClassVar[str | None] = None
    """The task of the families that the class is for; None: of all."""
    with_loss: ClassVar[Callable[[Any, Tensor], Any] | None] = None
    """Makes an output with `loss` of a target's output and labels; None: the class has no loss."""
    run_source: RunSource | None = None
    _skeletons: dict[Size, nn.Module]
    _plans: dict[tuple, Mapping[str, TensorCoordinates]]

    def __init__(self, config: NeuMetaConfig, *, held: HeldWeights | None = None):
        super().__init__(config)
        self.target_family = find_target(self.reference_config)
        task = self.target_family.task
        if self.task not in (None, task):
            raise TargetError(
                f"{type(self).__name__} is for {self.task}, and {self.target_family.name} for {task}: use "
                f"{family_class(task).__name__}."
            )
        self.main_input_name = self.target_family.input_names[0]
        with limit_building() as num_built:
            reference = self.target_family.build(copy.deepcopy(self.reference_config))
        if held is not None:
            held.check_work(num_built(), len(self.target_family.axes(self.reference_config)), len(config.generated))
        tensors = reference.state_dict()
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self.space = self.target_family.space(self.reference_config, shapes)
        selection = select(
            reference,
            self.space,
            generated=config.generated,
            width_groups=config.width_groups,
            normalization=config.normalization,
        )
        self.generated_names, self.static_names = selection.generated, selection.static
        self.statistic_names, self.constants = selection.statistics, selection.constants
        self.static_modules, self.width_groups = selection.static_modules, selection.free_axes
        self.varying_axes = selection.varying
        # Inside __dict__, out of reach of nn.Module: meta targets are neither saved nor moved.
        self.__dict__["_skeletons"], self.__dict__["_plans"] = {}, {}
        config.hypernetwork = complete_options(config.hypernetwork)
        full_size = list(self.coordinates_at(self.space.full, device="cpu").values())
        self.hypernetwork = build_hypernetwork(config.hypernetwork, full_size)
        parameters = {name for name, _ in reference.named_parameters()}
        self.static = TensorTree(
            {name: tensors[name].detach().clone() for name in self.static_names if name in parameters},
            {name: tensors[name].clone() for name in self.static_names if name not in parameters},
        )
        for tensor in self.static.tensors().values():
            if tensor.device.type != "meta":  # filled by the target's own initialisation: post_init must not refill it
                tensor._is_hf_initialized = True  # pyright: ignore[reportAttributeAccessIssue]
        self.statistics = self._empty_statistics()
        num_images = config.calibration_images
        shape = self.target_family.image_shape(self.reference_config) if num_images else ()
        self._hold_calibration_images(torch.zeros((num_images, *shape), dtype=torch.uint8))
        self.post_init()
        if held is not None:
            held.check_family(self, self.num_generated_parameters)

    @property
    def reference_config(self) -> PreTrainedConfig:
        """Config of the target at width 1.0."""
        if not isinstance(self.config.target_config, PreTrainedConfig):
            raise TargetError("target_config is missing: give the config of the reference, or use from_reference().")
        return self.config.target_config

    @classmethod
    def from_reference(cls, reference: nn.Module, **fields) -> Self:
        """A new family around a prepared reference.

        The hypernetwork starts at the reference where it can hold it exactly, and is fresh otherwise.

        Args:
            reference: The prepared target at width 1.0; its static tensors are copied.
            **fields: Of `NeuMetaConfig`, such as `hypernetwork`, `generated` and `normalization`.

        Returns:
            The model, on the reference's device and of its dtype.

        Raises:
            TargetError: As for the constructor; or `normalization` is "fuse" and the reference's BatchNorm is not
                fused.
        """
        target_config = copy.deepcopy(config_of(reference))
        names = {key: getattr(target_config, key) for key in ("id2label", "label2id")}
        config = NeuMetaConfig(target_config=target_config, **names, **fields)
        model = cls(config)
        config.width_groups = model.width_groups
        tensors = reference.state_dict()
        for name, value in model.constants.items():
            if not name.endswith("num_batches_tracked") and (tensors[name] - value).abs().max() > 1e-3:
                problem = f"the reference's {name} is not {value:g}: its BatchNorm was not fused."
                raise TargetError(
                    f'{problem} Pass it through prepare(reference, normalization="fuse") first, or say '
                    'normalization="keep" here.',
                    command=f"{problem} Run `neumeta prepare` on it first, or set preparation.normalization to keep.",
                )
        with torch.no_grad():
            for name, tensor in model.static.tensors().items():
                tensor.copy_(tensors[name])
        model.hypernetwork.start_at([tensors[name] for name in model.generated_names])
        parameter = next(reference.parameters())
        return model.to(device=parameter.device, dtype=parameter.dtype)  # pyright: ignore[reportCallIssue]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path=None, *args, output_loading_info: bool = False, **kwargs):
        """As for any transformers model, but a checkpoint that does not fit is an error, not a warning.

        Only safetensors files are read, no link is followed out of the folder, and what the files hold is compared with
        the config before memory is taken for it, and with the checksum that was saved.

        Raises:
            CheckpointError: A file is damaged or leads elsewhere, keys or shapes do not fit, weights are no numbers or
                not those that were saved.
            MissingCheckpointError: There is no such checkpoint, or a file of it is missing; also an OSError.
            TargetError: The target family is not registered.
            HypernetworkError: The hypernetwork is unknown, or an option of it.
        """
        where = {key: kwargs[key] for key in ("revision", "subfolder", "cache_dir") if key in kwargs}
        name: Any = pretrained_model_name_or_path
        load: Any = super().from_pretrained
        if name is not None:
            checkpoint = open_checkpoint(name, kwargs)
            name, load = checkpoint.name, functools.partial(checkpoint.load_family, load, cls.config_class)
        kwargs["ignore_mismatched_sizes"] = True  # they come back as keys, and are named below
        model, info = load(name, *args, output_loading_info=True, **kwargs)
        # Converted, or not from the file at all: then the checksum is of other bits.
        as_saved = kwargs.get("dtype", kwargs.get("torch_dtype")) in (None, "auto") and name is not None
        check_loaded(model, info, str(name), digest=model.config.weights_digest if as_saved else None)
        if name is not None:
            model.run_source = RunSource.of_loaded(name, **where)
        return (model, info) if output_loading_info else model

    def save_pretrained(self, *args, **kwargs):
        """As for any transformers model; the config also gets a checksum of the weights, which loading compares."""
        self.config.weights_digest = weights_digest(kwargs.get("state_dict") or self.state_dict())
        super().save_pretrained(*args, **kwargs)

    # ------------------------------------------------------------------------------------------------ sizes

    def size_at(self, width: Width = 1.0, *, counts: Mapping[str, int] | None = None) -> Size:
        """The size that a width or counts of channels ask for.

        Args:
            width: A ratio for all width groups, a ratio per group or pattern, or a size of the family's space.
            counts: Channels by group or pattern, instead of ratios.

        Returns:
            The size.

        Raises:
            SizeError: No network of the family has that size, it changes what this checkpoint holds fixed, or both
                `width` and `counts` are given.
        """
        if counts is not None:
            if width != 1.0:
                raise SizeError(f"width={width!r} and size={dict(counts)!r} are given: say it in one of them.")
            return self.space.size_of(counts, free=self.width_groups)
        if not isinstance(width, Size | PreTrainedConfig):
            return self.space.size(width, free=self.width_groups)
        if isinstance(width, PreTrainedConfig):
            warnings.warn(
                "a config as a width is deprecated: give the counts that it says, as in morph(size={'stage3': 40}).",
                FutureWarning,
                stacklevel=3,
            )
            size = size_of(width, self.reference_config)
        else:
            size = self.space.exactly(width)
        fixed = [axis for axis in size if size[axis] != self.space.full[axis] and axis not in self.width_groups]
        if fixed:
            raise SizeError(
                f"the size changes {', '.join(fixed)}, which this checkpoint holds fixed: only "
                f"{', '.join(self.width_groups)} may differ from the reference."
            )
        return size

    def target_config_at(self, width: Width = 1.0) -> PreTrainedConfig:
        """Config of the target at a size.

        Args:
            width: As for `size_at`.

        Returns:
            A new config.

        Raises:
            SizeError: As for `size_at`.
        """
        return self.target_family.config_at(self.reference_config, self.size_at(width))

    def has_size(self, width: Width) -> bool:
        """Whether the family has a network of a size.

        Args:
            width: As for `size_at`.

        Returns:
            False where `size_at` would raise a `SizeError`.
        """
        try:
            self.size_at(width)
        except SizeError:
            return False
        return True

    def is_in_trained_range(self, size: Size) -> bool:
        """Whether every width group lies between the smallest and the largest size that training drew."""
        if not self.config.trained_widths:
            return False
        low, high = self._trained_extremes()
        return all(low[group] <= size[group] <= high[group] for group in self.width_groups)

    def _trained_extremes(self) -> tuple[Size, Size]:
        widths = self.config.trained_widths
        return self.size_at(min(widths)), self.size_at(max(widths))

    def _warn_outside(self, size: Size) -> None:
        if not self.is_in_trained_range(size):
            widths = self.config.trained_widths
            trained = f"widths {min(widths):g} to {max(widths):g}" if widths else "no size yet"
            asked = ", ".join(f"{group}={size[group]}" for group in self.width_groups)
            warnings.warn(
                f"the size asked for ({asked} channels) lies outside the trained range: training drew {trained}. "
                "Expect lower accuracy, and measure it.",
                SizeWarning,
                stacklevel=3,
            )

    # ------------------------------------------------------------------------------------------------ generation

    def skeleton_at(self, size: Size) -> nn.Module:
        """The target of a size on the meta device: its forward pass, without any weight."""
        network = self._skeletons.pop(size, None)
        if network is None:
            with torch.device("meta"):
                network = self.target_family.build(self.target_family.config_at(self.reference_config, size))
        _keep(self._skeletons, size, network)
        return network

    def _generated_shapes(self, size: Size) -> dict[str, tuple[int, ...]]:
        shapes = self.space.shapes(size)
        return {name: shapes[name] for name in self.generated_names}

    @property
    def num_generated_parameters(self) -> int:
        """How many weights the hypernetwork makes at full size; told from their shapes."""
        return sum(math.prod(shape) for shape in self._generated_shapes(self.space.full).values())

    @functools.cached_property
    def _full_num_parameters(self) -> int:
        full = self.skeleton_at(self.space.full)
        return sum(parameter.numel() for parameter in full.parameters())

    @property
    def coordinate_scale(self) -> int:
        """The constant `N` that sizes are divided by."""
        if self.config.coordinate_scale is not None:
            return self.config.coordinate_scale
        return max(max(shape[:2]) for shape in self._generated_shapes(self.space.full).values())

    def coordinates_at(
        self, size: Size, *, device: torch.device | str | None = None
    ) -> Mapping[str, TensorCoordinates]:
        """What the hypernetwork is asked for a size, without noise; made once and kept.

        Args:
            size: Of the space.
            device: Where positions lie. None: where the family is.

        Returns:
            Generated name to its coordinates; not to be changed.
        """
        config = self.config
        device = torch.device(self.device if device is None else device)
        if device.type == "meta":
            device = torch.device("cpu")
        key = (size, device, tuple(config.trained_widths), config.clamp_sizes, config.alignment, self.coordinate_scale)
        plan = self._plans.pop(key, None)
        if plan is None:
            smallest = largest = None
            if config.clamp_sizes and config.trained_widths:
                smallest, largest = (self._generated_shapes(extreme) for extreme in self._trained_extremes())
            plan = make_coordinates(
                self._generated_shapes(size),
                scale=self.coordinate_scale,
                alignment=config.alignment,  # pyright: ignore[reportArgumentType]
                smallest=smallest,
                largest=largest,
                varying=self.varying_axes,
                parts={name: self.space.parts(name, size) for name in self.generated_names},
                reference_parts={name: self.space.parts(name, self.space.full) for name in self.generated_names},
                device=device,
            )
        _keep(self._plans, key, plan)
        return plan

    def generate(
        self, width: Width = 1.0, *, noise: float = 0.0, num_samples: int = 1, seed: int = 0
    ) -> dict[str, Tensor]:
        """Ask the hypernetwork for every generated tensor of a size.

        The one road from coordinates to weights: training and morphing both take it. Differentiable in the
        hypernetwork's parameters.

        Args:
            width: As for `size_at`.
            noise: Full width of the uniform coordinate noise, in channels; 0 is exact.
            num_samples: How many noisy generations are averaged; time grows with it, memory does not.
            seed: Of the noise: the same seed gives the same weights on every device.

        Returns:
            Parameter name to tensor, of the shape that the target of that size declares and, under autocast too, of the
            family's dtype.

        Raises:
            SizeError: No network of the family has that size, or `noise`, `num_samples` or `seed` is out of range.
        """
        check_sampling(num_samples=num_samples, noise=noise, seed=seed)
        coordinates = self.coordinates_at(self.size_at(width))
        generator = torch.Generator().manual_seed(int(seed))
        total: list[Tensor] = []
        for _ in range(num_samples if noise else 1):
            moved = add_noise(coordinates, noise, scale=self.coordinate_scale, generator=generator)
            values = self.hypernetwork(list(moved.values()))
            total = [a + b for a, b in zip(total, values, strict=True)] if total else values
        if noise and num_samples > 1:
            total = [tensor / num_samples for tensor in total]
        # Autocast makes bf16 of matrix products, and so of what they generate. The weights of plain networks it leaves
        # alone until they are used, and BatchNorm on a GPU takes no others beside its statistics.
        dtype = self.dtype  # a walk through the modules
        total = [tensor.to(dtype) for tensor in total]
        # In the memory order of a loaded checkpoint: kernels round by it, and a morph computes the same once saved.
        return {name: tensor.contiguous() for name, tensor in zip(coordinates, total, strict=True)}

    def complete(self, size: Size, generated: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All tensors of the target of a size: generated, static, constant, and BatchNorm statistics where stored.

        Args:
            size: Of the space.
            generated: As from `generate`, at that size.

        Returns:
            Name to tensor. Statistics that no one has stored for the size are 0 and 1: fit for batch statistics only.
        """
        device, dtype = self.device, self.dtype
        shapes = self.space.shapes(size)
        tensors = {**self.static.tensors(), **generated}
        for name, value in self.constants.items():
            integral = name.endswith("num_batches_tracked")
            tensors[name] = torch.full(shapes[name], value, device=device, dtype=torch.int64 if integral else dtype)
        stored = self.statistics.at(size) or {}
        for name in self.statistic_names:
            if name in stored:
                tensors[name] = stored[name]
            elif name.endswith("num_batches_tracked"):
                tensors[name] = torch.zeros((), device=device, dtype=torch.int64)
            else:
                fill = 1.0 if name.endswith("running_var") else 0.0
                tensors[name] = torch.full(shapes[name], fill, device=device, dtype=dtype)
        return tensors

    # ------------------------------------------------------------------------------------------------ use

    def run(
        self,
        size: Size,
        generated: Mapping[str, Tensor],
        batch: Inputs,
        *,
        seed: int | None = None,
        static_outputs: StaticOutputs | KnownOutputs | None = None,
    ) -> Any:
        """Run the target of a size with the given weights, without making a module of it.

        In training mode a BatchNorm that is generated uses its batch's statistics; static and fused ones never do.

        Args:
            size: Of the space.
            generated: As from `generate`, at the same size.
            batch: Name to tensor; what the target does not take, such as labels, may be in it. A bare tensor is the
                target's first input.
            seed: Of what the target draws at random in training; None: nothing is random.
            static_outputs: Given to the runs of several sizes on one batch: what the modules before the first generated
                one put out is then computed once, or known already.

        Returns:
            The target's output.

        Raises:
            TargetError: The batch holds nothing that the target takes.
        """
        skeleton = self.skeleton_at(size)
        skeleton.train(self.training)
        measured = self._measured_modules()
        for name, module in skeleton.named_modules():
            if isinstance(module, _BatchNorm):
                module.train(self.training and name in measured)
        tensors = self.complete(size, generated)
        if self.training:  # BatchNorm then writes into the statistics that it is given
            tensors |= {name: tensors[name].clone() for name in self.statistic_names}
        tensors = {f"target.{name}": tensor for name, tensor in tensors.items()}
        inputs = {"batch": batch, "seed": seed}
        with contextlib.ExitStack() as stack:
            if static_outputs is not None:
                stack.enter_context(static_outputs.taken_by(skeleton, self.static_modules))
            return torch.func.functional_call(_Forward(self.target_family, skeleton), tensors, (), inputs, strict=True)

    def forward(
        self, inputs: Tensor | None = None, /, *, width: Width = 1.0, noise: float = 0.0, seed: int = 0, **batch: Any
    ) -> Any:
        """Run the network of a size.

        Args:
            inputs: The target's first input, such as images, where `batch` does not name it.
            width: As for `size_at`.
            noise: Coordinate noise in channels, for training.
            seed: Of the noise.
            **batch: Tensors that the target takes, by name; and "labels", where there is a class for its task that
                computes a loss of them. What is None counts as not given.

        Returns:
            The target's output, with `loss` if there are labels.

        Raises:
            TargetError: The target takes no such input, or gets none, one twice or a mapping for one; or no loss is
                known for the labels.
            SizeError: No network of the family has that size.
            CheckpointError: BatchNorm was kept and has no statistics for that size (evaluation mode).
        """
        batch = self._batch_of(inputs, batch)
        size = self.size_at(width)
        if not self.training:
            self._warn_outside(size)
            self._require_statistics(size)
        generated = self.generate(size, noise=noise, seed=seed)
        outputs = self.run(size, generated, batch)
        with_loss = family_class(self.target_family.task).with_loss
        return outputs if with_loss is None or "labels" not in batch else with_loss(outputs, batch["labels"])

    def _batch_of(self, inputs: Tensor | None, named: Mapping[str, Any]) -> dict[str, Any]:
        """What a call of the family gives its target, and labels; refuses what nothing would read."""
        names = self.target_family.input_names
        batch = {name: value for name, value in named.items() if value is not None}
        if inputs is not None:
            if isinstance(inputs, Mapping):
                raise TargetError("a whole batch was given as one input: unpack it, as in family(**batch).")
            if names[0] in batch:
                raise TargetError(f"{names[0]} was given twice, by its name and without: give it once.")
            batch = {names[0]: inputs, **batch}
        has_loss = family_class(self.target_family.task).with_loss is not None
        known = (*names, "labels") if has_loss else names
        if unknown := [name for name in batch if name not in known]:
            raise TargetError(
                f"{', '.join(unknown)} was given, and a family of {self.target_family.name!r} takes "
                f"{', '.join(known)} alone: leave out the rest."
            )
        return batch

    @torch.no_grad()
    def morph(
        self,
        width: Width | MorphConfig = 1.0,
        *,
        size: Mapping[str, int] | None = None,
        num_samples: int = 1,
        noise: float | None = None,
        seed: int = 0,
        calibration: Iterable[Any] | None = None,
    ) -> Any:
        """A plain network of the asked size, with no trace of the hypernetwork, in evaluation mode.

        Args:
            width: A ratio for all width groups; a ratio per group or pattern such as `{"stage3": 0.25}` or
                `{"stage*.block*": 0.5}`; or a `MorphConfig`, which stands for all arguments but `calibration`.
            size: Channels per group or pattern, such as `{"stage3": 40}`, instead of ratios.
            num_samples: How many generations are averaged; only noisy ones differ from each other.
            noise: Full width of their uniform coordinate noise, in channels; 0 is exact. None: 0 for one sample, the
                training's for several.
            seed: Of the noise.
            calibration: Batches of normalised images, as training saw them and in any form that loaders give them
                (`neumeta_hf.calibrate` lists them), to measure BatchNorm statistics on. Without them, where BatchNorm
                was kept, the statistics stored for the size are taken, or read between those of two stored sizes at
                most 7 % apart; else they are measured on the checkpoint's own calibration images. Static BatchNorm
                keeps its own.

        Returns:
            The stock class of the family wherever its config can express the size, a model of transformers or of
            diffusers; all tensors are its own. Its `morph_origin` says where it comes from and has a checksum of its
            weights, so that its card does not tell of it what was measured before they were trained on.

        Raises:
            SizeError: No network of the family has that size; `num_samples`, `noise` or `seed` is out of range, or
                stands beside a `MorphConfig`.
            CheckpointError: BatchNorm was kept and there are neither statistics for the size nor images to measure
                them on; or there is `calibration` and no generated BatchNorm, or it is not of normalised images.
        """
        if isinstance(width, MorphConfig):
            if (num_samples, noise, seed, size) != (1, None, 0, None):
                raise SizeError(
                    "a MorphConfig and size, num_samples, noise or seed were given: say it in the MorphConfig alone."
                )
            width, num_samples, noise, seed = width.width, width.num_samples, width.noise, width.seed
        check_sampling(num_samples=num_samples, noise=noise, seed=seed)
        chosen = self.size_at(width, counts=size)
        self._warn_outside(chosen)
        if calibration is not None and not self.statistic_names:
            raise CheckpointError(
                "this checkpoint generates no BatchNorm: there is nothing to calibrate, drop calibration."
            )
        images = self._own_calibration(chosen) if calibration is None else self._image_batches(calibration)
        if noise is None:
            noise = 0.0 if num_samples == 1 else self.config.coordinate_noise
        generated = self.generate(chosen, noise=noise, num_samples=num_samples, seed=seed)
        tensors = self.complete(chosen, generated)
        with torch.device("meta"):
            model = self.target_family.build(self.target_family.config_at(self.reference_config, chosen))
        model.load_state_dict({name: tensor.detach().clone() for name, tensor in tensors.items()}, assign=True)
        model.eval()
        if images is not None:
            calibrate(model, images, modules=self._measured_modules())
        calibrated = images.num_images if images is not None and calibration is not None else None
        facts = {"num_samples": int(num_samples), "noise": float(noise), "seed": int(seed), "calibrated": calibrated}
        self._name_origin(model, chosen, facts)
        return model

    def _name_origin(self, model: Any, size: Size, facts: Mapping[str, Any]) -> None:
        """Say where the morph comes from, for the card that is written when it is shared; the network stays as it is.

        Args:
            model: The morph.
            size: Of the morph.
            facts: How it was made, as `MorphOrigin` says it.
        """
        ratios = self.space.ratios(size)
        origin = MorphOrigin(
            source=self.name_or_path or "",
            run=self.run_source,
            family=self.target_family.name,
            task=self.target_family.task,
            widths={group: ratios[group] for group in self.width_groups},
            full_num_parameters=self._full_num_parameters,
            digest=weights_digest(model.state_dict()),
            **facts,
        )
        model.morph_origin = origin
        model.push_to_hub = functools.partial(push_morph, model, origin)

    # ------------------------------------------------------------------------------------------------ sharing

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str = "50GB",
        tags: list[str] | None = None,
        license: str | None = None,
        image_processor: Any = None,
        run: str | Path | None = None,
        overwrite_card: bool = False,
        with_code: bool = False,
        dry_run: bool = False,
    ) -> str | PushPlan:
        """Upload the family as one commit: weights, config, image processor, facts of its run, and a model card.

        Args:
            repo_id: `organisation/name`, or a name in one's own space; made if it does not exist.
            commit_message: Its first line.
            commit_description: What follows.
            private: Whether a new repo is private; None: as the organisation's default says.
            token: Of the Hub; None: the stored one.
            revision: Branch to push to, made if it does not exist; None: main.
            create_pr: Open a pull request instead of committing.
            max_shard_size: Of a weights file.
            tags: More tags for the card.
            license: Of the weights, a Hub identifier such as "apache-2.0". None: as the card that is there says, or
                "unknown".
            image_processor: Instead of the run's.
            run: Folder of the run, whose image processor, recipe, training facts and sweep go along, from now on. None:
                the folder or the commit that the family was loaded from; one that was never loaded has the files that
                it was first pushed with.
            overwrite_card: Write the card anew. Otherwise a card that is there keeps all that somebody wrote in it, and
                its generated section is refreshed.
            with_code: Put this package's modeling code beside the weights, for
                `AutoModel.from_pretrained(..., trust_remote_code=True)` where the package is not installed.
            dry_run: Upload nothing, and ask the Hub nothing of `repo_id`, whose card may hold more.

        Returns:
            Address of the commit. Where nothing has changed there is no new one. In a dry run, the card and the files
            that would go up.

        Raises:
            HubError: The Hub refuses or cannot be reached, after the retries that are safe; nothing was changed then.
            CardError: The card that is there cannot be read, or is somebody's own and has another licence.
            CheckpointError: A file of the run is damaged, or `run` is no folder.
        """
        if run is not None:
            self.run_source = RunSource.of_folder(run)
        facts = FamilyFacts(
            config=self.config.to_dict(),
            family=self.target_family.name,
            task=self.target_family.task,
            width_groups={group: self.space.full[group] for group in self.width_groups},
            num_parameters={
                "hypernetwork": sum(parameter.numel() for parameter in self.hypernetwork.parameters()),
                "generated": self.num_generated_parameters,
                "static": sum(parameter.numel() for parameter in self.static.parameters()),
            },
        )
        commit = push_family(
            self,
            facts,
            repo_id,
            run=self.run_source,
            max_shard_size=max_shard_size,
            license=license,
            tags=tags,
            image_processor=image_processor,
            with_code=with_code,
            commit_message=commit_message,
            commit_description=commit_description,
            private=private,
            token=token,
            revision=revision,
            create_pr=create_pr,
            overwrite_card=overwrite_card,
            dry_run=dry_run,
        )
        if isinstance(commit, PushPlan):
            return commit
        self.name_or_path = commit.repo_url.repo_id  # what its morphs name from now on
        if self.run_source is None:
            self.run_source = RunSource(repo_id=self.name_or_path, revision=commit.oid)
        return commit

    # ------------------------------------------------------------------------------------------------ statistics

    def _empty_statistics(self) -> StoredStatistics:
        """One set of BatchNorm statistics per stored width, empty and of the right shape."""
        found: dict[float, dict[str, Tensor]] = {}
        for width in self.config.statistics_widths:
            shapes = self.space.shapes(self.size_at(width))
            dtypes = {True: torch.int64, False: torch.get_default_dtype()}
            found[width] = {
                name: torch.zeros(shapes[name], dtype=dtypes[name.endswith("num_batches_tracked")])
                for name in self.statistic_names
            }
        return self._store_statistics(found)

    def _store_statistics(self, widths: Mapping[float, Mapping[str, Tensor]]) -> StoredStatistics:
        nested = self.hypernetwork.positions == "absolute"
        return StoredStatistics(self.space, widths, free=self.width_groups, are_nested=nested)

    def calibrate(self, batches: Iterable[Any], widths: Iterable[float] | None = None) -> None:
        """Measure the BatchNorm statistics of uniform widths on images, and keep them in the checkpoint.

        Training has measured them on its own images; on images of yours, statistics follow what the networks will see.

        Args:
            batches: Normalised images as training saw them, in any form that loaders give them (`neumeta_hf.calibrate`
                lists them); a few thousand. Gone through once.
            widths: Ratios, such as a list or a progress bar around it; they replace what was stored before. None: those
                that are stored.

        Raises:
            CheckpointError: This checkpoint has no generated BatchNorm; there is no batch or no width, or there are too
                many widths; a batch is not of normalised images, or a network does not take it.
            SizeError: No network of the family has one of these sizes.

        Whatever is raised, what was stored is as it was.
        """
        if not self.statistic_names:
            raise CheckpointError("this checkpoint generates no BatchNorm: it needs no statistics at any size.")
        widths = self.config.statistics_widths if widths is None else widths
        images = self._image_batches(batches)
        # Read once, for all widths; what has been checked need not be again.
        held = NormalizedImages(images)
        measured: dict[float, dict[str, Tensor]] = {}
        for width in widths:
            if isinstance(width, Mapping | PreTrainedConfig | MorphConfig):
                raise SizeError(f"calibrate() got a {type(width).__name__}: it stores uniform widths, such as 0.5.")
            if len(measured) == MAX_STATISTICS:
                raise CheckpointError(
                    f"calibrate() got more than {MAX_STATISTICS} widths, which is all that are stored."
                )
            with ignore_size_warnings():
                state = self.morph(width, calibration=held).state_dict()
            measured[float(width)] = {name: state[name] for name in self.statistic_names}
        if not measured:
            raise CheckpointError("calibrate() got no width, and this checkpoint stores none: pass widths=[0.5, 1.0].")
        self.statistics, self.config.statistics_widths = self._store_statistics(measured), list(measured)

    def _image_batches(self, batches: Iterable[Any]) -> ImageBatches:
        return ImageBatches(batches, self.target_family.image_shape(self.reference_config))

    def _measured_modules(self) -> set[str]:
        """Names of the BatchNorm modules whose statistics belong to a size."""
        return {name.rpartition(".")[0] for name in self.statistic_names}

    def store_calibration_images(self, images: Any) -> None:
        """Keep images in the checkpoint, which statistics of sizes without stored ones are measured on.

        Args:
            images: A batch of normalised ones, `[images, channels, height, width]` of the size that the reference is
                made for, in any form that loaders give it; they replace what was stored before, and are rounded to
                1/32. None at all (`images[:0]`) drops them.

        Raises:
            CheckpointError: This checkpoint has no generated BatchNorm, or the images are no normalised floats, of
                another shape or outside of [-4, 4); what was stored is as it was.
        """
        if not self.statistic_names:
            raise CheckpointError("this checkpoint generates no BatchNorm: it needs no images to calibrate on.")
        shape = self.target_family.image_shape(self.reference_config)
        images = images_of(images, "images", any_range=True, may_be_empty=True)
        if images.shape[1:] != shape:
            raise CheckpointError(f"images of shape {list(images.shape)}: give [images, {', '.join(map(str, shape))}].")
        bytes_ = (images.detach().float() * _PIXEL_STEPS).round() + 128
        if not ((bytes_ >= 0) & (bytes_ <= 255)).all():
            raise CheckpointError(
                f"the images reach from {images.min():g} to {images.max():g}: normalised ones lie in [-4, 4)."
            )
        self._hold_calibration_images(bytes_.to(self.device, torch.uint8))
        self.config.calibration_images = len(images)

    def _hold_calibration_images(self, pixels: Tensor) -> None:
        self.calibration = TensorTree({}, {"pixels": pixels} if len(pixels) else {})

    def _own_calibration(self, size: Size) -> ImageBatches | None:
        """What to measure the statistics of a size on, or None where none are to be measured."""
        if not self.statistic_names or self.statistics.covers(size):
            return None
        pixels = self.calibration.tensors().get("pixels")
        if pixels is None:
            self._require_statistics(size)
            return None
        images = (pixels.to(self.dtype) - 128) / _PIXEL_STEPS
        return self._image_batches(NormalizedImages([images]))  # one batch: the variance over all of them

    def _require_statistics(self, size: Size) -> None:
        if self.statistic_names and not self.statistics.covers(size):
            stored = ", ".join(f"{width:g}" for width in self.config.statistics_widths) or "none"
            problem = (
                "this checkpoint keeps BatchNorm and stores no statistics for the size asked for (stored widths: "
                f"{stored})."
            )
            advice = (
                "Run morph() of that size, which measures them."
                if self.config.calibration_images
                else "Pass morph(..., calibration=batches of images as training saw them), or calibrate() the family."
            )
            raise CheckpointError(
                f"{problem} {advice}",
                command=f"{problem} Measure them with --calibrate N on N training images of the recipe, such as 1024; "
                "a recipe with calibration.images makes families that need none.",
            )

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, TensorTree):
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None:
                    init.zeros_(tensor)
        else:
            self.hypernetwork.initialize(module)


class NeuMetaForImageClassification(NeuMetaModel):
    """A family of image classifiers; its checkpoints and those of `NeuMetaModel` are the same files."""

    task = "image-classification"
    main_input_name = "pixel_values"

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        *,
        width: Width = 1.0,
        noise: float = 0.0,
        seed: int = 0,
        **inputs,
    ) -> ImageClassifierOutput:
        """Classify images with the network of a size.

        Args:
            pixel_values: Normalised images, `[batch, channels, height, width]`.
            labels: Class of each image, `[batch]`; given, the cross-entropy comes back as `loss`.
            width: As for `size_at`.
            noise: Coordinate noise in channels, for training.
            seed: Of the noise.
            **inputs: Further inputs of the target's forward pass.

        Returns:
            `logits`, `[batch, num_labels]`, and `loss` if there are labels.

        Raises:
            TargetError: The target takes no such further input.
            SizeError: No network of the family has that size.
            CheckpointError: BatchNorm was kept and has no statistics for that size (evaluation mode).
        """
        outputs = super().forward(pixel_values, width=width, noise=noise, seed=seed, **inputs)
        return self.with_loss(outputs, labels)

    @staticmethod
    def with_loss(outputs: Any, labels: Tensor | None) -> ImageClassifierOutput:
        """Add the cross-entropy to what a network of the task puts out; no labels, no loss."""
        loss = F.cross_entropy(outputs.logits.float(), labels) if labels is not None else None
        return ImageClassifierOutput(loss=loss, logits=outputs.logits)


class NeuMetaForSemanticSegmentation(NeuMetaModel):
    """A family of segmentation networks; its checkpoints and those of `NeuMetaModel` are the same files."""

    task = "semantic-segmentation"
    main_input_name = "pixel_values"

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        *,
        width: Width = 1.0,
        noise: float = 0.0,
        seed: int = 0,
        **inputs,
    ) -> SemanticSegmenterOutput:
        """Segment images with the network of a size.

        Args:
            pixel_values: Normalised images, `[batch, channels, height, width]`.
            labels: Class of each pixel, `[batch, height, width]`; 255 belongs to none. Given, the mean cross-entropy
                of the others comes back as `loss`, 0 where there are no others.
            width: As for `size_at`.
            noise: Coordinate noise in channels, for training.
            seed: Of the noise.
            **inputs: Further inputs of the target's forward pass.

        Returns:
            `logits`, `[batch, num_labels, height, width]`, and `loss` if there are labels.

        Raises:
            TargetError: The target takes no such further input.
            SizeError: No network of the family has that size.
            CheckpointError: BatchNorm was kept and has no statistics for that size (evaluation mode).
        """
        outputs = super().forward(pixel_values, width=width, noise=noise, seed=seed, **inputs)
        return self.with_loss(outputs, labels)

    @staticmethod
    def with_loss(outputs: Any, labels: Tensor | None) -> SemanticSegmenterOutput:
        """Add the mean cross-entropy of a pixel to what a network of the task puts out; no labels, no loss."""
        loss = pixel_cross_entropy(outputs.logits, labels) if labels is not None else None
        return SemanticSegmenterOutput(loss=loss, logits=outputs.logits)  # pyright: ignore[reportArgumentType]


class NeuMetaForImageGeneration(NeuMetaModel):
    """A family of autoencoders; its checkpoints and those of `NeuMetaModel` are the same files.

    `forward` reconstructs images from the mean of their posterior: its output has `sample`, `mean` and `logvar`.
    """

    task = "image-generation"
    main_input_name = "pixel_values"

    def forward(
        self, pixel_values: Tensor, *, width: Width = 1.0, noise: float = 0.0, seed: int = 0, **inputs
    ) -> AutoencoderOutput:
        """Reconstruct images with the network of a size.

        Args:
            pixel_values: Images in [-1, 1], `[batch, channels, height, width]`.
            width: A ratio for all width groups, a ratio per group, or a config of the family.
            noise: Coordinate noise in channels, for training.
            seed: Of the noise.
            **inputs: Further inputs of the target's forward pass.

        Returns:
            The images again, and the distribution of their latents.

        Raises:
            TargetError: The target takes no such further input.
            SizeError: No network of the family has that size.
            CheckpointError: BatchNorm was kept and has no statistics for that size (evaluation mode).
        """
        return super().forward(pixel_values, width=width, noise=noise, seed=seed, **inputs)


def _keep(kept: dict[Any, Any], key: Any, value: Any) -> None:
    """Keep a value as the newest, and no more of them than are used again."""
    kept[key] = value
    if len(kept) > _MAX_KEPT:
        del kept[next(iter(kept))]  # the oldest


def family_class(task: str) -> type[NeuMetaModel]:
    """The class of families for a task.

    Args:
        task: As target families name it.

    Returns:
        `NeuMetaModel` itself for tasks that have none of their own.
    """
    classes = (NeuMetaForImageClassification, NeuMetaForSemanticSegmentation, NeuMetaForImageGeneration)
    return next((cls for cls in classes if cls.task == task), NeuMetaModel)


AutoConfig.register(NeuMetaConfig.model_type, NeuMetaConfig)
AutoModel.register(NeuMetaConfig, NeuMetaModel)
AutoModelForImageClassification.register(NeuMetaConfig, NeuMetaForImageClassification)
AutoModelForSemanticSegmentation.register(NeuMetaConfig, NeuMetaForSemanticSegmentation)
