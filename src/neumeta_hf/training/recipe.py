"""A training run as data: nested dataclasses, read from one YAML file and `key=value` overrides.

No default hides in the training code: what a run does is its recipe, and the resolved recipe is saved beside the
result.
"""

import dataclasses
import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from neumeta_hf.checkpoints import check_numbers
from neumeta_hf.data.config import DataConfig
from neumeta_hf.errors import CheckpointError, RecipeError, one_line
from neumeta_hf.kinds import MAX_NOISE, MAX_SAMPLES
from neumeta_hf.reading import parse_yaml, read_yaml

_FORBID = ConfigDict(extra="forbid", strict=False)

# Far above what anybody needs: a recipe from somewhere else must not fill the memory or run for ever unnoticed.
Count = Annotated[int, Field(ge=1, le=10**9)]
Many = Annotated[int, Field(ge=1, le=2**20)]
Few = Annotated[int, Field(ge=1, le=2**12)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Amounts = Annotated[list[Amount], Field(max_length=2**12)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Width = Annotated[float, Field(allow_inf_nan=False)]
Widths = Annotated[list[Width], Field(min_length=1, max_length=2**12)]
MaybeNoWidths = Annotated[list[Width], Field(max_length=2**12)]
Words = Annotated[list[str], Field(max_length=2**12)]


def _no_is_a_word(value: Any) -> Any:
    # YAML reads a bare `no` as false.
    return "no" if value is False else value


@dataclasses.dataclass(kw_only=True)
class TargetRecipe:
    """The network to make a family of.

    Attributes:
        family: Name of a registered target family.
        config: Fields of the family's config; classes, image size and colours come from the data.
        checkpoint: Trained weights to start from: a folder or Hub id of a transformers model, or a safetensors file
            with the usual names of CIFAR-10 ResNets. None: random weights. Whatever it was saved in, it is trained in
            float32.
        preprocessing: Whose word on images counts. "checkpoint": where `data` says nothing, the
            `preprocessor_config.json` beside the checkpoint counts; where the two disagree, the run is refused.
            "recipe": the file is set aside.
        classes: How classes of the data are matched with those of a checkpoint that names them. "name": the same names
            in any order. "position": in the order that they stand in, whatever they are called; they then have the
            names of the data.
        new_head: Whether a checkpoint of other classes gets a fresh head for those of the data, drawn by the seed: the
            tensors whose shape depends on their number. All else is kept, and `pretrain` then trains both.
    """

    __pydantic_config__ = _FORBID
    family: str = "lenet"
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    checkpoint: str | None = None
    preprocessing: Literal["checkpoint", "recipe"] = "checkpoint"
    classes: Literal["name", "position"] = "name"
    new_head: bool = False


@dataclasses.dataclass(kw_only=True)
class OptimizerRecipe:
    """The optimiser.

    Attributes:
        name: "adamw", "sgd", or "muon": Muon for the matrices between a hypernetwork's hidden layers, which the `inr`
            and the `field` have, and AdamW for all else.
        learning_rate: Peak learning rate; of "muon" that of its AdamW.
        muon_learning_rate: Peak learning rate of Muon.
        weight_decay: Decoupled for AdamW and Muon, L2 for SGD.
        momentum: Momentum of SGD, with Nesterov's form.
    """

    __pydantic_config__ = _FORBID
    name: Literal["adamw", "sgd", "muon"] = "adamw"
    learning_rate: Amount = 1e-3
    muon_learning_rate: Amount = 0.015
    weight_decay: Amount = 0.0
    momentum: Fraction = 0.9


@dataclasses.dataclass(kw_only=True)
class ScheduleRecipe:
    """How the learning rate moves; all positions are fractions of the run.

    Attributes:
        name: "constant", "cosine", "one_cycle" (linear up, linear down) or "multi_step".
        warmup: Fraction of the run in which the rate rises linearly from 0; of "one_cycle", where its peak lies.
        milestones: For "multi_step": where the rate is multiplied by `gamma`.
        gamma: For "multi_step".
    """

    __pydantic_config__ = _FORBID
    name: Literal["constant", "cosine", "one_cycle", "multi_step"] = "cosine"
    warmup: Fraction = 0.0
    milestones: Annotated[list[Amount], Field(max_length=2**12)] = dataclasses.field(
        default_factory=lambda: [0.5, 0.75]
    )
    gamma: Amount = 0.1


@dataclasses.dataclass(kw_only=True)
class LoopRecipe:
    """A training loop, of the reference or of the hypernetwork.

    Attributes:
        epochs: Passes over the training split; of a stream, equal parts of `max_steps`, with an evaluation after each.
        max_steps: Optimiser steps in all, for a stream, which has no end. None: the training split is no stream.
        batch_size: Images, blocks of text or pairs of sentences per process and step.
        gradient_accumulation_steps: Batches per optimiser step.
        optimizer: The optimiser.
        schedule: The learning rate over the run.
        clip: Largest norm of the gradient, or largest absolute entry where `clip_by` is "value". None: no clipping.
        clip_by: "norm" or "value".
        ema_decay: Decay of the exponential moving average of the weights, which is what is evaluated and saved. It is
            lower in the first steps, `(1 + step) / (10 + step)`. None: no average.
        evaluate_every: Epochs between two evaluations on the validation split; the best decides what is kept.
        checkpoint_every: Epochs between two states to resume from.
        stop_after_steps: Stop cleanly after so many optimiser steps, counted from where the run starts or resumes,
            for schedulers with a time limit; `--resume` goes on from there.
        num_workers: Processes that load data.
        logging_steps: Optimiser steps between two lines of losses in the log; the first has one as well.
        gradient_checkpointing: Whether layers keep their inputs alone for the backward pass and run again in it, which
            costs time and saves memory: of transformers, generated as a whole.
    """

    __pydantic_config__ = _FORBID
    epochs: Count = 10
    max_steps: Count | None = None
    batch_size: Many = 128
    gradient_accumulation_steps: Many = 1
    optimizer: OptimizerRecipe = dataclasses.field(default_factory=OptimizerRecipe)
    schedule: ScheduleRecipe = dataclasses.field(default_factory=ScheduleRecipe)
    clip: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    clip_by: Literal["norm", "value"] = "norm"
    ema_decay: Fraction | None = None
    evaluate_every: Count = 1
    checkpoint_every: Count = 1
    stop_after_steps: Count | None = None
    num_workers: Annotated[int, Field(ge=0, le=2**10)] = 0
    logging_steps: Count = 10
    gradient_checkpointing: bool = False


@dataclasses.dataclass(kw_only=True)
class PreparationRecipe:
    """How the trained reference becomes smooth.

    Attributes:
        normalization: "fuse" folds BatchNorm into the convolutions; "keep" keeps it.
        order: "path" (Shortest Hamiltonian Path), "random", "identity", "importance" (of the weights) or "activations"
            (what layers take in of each channel, on 256 training samples).
    """

    __pydantic_config__ = _FORBID
    normalization: Literal["fuse", "keep"] = "fuse"
    order: Literal["path", "random", "identity", "importance", "activations"] = "path"


@dataclasses.dataclass(kw_only=True)
class FamilyRecipe:
    """The hypernetwork and what it generates; see `NeuMetaConfig` for each field."""

    __pydantic_config__ = _FORBID
    hypernetwork: dict[str, Any] = dataclasses.field(default_factory=lambda: {"type": "inr"})
    generated: Words = dataclasses.field(default_factory=lambda: ["*"])
    width_groups: Words | None = None
    coordinate_noise: Annotated[float, Field(ge=0, le=MAX_NOISE)] = 1.0
    alignment: Literal["corner", "center"] = "corner"
    clamp_sizes: bool = True


@dataclasses.dataclass(kw_only=True)
class SizesRecipe:
    """Which sizes a step trains at.

    Attributes:
        widths: The uniform widths to draw from: a list, or a range "first:last:step".
        depths: Ratios of blocks to draw from, likewise, for networks of which a size may leave blocks out; [1.0] trains
            whole networks. A sandwich has the largest width at full and at smallest depth in turn, and the smallest
            width the other way round; each other size draws its depth.
        sampler: "uniform" draws `num_random` widths per step (the paper: one); "sandwich" adds the largest and the
            smallest to them.
        smallest_share: Probability that the sandwich's small width is the minimum; otherwise it is a random one below
            twice that. Widths just above the minimum are then learned as well as the minimum.
        turns: Widths that the sandwich's largest cycles through, one per step. Full size starts at the reference and
            costs the most, so it needs fewer steps. Empty: the largest width at every step.
        always: Widths, among those in `widths`, that every step trains at as well: the ones that matter most.
        num_random: Random uniform widths per step.
        num_per_group: Random sizes per step, beside these, in which the width groups draw on their own.
        smallest_per_group: Probability that a group which draws on its own takes the smallest width. Sizes with one
            narrow stage lose the most, and then come up more often than by chance.
        alternate: Whether even steps draw uniform widths and odd steps widths per group, instead of both at every step.
            It saves the time that `always` costs.
        strata: Number of intervals, of equal length on a logarithmic scale, that the widths are divided into. Random
            widths take the intervals in turn, and so does every group that draws on its own. Without intervals most
            random widths are large, and small ones are learned less well. 0 draws every width alike.
    """

    __pydantic_config__ = _FORBID
    widths: Widths | str = "0.25:1.0:0.0625"
    depths: Widths | str = dataclasses.field(default_factory=lambda: [1.0])
    sampler: Literal["uniform", "sandwich"] = "uniform"
    smallest_share: Fraction = 1.0
    turns: MaybeNoWidths = dataclasses.field(default_factory=list)
    always: MaybeNoWidths = dataclasses.field(default_factory=list)
    num_random: Annotated[int, Field(ge=0, le=2**10)] = 1
    num_per_group: Annotated[int, Field(ge=0, le=2**10)] = 0
    smallest_per_group: Fraction = 0.0
    alternate: bool = False
    strata: Annotated[int, Field(ge=0, le=2**10)] = 0


@dataclasses.dataclass(kw_only=True)
class LossesRecipe:
    """Weights of the losses; 0 switches one off.

    Attributes:
        task: The task's own: cross-entropy for classification.
        task_mean: Over the sizes of a step. "geometric" minimises the logarithm of their geometric mean (Chennupati et
            al. 2019, arXiv:1904.08492, there over tasks): each size then counts by how much its loss changes in
            proportion, and small sizes, whose losses are large, do not outweigh the others. For losses that are
            distances, such as those of autoencoders.
        reconstruction: Squared distance to the reference's weights, weighted by their magnitude, at full size only.
        regularization: Sum of the norms of the generated tensors.
        distillation: Divergence from the reference's predictions; for autoencoders, squared distance to its
            reconstructions.
        temperature: Temperature of the distillation.
        detail: Share of the weights that half as many channels could not hold, at the smallest trained width only; it
            makes sizes below that width usable. For hypernetworks in which a small size merges neighbouring channels of
            a large one.
    """

    __pydantic_config__ = _FORBID
    task: Amount = 1.0
    task_mean: Literal["arithmetic", "geometric"] = "arithmetic"
    reconstruction: Amount = 1.0
    regularization: Amount = 1e-4
    distillation: Amount = 0.0
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    detail: Amount = 0.0


@dataclasses.dataclass(kw_only=True)
class FitRecipe:
    """Before training: fit the hypernetwork to the reference's weights alone, which needs no data.

    Attributes:
        steps: Steps of AdamW; 0 skips the fit.
        learning_rate: Peak of its one-cycle schedule.
    """

    __pydantic_config__ = _FORBID
    steps: Annotated[int, Field(ge=0, le=10**9)] = 0
    learning_rate: Amount = 1e-3


@dataclasses.dataclass(kw_only=True)
class CalibrationRecipe:
    """With BatchNorm kept: synthetic images in the checkpoint, on which a morph of any size measures its statistics.

    Attributes:
        images: How many; 0 for none. None: 64, or fewer of large images, down to 8.
        networks: How many sizes they are made for: the trained extremes, and for the others a ratio per width group
            drawn between these. None: 16, or 8 where `images` is None.
        steps: Steps of Adam on their pixels. None: 400, or 200 where `images` is None.
        learning_rate: Its peak.
    """

    __pydantic_config__ = _FORBID
    images: Annotated[int, Field(ge=0, le=2**20)] | None = None
    networks: Annotated[int, Field(ge=2, le=2**12)] | None = None
    steps: Count | None = None
    learning_rate: Amount = 0.1


@dataclasses.dataclass(kw_only=True)
class StaticCacheRecipe:
    """Where a block or a decoder is generated: keep what lies before it instead of running it at every step.

    Attributes:
        augmentations: How many augmentations of the training images are kept, which epochs take in turn; 0 keeps none.
            Kept in half precision, which changes a number by less than 0.05 %.
        max_gigabytes: The most memory that they may take, in each process.
    """

    __pydantic_config__ = _FORBID
    augmentations: Annotated[int, Field(ge=0, le=1024)] = 0
    max_gigabytes: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 4.0


@dataclasses.dataclass(kw_only=True)
class Recipe:
    """One run from data to checkpoint.

    Attributes:
        output_dir: Where the checkpoint, the reference, the log and the state to resume from go.
        seed: Seed of all random draws.
        mixed_precision: "no", "bf16" or "auto" (bf16 where the device has it in hardware), of both loops; evaluation
            is in full precision.
        data: The data set.
        target: The network to make a family of.
        task: Options of what its family does; see the classes of `neumeta_hf.tasks`.
        pretrain: Trains the reference first, or fine-tunes the target's checkpoint. None: taken as it is.
        preparation: How the reference becomes smooth.
        family: The hypernetwork and what it generates.
        sizes: Which sizes a step trains at.
        losses: Weights of the losses.
        train_static: Whether what is not generated is trained along, for all sizes alike; if not, it stays the
            reference's. Where all is generated there is nothing of the kind.
        static_cache: What is kept of the static part of the network, where a part of it is generated.
        fit: The fit before training.
        train: The training loop of the hypernetwork. None: the run ends with the reference, a plain network alone.
        validation_widths: Widths evaluated for selection. None: the smallest, the middle and the largest trained.
        statistics_widths: With BatchNorm kept, widths whose statistics the checkpoint stores: a list, a range, "all"
            (every network that a uniform width gives: as many as there are channels to take away), or None for the
            trained ones; of more than 17, for those alone that the others are read between. Sizes between two of them
            at most 7 % apart need no others.
        statistics_images: Training images that statistics are measured on.
        calibration: Images in the checkpoint for the statistics of all other sizes.
        trackers: Accelerate trackers beside the JSONL log, such as "tensorboard".
        num_samples: Noisy generations averaged per morph in validation; 1 is exact.
        keep_state: Whether the output folder keeps, once the run has ended well, what it needs no more: the states to
            resume from, and the networks after the last and after the best step.
    """

    __pydantic_config__ = _FORBID
    output_dir: Annotated[str, AfterValidator(os.path.expanduser)] = "outputs/run"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0  # all that numpy takes
    mixed_precision: Annotated[Literal["no", "bf16", "auto"], BeforeValidator(_no_is_a_word)] = "no"
    data: DataConfig = dataclasses.field(default_factory=DataConfig)  # pyright: ignore[reportArgumentType]
    target: TargetRecipe = dataclasses.field(default_factory=TargetRecipe)
    task: dict[str, Any] = dataclasses.field(default_factory=dict)
    pretrain: LoopRecipe | None = None
    preparation: PreparationRecipe = dataclasses.field(default_factory=PreparationRecipe)
    family: FamilyRecipe = dataclasses.field(default_factory=FamilyRecipe)
    sizes: SizesRecipe = dataclasses.field(default_factory=SizesRecipe)
    losses: LossesRecipe = dataclasses.field(default_factory=LossesRecipe)
    train_static: bool = False
    static_cache: StaticCacheRecipe = dataclasses.field(default_factory=StaticCacheRecipe)
    fit: FitRecipe = dataclasses.field(default_factory=FitRecipe)
    train: LoopRecipe | None = dataclasses.field(default_factory=LoopRecipe)
    validation_widths: Widths | None = None
    statistics_widths: Widths | str | None = None
    statistics_images: Many = 2048
    calibration: CalibrationRecipe = dataclasses.field(default_factory=CalibrationRecipe)
    trackers: Words = dataclasses.field(default_factory=list)
    num_samples: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] = 1
    keep_state: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Write the recipe as plain values, ready for YAML."""
        return dataclasses.asdict(self)


def load_recipe(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: YAML file. None: the defaults.
        overrides: "key.inner=value" each, the value read as YAML; later ones win.

    Returns:
        The recipe, every field filled.

    Raises:
        RecipeError: The file cannot be read, a key is unknown, or a value is of the wrong kind; the message names the
            key, and for an unknown one its nearest relative.
    """
    values: Any = {}
    if path is not None:
        try:
            values = read_yaml(path, error=RecipeError)
        except OSError as error:
            raise RecipeError(
                f"recipe {path} cannot be read ({error.strerror}): give the path of a YAML file."
            ) from error
    for override in overrides:
        _set(values, override)
    return recipe_from_dict(values)


def recipe_from_dict(values: dict[str, Any]) -> Recipe:
    """Check plain values and make a recipe of them.

    Args:
        values: As from YAML.

    Returns:
        The recipe, every field filled.

    Raises:
        RecipeError: As for `load_recipe`.
    """
    try:
        recipe = TypeAdapter(Recipe).validate_python(values)
    except ValidationError as error:
        raise RecipeError("; ".join(_explain(entry) for entry in error.errors()[:3])) from error
    for key, options in (
        ("target.config", recipe.target.config),
        ("family.hypernetwork", recipe.family.hypernetwork),
        ("task", recipe.task),
    ):
        try:
            check_numbers(options, key, advice="Give a smaller one.")
        except CheckpointError as error:
            raise RecipeError(f"recipe key {error}") from error
    return recipe


def _set(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"override {override!r}: write key=value, for example train.epochs=3.")
    *path, leaf = key.strip().split(".")
    node = values
    for part in path:
        if node.get(part) is None:
            node[part] = {}
        node = node[part]
        if not isinstance(node, dict):
            raise RecipeError(f"override {override!r}: {part} holds a value, no keys.")
    try:
        node[leaf] = parse_yaml(text, "it", error=RecipeError)
    except RecipeError as error:
        shown = override if len(override) <= 60 else f"{override[:60]}..."
        raise RecipeError(f"override {shown!r} holds no YAML value: {one_line(error.__cause__)}.") from error


def _explain(error: Any) -> str:
    path = [str(part) for part in error["loc"]]
    if error["type"] != "unexpected_keyword_argument":
        return f"recipe key {'.'.join(path)}={_shown(error['input'])}: {error['msg'][0].lower()}{error['msg'][1:]}"
    node: Any = Recipe
    for part in path[:-1]:
        field = {field.name: field for field in dataclasses.fields(node)}.get(part)
        options = (field.type, *getattr(field.type, "__args__", ())) if field else ()
        node = next((option for option in options if dataclasses.is_dataclass(option)), node)
    known = [field.name for field in dataclasses.fields(node)]
    close = difflib.get_close_matches(path[-1], known, n=1)
    advice = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}."
    return f"recipe key {'.'.join(path)} is unknown: {advice}"


def _shown(value: Any) -> str:
    try:
        return repr(value)[:200]
    except ValueError:  # Python does not write out integers of many thousand digits
        return "an integer of thousands of digits"
