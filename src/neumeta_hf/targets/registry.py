"""What a target family is, and the registry that finds that of a config or a network.

A target family is one architecture at every size, made for one task. It says which *axes* the architecture has, and
which dimensions of its tensors they are, as a table of rules. That weights can be generated it does not know.
"""

import abc
import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedConfig, PreTrainedTokenizerBase

from neumeta_hf.axes import Axis, Constraint, Depth, Size
from neumeta_hf.batches import Inputs
from neumeta_hf.building import build_empty, own_tensors
from neumeta_hf.checkpoints import (
    open_checkpoint,
)
from neumeta_hf.errors import TargetError
from neumeta_hf.images import height_and_width
from neumeta_hf.rules import Rule, make_space
from neumeta_hf.space import SizeSpace
from neumeta_hf.targets.loading import kind_of, load_complete, needed_code


class TargetFamily(abc.ABC):
    """One architecture at every size; stateless, so that one instance serves all configs.

    Attributes:
        name: What the target family is called in the registry.
        model_types: The `model_type` of each config class that the target family's networks have.
        class_names: Names of the network's classes, where they are what a saved config says: that of diffusers.
        task: What its networks do, by the name that `neumeta_hf.tasks` knows it by.
        square_only: Whether its config has one number for the height and width of images.
        input_names: What its networks take of a batch, by the names of their forward pass; the first is the main one.
        auto_class: The Auto class of transformers that makes and loads its networks.
        has_graph: Whether the graph of its networks says which channels go together; else its rules do.
        output_axes: Axes whose channels the networks put out; where the rules say which go together, preparation
            leaves these in their order.
    """

    name: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    class_names: ClassVar[tuple[str, ...]] = ()
    task: ClassVar[str] = "image-classification"
    square_only: ClassVar[bool] = False
    input_names: ClassVar[tuple[str, ...]] = ("pixel_values",)
    auto_class: ClassVar[Any] = AutoModelForImageClassification
    has_graph: ClassVar[bool] = True
    output_axes: ClassVar[tuple[str, ...]] = ()

    def accepts(self, config: PreTrainedConfig) -> bool:
        """Tell whether `config` describes a network of this target family."""
        return config.model_type in self.model_types

    def config_of(self, network: nn.Module) -> PreTrainedConfig | None:
        """Find the config of a network; None where the network is not of this target family."""
        config = getattr(network, "config", None)
        return config if isinstance(config, PreTrainedConfig) and self.accepts(config) else None

    def make_config(
        self, fields: Mapping[str, Any], *, image_shape: tuple[int, int, int], label_names: Sequence[str]
    ) -> PreTrainedConfig:
        """Make a config for the images and classes of a data set.

        Args:
            fields: Fields of one of its config classes, and its `model_type` where that is not the first.
            image_shape: Channels, height and width; `fields` win where they name them too.
            label_names: Names of the classes, in order.

        Returns:
            The config.

        Raises:
            TargetError: There is no such class or field, or the target family has square images alone.
        """
        self.check_image_size(image_shape[1:])
        model_type, fields, known = self._config_fields(fields)
        channels, height, width = image_shape
        from_data: dict[str, Any] = {"image_size": height if height == width else [height, width]}
        # What the field is called differs between families.
        from_data |= {name: channels for name in ("num_input_channels", "num_channels") if name in known}
        if label_names:
            from_data |= {
                "id2label": dict(enumerate(label_names)),
                "label2id": {name: index for index, name in enumerate(label_names)},
            }
        return AutoConfig.for_model(model_type, **{**from_data, **fields})

    def make_text_config(self, fields: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
        """Make a config for the tokens of a data set.

        Args:
            fields: As for `make_config`; they win over what the tokenizer says.
            tokenizer: Says how many tokens there are, and which are special.

        Returns:
            The config.

        Raises:
            TargetError: There is no such class or field.
        """
        model_type, fields, _ = self._config_fields(fields)
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        from_data = {"vocab_size": len(tokenizer)} | {name: getattr(tokenizer, name) for name in names}  # pyright: ignore
        return AutoConfig.for_model(model_type, **{**from_data, **fields})

    def _config_fields(self, fields: Mapping[str, Any]) -> tuple[str, dict[str, Any], set[str]]:
        """The type of a config, what is said of it, and the names of all that can be."""
        model_type = fields.get("model_type", self.model_types[0])
        if model_type not in self.model_types:
            raise TargetError(
                f"target.config.model_type={model_type!r}: the target family {self.name} takes "
                f"{' or '.join(self.model_types)}."
            )
        said = {name: value for name, value in fields.items() if name != "model_type"}
        defaults: Any = AutoConfig.for_model(model_type)
        known = {field.name for field in dataclasses.fields(defaults)}
        if unknown := sorted(set(said) - known):
            raise TargetError(f"target.config names {', '.join(unknown)}: {type(defaults).__name__} has no such field.")
        return model_type, said, known

    def build(self, config: PreTrainedConfig) -> nn.Module:
        """Make the network, in train mode and with fresh random weights; `empty` makes it without any.

        Args:
            config: One that the target family accepts; not modified.

        Returns:
            A network that `forward` can run, with `save_pretrained`.
        """
        config = copy.deepcopy(config)
        config.architectures = config.architectures or []  # where several classes have the config, Auto looks into it
        return self.auto_class.from_config(config)

    def fresh(self, config: PreTrainedConfig) -> nn.Module:
        """Make a network that training can start from; its class's own random weights, where nothing is against them.

        Args:
            config: One that the family accepts; not modified.

        Returns:
            As from `build`.
        """
        return self.build(config)

    def empty(self, config: PreTrainedConfig, *, device: torch.device | str = "cpu") -> nn.Module:
        """Make the network, in train mode, without weights; buffers that nobody saves lie on `device`."""
        return build_empty(lambda: self.build(config), device=device)

    def load(self, name: str, **options: Any) -> nn.Module:
        """Load a network of the target family, in evaluation mode.

        Args:
            name: A folder or Hub id.
            **options: Options of its class's `from_pretrained`.

        Returns:
            As from `build`.

        Raises:
            CheckpointError: It cannot be read, is of another architecture, or lacks weights or has too many.
            MissingCheckpointError: There is no such network; also an OSError.
            TargetError: It is a file of bare weights.
        """
        self.refuse_bare_weights(name)
        return load_complete(self.auto_class, name, build=self.build, **options)

    def refuse_bare_weights(self, name: str) -> None:
        """Refuse a file of weights, for a `load` that takes folders and Hub ids alone.

        Raises:
            TargetError: `name` ends in ".safetensors".
        """
        if name.endswith(".safetensors"):
            raise TargetError(
                f"{name}: the target family {self.name!r} reads no bare safetensors files. Give the folder of a model."
            )

    def forward(self, network: nn.Module, batch: Inputs, *, seed: int | None = None) -> Any:
        """Run a network of the target family, or any module with its forward pass.

        Args:
            network: The network.
            batch: Name to tensor; what the network does not take, such as labels, is left to the task. A bare tensor
                is the first of `input_names`.
            seed: Seed of what the network draws at random in training; None: nothing is random.

        Returns:
            What the target family's task takes: an output with `logits` for classification and segmentation.

        Raises:
            TargetError: The batch holds nothing that the network takes.
        """
        return network(**self.inputs_of(batch))

    def inputs_of(self, batch: Inputs) -> dict[str, Tensor]:
        """Pick the tensors of a batch, as `forward` takes it, that `input_names` names.

        Raises:
            TargetError: There is none.
        """
        if isinstance(batch, Tensor):
            return {self.input_names[0]: batch}
        inputs = {name: batch[name] for name in self.input_names if name in batch}
        if not inputs:
            raise TargetError(
                f"the batch holds {', '.join(map(str, batch)) or 'nothing'}, but networks of {self.name!r} take "
                f"{', '.join(self.input_names)}: give at least the first."
            )
        return inputs

    @abc.abstractmethod
    def axes(self, config: PreTrainedConfig) -> Sequence[Axis]:
        """List the axes that a size may change, in data-flow order, with the counts that `config` gives."""

    @abc.abstractmethod
    def rules(self, config: PreTrainedConfig) -> Mapping[str, Rule]:
        """Say which axes the dimensions of each module's tensors are made of.

        Returns:
            Path of a module to its dimensions, outer to inner. A dimension is the name of an axis, or None for a
            constant. It may be a pair of an axis and a number of equal parts, each of which a size shortens by itself.
            It may be a list of these, for concatenated features. Vectors have the first dimension alone. Kernels, and
            modules that are not named, are constant.
        """

    def constraints(self, config: PreTrainedConfig) -> Sequence[Constraint]:
        """List what the counts of two axes must be to each other."""
        return ()

    def depths(self, config: PreTrainedConfig) -> Sequence[Depth]:
        """Stacks of blocks of which a size may leave some out: those that add to a stream and change no shape."""
        return ()

    @abc.abstractmethod
    def config_at(self, config: PreTrainedConfig, size: Size) -> PreTrainedConfig:
        """Make the config of the same network at another size.

        The axes of what comes back have the counts of `size`.

        Args:
            config: The network to start from; not modified.
            size: A size of its space.

        Returns:
            A new config, possibly of another class.
        """

    def space(self, config: PreTrainedConfig, shapes: Mapping[str, tuple[int, ...]] | None = None) -> SizeSpace:
        """Make the space of all sizes of a network.

        Args:
            config: Config of the reference.
            shapes: Name to shape of all of its tensors, tied ones once. None: it is built without weights to tell.

        Returns:
            The space.

        Raises:
            TargetError: The rules do not describe the network.
        """
        if shapes is None:
            shapes = {name: tuple(tensor.shape) for name, tensor in own_tensors(self.empty(config)).items()}
        return make_space(
            self.axes(config),
            self.rules(config),
            shapes,
            self.constraints(config),
            self.depths(config),
            name=self.name,
        )

    def size_of(self, config: PreTrainedConfig) -> Size:
        """Read the size that a config of the target family says."""
        depths = {depth.key: depth.full for depth in self.depths(config)}
        return Size({axis.name: axis.full for axis in self.axes(config)} | depths)

    def fused_config(self, config: PreTrainedConfig) -> PreTrainedConfig:
        """Make the config of the same network after its BatchNorm was fused into the convolutions.

        A copy of `config` where the architecture cannot leave its BatchNorm modules out.
        """
        return copy.deepcopy(config)

    def image_shape(self, config: PreTrainedConfig) -> tuple[int, int, int]:
        """Channels, height and width, in pixels, of one image that the network is made for.

        Raises:
            TargetError: Its networks take no images.
        """
        raise TargetError(f"the target family {self.name!r} has no images: define image_shape, or else example_batch.")

    def set_image_size(self, network: nn.Module, image_size: int | Sequence[int]) -> None:
        """Let the config of a network say another size of its images; the weights stay as they are.

        Args:
            network: A network of this target family; its config is changed.
            image_size: Height and width, in pixels; one number for both.

        Raises:
            TargetError: The target family has square images alone.
        """
        self.check_image_size(image_size)
        config: Any = network.config
        config.image_size = image_size

    def check_image_size(self, image_size: int | Sequence[int]) -> None:
        """Refuse images that the target family's configs cannot state the size of.

        Args:
            image_size: Height and width, in pixels; one number for both.

        Raises:
            TargetError: The target family has square images alone.
        """
        height, width = height_and_width(image_size)
        if self.square_only and height != width:
            raise TargetError(
                f"the target family {self.name!r} takes square images alone, but data.image_size gives "
                f"{height}x{width}: give one number, or take a target family that has images of any shape."
            )

    def example_batch(self, config: PreTrainedConfig, batch_size: int = 2) -> dict[str, Tensor]:
        """Make a batch that a network takes, the same at every call, on the CPU; here images of normal noise."""
        generator = torch.Generator("cpu").manual_seed(0)
        images = torch.randn(batch_size, *self.image_shape(config), generator=generator, device="cpu")
        return {self.input_names[0]: images}


Family = TypeVar("Family", bound=TargetFamily)

_REGISTRY: dict[str, TargetFamily] = {}


def register_target(cls: type[Family]) -> type[Family]:
    """Class decorator: puts one instance of the target family into the registry under its `name`.

    Returns:
        The class, unchanged.

    Raises:
        TargetError: Another class holds the name, or `input_names` is no tuple of names.
    """
    names: Any = cls.input_names
    if not isinstance(names, tuple) or not names or not all(isinstance(name, str) for name in names):
        raise TargetError(f"target family {cls.name!r} has input_names={names!r}: give a tuple of one name or more.")
    known = _REGISTRY.setdefault(cls.name, cls())
    if type(known) is not cls:
        raise TargetError(f"target family {cls.name!r} is taken by {type(known).__name__}: choose another name.")
    return cls


def list_targets() -> list[str]:
    """List the names of the registered target families."""
    return sorted(_REGISTRY)


def load_network(name: str, **options: Any) -> nn.Module:
    """Load a network of whatever target family its config.json says.

    Args:
        name: A folder or Hub id.
        **options: Options of its target family's `load`.

    Returns:
        The network, in evaluation mode.

    Raises:
        TargetError: No registered target family has such networks.
        CheckpointError: It cannot be read, or lacks weights or has too many.
        MissingCheckpointError: There is no such network; also an OSError.
    """
    checkpoint = open_checkpoint(name, dict(options))
    kind = checkpoint.config.get("model_type", checkpoint.config.get("_class_name"))
    for family in _REGISTRY.values():
        if isinstance(kind, str) and kind in (*family.model_types, *family.class_names):
            return family.load(checkpoint.name, **options)
    problem = (
        f"{checkpoint.name} cannot be loaded: {kind_of(checkpoint)}, and no target family has such networks: there is "
        f"{', '.join(list_targets())}."
    )
    python, command = needed_code(checkpoint)
    advice = " `neumeta docs new_target` shows how to add one in a single file."
    raise TargetError(problem + python + advice, command=problem + command + advice)


def family_of(network: nn.Module) -> TargetFamily | None:
    """Find the target family of a network; None where it has none.

    Raises:
        TargetError: A target family has networks of its class, but none built like it.
    """
    return next((family for family in _REGISTRY.values() if family.config_of(network) is not None), None)


def config_of(network: nn.Module) -> PreTrainedConfig:
    """Find the config of a network that some target family has, whatever its own library calls a config.

    Raises:
        TargetError: No registered target family has such a network.
    """
    family = family_of(network)
    if family is not None and (config := family.config_of(network)) is not None:
        return config
    config = getattr(network, "config", None)
    if isinstance(config, PreTrainedConfig):
        find_target(config)  # which says what there is
    raise TargetError(
        f"no target family has a {type(network).__name__}: there is {', '.join(list_targets())}. "
        "`neumeta docs new_target` shows how to add one in a single file."
    )


def find_target(config_or_name: PreTrainedConfig | str) -> TargetFamily:
    """Find the target family of a config, or the one of that name.

    Raises:
        TargetError: No registered target family has this name or accepts this config.
    """
    if isinstance(config_or_name, str):
        wanted, found = repr(config_or_name), _REGISTRY.get(config_or_name)
    else:
        wanted = f"of model type {config_or_name.model_type!r}"
        found = next((family for family in _REGISTRY.values() if family.accepts(config_or_name)), None)
    if found is not None:
        return found
    raise TargetError(
        f"no target family {wanted} is registered: there is {', '.join(list_targets())}. "
        "`neumeta docs new_target` shows how to add one in a single file."
    )
