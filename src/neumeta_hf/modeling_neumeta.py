"""`NeuMetaModel`: a hypernetwork that holds a family of networks, and hands back any member of it."""

import contextlib
import copy
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from neumeta_hf.axes import Size
from neumeta_hf.batches import Inputs, run_with
from neumeta_hf.building import fill, own_tensors
from neumeta_hf.calibration import calibrate
from neumeta_hf.checkpoints import (
    HeldWeights,
    check_loaded,
    limit_building,
    open_checkpoint,
    weights_digest,
)
from neumeta_hf.configuration_neumeta import FORMAT_VERSION, MorphConfig, NeuMetaConfig, check_sampling
from neumeta_hf.errors import CheckpointError, SizeError, TargetError
from neumeta_hf.family_generation import FamilyGeneration, keep
from neumeta_hf.family_sharing import FamilySharing
from neumeta_hf.family_sizes import Width
from neumeta_hf.family_statistics import FamilyStatistics
from neumeta_hf.hypernetworks import build_hypernetwork, complete_options
from neumeta_hf.layouts import to_canonical
from neumeta_hf.provenance import RunSource
from neumeta_hf.recomputing import recompute_layers
from neumeta_hf.selection import select
from neumeta_hf.static_outputs import KnownOutputs, StaticOutputs
from neumeta_hf.stored_space import compare_space, describe_space, library_version
from neumeta_hf.targets import config_of, find_target
from neumeta_hf.tensor_tree import TensorTree


class NeuMetaModel(FamilyGeneration, FamilyStatistics, FamilySharing, PreTrainedModel):
    """A family of networks in one checkpoint: the hypernetwork, and the tensors that it does not generate.

    `morph` makes a plain network of a size; `forward` runs one without making it; both go through `generate`.

    Attributes:
        target_family: What its networks are.
        generated_names: Parameters of the target that the hypernetwork makes, in the order that numbers them.
        static_names: Tensors of the target that the checkpoint holds as they are.
        static_modules: The outermost modules of the target without a size-dependent tensor.
        statistic_names: BatchNorm buffers that are stored per size.
        constants: Name to value, for tensors of a fused BatchNorm that the architecture cannot leave out.
        space: The sizes of the target.
        width_groups: Axes of it that a size may change.
        varying_axes: Generated name to whether sizes change the number of its output and of its input channels.
        hypernetwork: Coordinates to values.
        run_source: Where the files of its run lie, which pushes take along; None: nowhere.

    Args:
        config: Names the target family, the reference's config, the hypernetwork and what is generated.
        held: What the files hold that it is loaded from, which it must fit. None: it is not loaded.

    Raises:
        TargetError: `generated` matches nothing, or a width group is unknown. Or a static tensor would change its shape
            with a size, or the target family is for another task than the class.
        CheckpointError: The target has other sizes than when the config was saved.
    """

    config_class = NeuMetaConfig
    config: NeuMetaConfig
    base_model_prefix = ""
    task: ClassVar[str | None] = None
    """The task of the families that the class is for; None: of all."""
    with_loss: ClassVar[Callable[[Any, Tensor], Any] | None] = None
    """Makes an output with `loss` of a target's output and labels; None: the class has no loss."""
    _classes: ClassVar[dict[str, Any]] = {}
    """The class of families for each task; `modeling_tasks` has them."""
    _skeletons: dict[tuple[Size, torch.device], nn.Module]
    _recomputes: bool = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.task is not None:
            NeuMetaModel._classes.setdefault(cls.task, cls)

    @classmethod
    def class_for(cls, task: str) -> Any:
        """Find the class of families for a task; `NeuMetaModel` itself for tasks that have none of their own."""
        return NeuMetaModel._classes.get(task, NeuMetaModel)

    def __init__(self, config: NeuMetaConfig, *, held: HeldWeights | None = None):
        super().__init__(config)
        self.target_family = find_target(self.reference_config)
        task = self.target_family.task
        if self.task not in (None, task):
            raise TargetError(
                f"{type(self).__name__} is for {self.task}, but {self.target_family.name} is for {task}: use "
                f"{self.class_for(task).__name__}."
            )
        self.main_input_name = self.target_family.input_names[0]
        with limit_building() as num_built:
            reference = self.target_family.build(copy.deepcopy(self.reference_config))
        if held is not None:
            held.check_work(num_built(), len(self.target_family.axes(self.reference_config)), len(config.generated))
        tensors = own_tensors(reference)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self.space = self.target_family.space(self.reference_config, shapes)
        if config.block_ranking:
            self.space = self.space.with_ranking(config.block_ranking)
        if config.space is not None or (held is not None and config.format_version > 1):
            compare_space(config.space, self.space, version=config.neumeta_version)
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
    def from_reference(cls, reference: nn.Module, **fields: Any) -> Self:
        """Make a new family around a prepared reference.

        The hypernetwork starts at the reference where it can hold it exactly, and is fresh otherwise.

        Args:
            reference: The prepared target at width 1.0; its static tensors are copied.
            **fields: Fields of `NeuMetaConfig`, such as `hypernetwork`, `generated` and `normalization`.

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
        if config.coordinate_scale is None:
            config.coordinate_scale = model.widest_axis
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
        values = [
            to_canonical(tensors[name], model.space.layout(name), model.space.full) for name in model.generated_names
        ]
        model.hypernetwork.start_at(values)
        parameter = next(reference.parameters())
        return model.to(device=parameter.device, dtype=parameter.dtype)  # pyright: ignore[reportCallIssue]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path=None, *args, output_loading_info: bool = False, **kwargs):
        """Load a family as transformers loads any model, but a checkpoint that does not fit is an error.

        Only safetensors files are read, and no link is followed out of the folder. What the files hold is compared with
        the config before memory is taken for it, and with the checksum that was saved.

        Raises:
            CheckpointError: A file is damaged or leads elsewhere, keys or shapes do not fit, weights are not numbers or
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
        """Save the family as transformers saves any model; the config also has the space of sizes and a checksum.

        Loading compares both.
        """
        self.config.format_version, self.config.space = FORMAT_VERSION, describe_space(self.space)
        self.config.neumeta_version = library_version() or self.config.neumeta_version
        self.config.weights_digest = weights_digest(kwargs.get("state_dict") or self.state_dict())
        super().save_pretrained(*args, **kwargs)

    # ------------------------------------------------------------------------------------------------ generation

    def skeleton_at(self, size: Size) -> nn.Module:
        """Build the target of a size without any weight, for its forward pass."""
        device = torch.device("cpu") if self.device.type == "meta" else self.device
        network = self._skeletons.pop((size, device), None)
        if network is None:
            config = self.target_family.config_at(self.reference_config, size)
            network = self.target_family.empty(config, device=device)
            if self._recomputes:
                recompute_layers(network)
        keep(self._skeletons, (size, device), network)
        return network

    def recompute_layers(self) -> None:
        """Let networks keep less for the backward pass in training: each layer's input, from which it is run again.

        Raises:
            TargetError: Networks of the family have no such layers, or a part of them is not generated.
        """
        if self.static_names or not recompute_layers(self.target_family.empty(self.reference_config)):
            why = "a part of the network is not generated" if self.static_names else "its layers cannot run again"
            raise TargetError(
                f"gradient_checkpointing: {why} ({self.target_family.name}). Set it to false; a smaller batch_size "
                "with more gradient_accumulation_steps needs less memory too."
            )
        self._recomputes = True
        self._skeletons.clear()

    @functools.cached_property
    def _full_num_parameters(self) -> int:
        full = self.skeleton_at(self.space.full)
        return sum(parameter.numel() for parameter in full.parameters())

    def complete(self, size: Size, generated: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Collect all tensors of the target at a size: generated, static, constant, and stored BatchNorm statistics.

        Args:
            size: A size of the space.
            generated: As from `generate`, at that size.

        Returns:
            Name to tensor. Statistics that no one has stored for the size are 0 and 1: fit for batch statistics only.
        """
        device, dtype = self.device, self.dtype
        shapes, names = self.space.shapes(size), self.space.names(size)
        held = {names[name]: tensor for name, tensor in self.static.tensors().items() if name in names}
        tensors = {**held, **generated}
        constants = {names[name]: value for name, value in self.constants.items() if name in names}
        for name, value in constants.items():
            integral = name.endswith("num_batches_tracked")
            tensors[name] = torch.full(shapes[name], value, device=device, dtype=torch.int64 if integral else dtype)
        stored = self.statistics.at(size) or {}
        for name in self._statistics_of(size):
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
            size: A size of the space.
            generated: As from `generate`, at the same size.
            batch: Name to tensor; what the target does not take, such as labels, may be in it. A bare tensor is the
                target's first input.
            seed: Seed of what the target draws at random in training; None: nothing is random.
            static_outputs: Given to the runs of several sizes on one batch: what the modules before the first generated
                one put out is then computed once, or known already.

        Returns:
            The target's output.

        Raises:
            TargetError: The batch holds nothing that the target takes.
        """
        skeleton = self.skeleton_at(size)
        skeleton.train(self.training)
        measured = self._measured_modules(size)
        for name, module in skeleton.named_modules():
            if isinstance(module, _BatchNorm):
                module.train(self.training and name in measured)
        tensors = self.complete(size, generated)
        if self.training:  # BatchNorm then writes into the statistics that it is given
            tensors |= {name: tensors[name].clone() for name in self._statistics_of(size)}
        tensors |= {name: buffer for name, buffer in skeleton.named_buffers() if name not in tensors}
        with contextlib.ExitStack() as stack:
            if static_outputs is not None and self.space.is_whole(size):  # else blocks have other numbers
                stack.enter_context(static_outputs.taken_by(skeleton, self.static_modules))
            return run_with(skeleton, tensors, self.target_family.forward, batch, seed=seed, strict=True)

    def forward(
        self, inputs: Tensor | None = None, /, *, width: Width = 1.0, noise: float = 0.0, seed: int = 0, **batch: Any
    ) -> Any:
        """Run the network of a size.

        Args:
            inputs: The target's first input, such as images, where `batch` does not name it.
            width: As for `size_at`.
            noise: Coordinate noise in channels, for training.
            seed: Seed of the noise.
            **batch: Tensors that the target takes, by name; and "labels", where there is a class for its task that
                computes a loss of them. What is None counts as not given.

        Returns:
            The target's output, with `loss` if there are labels.

        Raises:
            TargetError: An input is unknown, missing, given twice or a mapping; or no loss is known for the labels.
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
        with_loss = self.class_for(self.target_family.task).with_loss
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
        has_loss = self.class_for(self.target_family.task).with_loss is not None
        known = (*names, "labels") if has_loss else names
        if unknown := [name for name in batch if name not in known]:
            raise TargetError(
                f"{', '.join(unknown)} was given, but a family of {self.target_family.name!r} takes only "
                f"{', '.join(known)}: leave out the rest."
            )
        return batch

    @torch.no_grad()
    def morph(
        self,
        width: Width | MorphConfig = 1.0,
        *,
        size: Mapping[str, int] | None = None,
        depth: float | Mapping[str, int] = 1.0,
        num_samples: int = 1,
        noise: float | None = None,
        seed: int = 0,
        calibration: Iterable[Any] | None = None,
    ) -> Any:
        """Make a plain network of a size, with no trace of the hypernetwork, in evaluation mode.

        Args:
            width: A ratio for all width groups; a ratio per group or pattern such as `{"stage3": 0.25}` or
                `{"stage*.block*": 0.5}`; or a `MorphConfig`, which stands for all arguments but `calibration`.
            size: Channels per group or pattern, such as `{"stage3": 40}`, instead of ratios.
            depth: A ratio for all stacks of blocks, such as 0.67, or numbers of blocks by stack, such as
                `{"stage3": 2}`; the blocks that change the output least are left out.
            num_samples: How many generations are averaged; only noisy ones differ from each other.
            noise: Full width of their uniform coordinate noise, in channels; 0 is exact. None: 0 for one sample, the
                training's for several.
            seed: Seed of the noise.
            calibration: Batches of normalised images, as training saw them and in any form that loaders give them
                (`neumeta_hf.calibrate` lists them), to measure BatchNorm statistics on. Without them, where BatchNorm
                was kept, the statistics stored for the size are taken, or read between those of two stored sizes at
                most 7 % apart; else they are measured on the checkpoint's own calibration images. Static BatchNorm
                keeps its own.

        Returns:
            The stock class of the family wherever its config can express the size, a model of transformers or of
            diffusers; all tensors are its own. Its `morph_origin` says where it comes from and has a fingerprint of its
            weights. Once they are trained on, its card no longer states what was measured before.

        Raises:
            SizeError: No network of the family has that size; `num_samples`, `noise` or `seed` is out of range, or
                stands beside a `MorphConfig`.
            CheckpointError: BatchNorm was kept and there are neither statistics for the size nor images to measure
                them on; or there is `calibration` and no generated BatchNorm, or it is not of normalised images.
        """
        if isinstance(width, MorphConfig):
            if (num_samples, noise, seed, size, depth) != (1, None, 0, None, 1.0):
                raise SizeError(
                    "a MorphConfig was given beside size, depth, num_samples, noise or seed: set these in the "
                    "MorphConfig alone."
                )
            width, num_samples, noise, seed = width.width, width.num_samples, width.noise, width.seed
        check_sampling(num_samples=num_samples, noise=noise, seed=seed)
        chosen = self.size_at(width, counts=size, depth=depth)
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
        model = self.target_family.empty(self.target_family.config_at(self.reference_config, chosen))
        fill(model, {name: tensor.detach().clone() for name, tensor in tensors.items()}).eval()
        if images is not None:
            calibrate(model, images, modules=self._measured_modules(chosen))
        calibrated = images.num_images if images is not None and calibration is not None else None
        facts = {"num_samples": int(num_samples), "noise": float(noise), "seed": int(seed), "calibrated": calibrated}
        self._name_origin(model, chosen, facts)
        return model

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, TensorTree):
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None:
                    init.zeros_(tensor)
        else:
            self.hypernetwork.initialize(module)


AutoConfig.register(NeuMetaConfig.model_type, NeuMetaConfig)
AutoModel.register(NeuMetaConfig, NeuMetaModel)
