"""Write the card of one network that a family was morphed to."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from neumeta_hf.hub.card import (
    CITATION,
    PIPELINE_TAGS,
    assemble,
    eval_results,
    front_matter,
    is_hub_id,
    size_of,
    where_measured,
)
from neumeta_hf.hub.escaping import block, code, literal, plain, words
from neumeta_hf.scores import score_of

_PIPELINE_VERBS = {
    "image-classification": "classify",
    "semantic-segmentation": "segment",
    "causal-lm": "write",
    "masked-lm": "fill",
}
"""Task to what its pipeline of transformers does; networks of other tasks are loaded by their class."""
_STOCK = ("transformers", "diffusers")
_OURS = ("neumeta_hf", "transformers_modules")
"""Where this package's classes are: installed, or come from the Hub as code."""
_TARGETS = "neumeta_hf.targets"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MorphFacts:
    """What the card of a morph is written from.

    Attributes:
        model_class: Name of the network's class.
        module: That the class is defined in: of transformers, of diffusers, of this package or of somebody's own.
        family: Name of the target family.
        task: What the network does, as the target family names it.
        source: Hub id or folder of the family.
        widths: Width group to ratio.
        depths: Stack of blocks to how many it has, and how many in the reference.
        num_samples: Generations averaged.
        noise: Width of their noise in channels.
        calibrated: Images that its BatchNorm statistics were measured on; None: the statistics are the family's own.
        num_parameters: Number of parameters of the morph.
        full_num_parameters: Number of parameters of the family's reference.
        is_changed: Whether its weights are others than those that were generated.
        row: The family's measured row of that size, if there is one.
        sweep_facts: Where that row was measured.
    """

    model_class: str
    module: str
    family: str
    task: str
    source: str
    widths: Mapping[str, float]
    depths: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    num_samples: int
    noise: float
    calibrated: int | None
    num_parameters: int
    full_num_parameters: int
    is_changed: bool
    row: Mapping[str, Any] | None = None
    sweep_facts: Mapping[str, Any] | None = None

    @property
    def library(self) -> str:
        """What the Hub says loads the network: this package, unless its class is a stock one."""
        package = self.module.partition(".")[0]
        return package if package in _STOCK else "neumeta_hf"

    @property
    def home(self) -> str:
        """The module that the network's class is imported from."""
        package = self.module.partition(".")[0]
        if package in _STOCK:
            return package  # which exports its classes at the top
        return _TARGETS if package in _OURS else self.module


def morph_card(facts: MorphFacts, repo_id: str, *, license: str | None = None, tags: Iterable[str] = ()) -> str:
    """Write the card of one network that a family was morphed to.

    Args:
        facts: What is known of it.
        repo_id: Where the card will be.
        license: Licence of the weights, a Hub identifier; None writes "unknown" and never overwrites a licence that is
            already there.
        tags: More tags.

    Returns:
        The text of a README.md, front matter included.
    """
    on_hub = is_hub_id(facts.source)
    card_data = front_matter(
        repo_id,
        facts.task,
        ["neumeta", "model-compression", facts.family, *tags],
        license=license,
        library_name=facts.library,
        base_model=facts.source if on_hub else None,
        # The Hub knows adapter, finetune, merge and quantized; other weights of the same kind are a finetune to it.
        base_model_relation="finetune" if on_hub else None,
        eval_results=eval_results(facts.task, [facts.row], facts.sweep_facts or {}, None) if facts.row else None,
    )
    family = f"[{words(facts.source)}](https://huggingface.co/{facts.source})" if on_hub else code(facts.source)
    left = facts.num_parameters / facts.full_num_parameters
    noisy = "a noisy generation" if facts.num_samples == 1 else f"the mean of {facts.num_samples} noisy generations"
    averaged = f", {noisy}" if facts.noise else ""
    calibrated = ""
    if facts.calibrated is not None and not facts.is_changed:
        calibrated = f" Its BatchNorm statistics were measured on {facts.calibrated:,} images."
    measured = ""
    if facts.row and facts.sweep_facts:
        score = score_of(facts.sweep_facts)
        measured = (
            f" Measured {words(score.label)}: {score.format(facts.row[score.name])} "
            f"({where_measured(facts.sweep_facts)}; this size was {size_of(facts.row)})."
        )
    # All that is known then is that they are others: trained, or converted to another type of numbers.
    since = " and were changed after that, by training or otherwise" if facts.is_changed else ", without retraining"
    summary = (
        f"A plain {code(facts.model_class)} of {facts.num_parameters:,} parameters, {left:.1%} of the full-size "
        f"network. Its weights were generated by the NeuMeta family {family} at {_name_size(facts)}{averaged}"
        f"{since}.{calibrated}{measured} Any other size can be had from that family."
    )
    usage = f"## Use\n\n{block(_morph_usage(facts, repo_id), 'python')}"
    return assemble(card_data, repo_id.rpartition("/")[2], [summary, usage, CITATION])


def _morph_usage(facts: MorphFacts, repo_id: str) -> str:
    home, model_class = plain(facts.home), plain(facts.model_class)
    if facts.task in _PIPELINE_VERBS:
        need = ""
        if home == _TARGETS:
            need = "import neumeta_hf  # pip install neumeta_hf: knows this architecture\n"
        elif home not in _STOCK:
            need = f"import {home}  # its authors' own: knows this architecture\n"
        return (
            f"{need}from transformers import pipeline\n\n"
            f'{_PIPELINE_VERBS[facts.task]} = pipeline("{PIPELINE_TAGS[facts.task]}", model={literal(repo_id)})'
        )
    latents = {"image-generation": "latent_dist", "image-reconstruction": "latents"}.get(facts.task)
    use = f"  # encode(images).{latents}, decode(z).sample" if latents else ""
    return f"from {home} import {model_class}\n\nmodel = {model_class}.from_pretrained({literal(repo_id)}){use}"


def _name_size(facts: MorphFacts) -> str:
    blocks = [
        f"{count} of {full} blocks in {words(stack)}" for stack, (count, full) in facts.depths.items() if count < full
    ]
    return " with ".join([_name_widths(facts.widths), ", ".join(blocks)] if blocks else [_name_widths(facts.widths)])


def _name_widths(widths: Mapping[str, float]) -> str:
    ratios = {round(ratio, 6) for ratio in widths.values()}
    if len(ratios) == 1:
        return f"width {ratios.pop():g}"
    return "widths " + ", ".join(f"{words(group)} {ratio:g}" for group, ratio in widths.items())
