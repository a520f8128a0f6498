"""Model cards, written from what a run left behind; what somebody wrote by hand around them is kept."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from neumeta_hf.errors import CardError
from neumeta_hf.reading import parse_yaml
from neumeta_hf.scores import score_of
from neumeta_hf.widths import format_width

_BEGIN = "<!-- neumeta: begin (rewritten by every push) -->"
_END = "<!-- neumeta: end -->"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_UNKNOWN = "unknown"
"""Licence of a card whose writer named none."""
_PAPER = "https://arxiv.org/abs/2410.11878"
_PIPELINE_TAGS = {
    "image-classification": "image-classification",
    "semantic-segmentation": "image-segmentation",
    "image-generation": "unconditional-image-generation",
}
"""Task, as target families name it, to the Hub's name; others have none."""
_PIPELINE_VERBS = {"image-classification": "classify", "semantic-segmentation": "segment"}
"""Task to what its pipeline of transformers does; networks of other tasks are loaded by their class."""
_STOCK = ("transformers", "diffusers")
_OURS = ("neumeta_hf", "transformers_modules")
"""Where this package's classes are: installed, or come from the Hub as code."""
_TARGETS = "neumeta_hf.targets"
_CITATION = """\
```bibtex
@inproceedings{yang2024neural,
  title     = {Neural Metamorphosis},
  author    = {Yang, Xingyi and Wang, Xinchao},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year      = {2024}
}
```"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FamilyFacts:
    """What the card of a family is written from.

    Attributes:
        config: The checkpoint's config as plain values.
        family: Name of the target family.
        task: What its networks do, as the target family names it.
        width_groups: Group to its channels in the reference.
        num_parameters: Of the "hypernetwork", "generated" and "static".
        recipe: The recipe of the run as plain values, without folders, if known.
        training: The run's `training.json`, if known.
        sweep: A measured sweep as plain values (`Sweep.to_dict()`), if there is one.
        has_figure: Whether `sweep.png` lies beside the card.
    """

    config: Mapping[str, Any]
    family: str
    task: str
    width_groups: Mapping[str, int]
    num_parameters: Mapping[str, int]
    recipe: Mapping[str, Any] | None = None
    training: Mapping[str, Any] | None = None
    sweep: Mapping[str, Any] | None = None
    has_figure: bool = False


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
        num_samples: Generations averaged.
        noise: Width of their noise in channels.
        calibrated: Images that its BatchNorm statistics were measured on; None: the statistics are the family's own.
        num_parameters: Of the morph.
        full_num_parameters: Of the family's reference.
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


def family_card(facts: FamilyFacts, repo_id: str, *, license: str | None = None, tags: Iterable[str] = ()) -> str:
    """The card of a family.

    Args:
        facts: What is known of it.
        repo_id: Where the card will be.
        license: Licence of the weights, a Hub identifier; None: "unknown", which takes no other licence's place.
        tags: More tags.

    Returns:
        The text of a README.md, front matter included.
    """
    recipe = facts.recipe or {}
    data = recipe.get("data") or {}
    checkpoint = (recipe.get("target") or {}).get("checkpoint")
    datasets = [data["dataset"]] if is_hub_id(data.get("dataset")) else None
    card_data = ModelCardData(
        library_name="neumeta_hf",
        license=license or _UNKNOWN,
        base_model=checkpoint if is_hub_id(checkpoint) else None,
        datasets=datasets,
        pipeline_tag=_PIPELINE_TAGS.get(facts.task),
        metrics=_metrics(facts.sweep) if facts.sweep else None,
        tags=list(dict.fromkeys(["neumeta", "hypernetwork", "model-compression", facts.family, *tags])),
        model_name=repo_id.rpartition("/")[2],
        eval_results=_eval_results(facts.task, facts.sweep["rows"], facts.sweep["facts"], datasets)
        if facts.sweep
        else None,
    )
    sections = [
        _family_summary(facts, repo_id),
        _family_usage(repo_id),
        *([_sweep_section(facts.sweep, has_figure=facts.has_figure)] if facts.sweep else []),
        _contents_section(facts),
        *([_training_section(facts)] if facts.recipe or facts.training else []),
        _limits_section(facts),
        f"## Citation\n\nThe method is [Neural Metamorphosis]({_PAPER}):\n\n{_CITATION}",
    ]
    return _assemble(card_data, repo_id.rpartition("/")[2], sections)


def morph_card(facts: MorphFacts, repo_id: str, *, license: str | None = None, tags: Iterable[str] = ()) -> str:
    """The card of one network that a family was morphed to.

    Args:
        facts: What is known of it.
        repo_id: Where the card will be.
        license: Licence of the weights, a Hub identifier; None: "unknown", which takes no other licence's place.
        tags: More tags.

    Returns:
        The text of a README.md, front matter included.
    """
    on_hub = is_hub_id(facts.source)
    card_data = ModelCardData(
        library_name=facts.library,
        license=license or _UNKNOWN,
        base_model=facts.source if on_hub else None,
        # The Hub knows adapter, finetune, merge and quantized; other weights of the same kind are a finetune to it.
        base_model_relation="finetune" if on_hub else None,
        pipeline_tag=_PIPELINE_TAGS.get(facts.task),
        tags=list(dict.fromkeys(["neumeta", "model-compression", facts.family, *tags])),
        model_name=repo_id.rpartition("/")[2],
        eval_results=_eval_results(facts.task, [facts.row], facts.sweep_facts or {}, None) if facts.row else None,
    )
    family = f"[{facts.source}](https://huggingface.co/{facts.source})" if on_hub else f"`{facts.source}`"
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
            f" Measured {score.label}: {score.format(facts.row[score.name])} ({_where_measured(facts.sweep_facts)}; "
            f"this size was {_kind(facts.row)})."
        )
    # All that is known then is that they are others: trained, or converted to another type of numbers.
    since = " and were changed after that, by training or otherwise" if facts.is_changed else ", without retraining"
    summary = (
        f"A plain `{facts.model_class}` of {facts.num_parameters:,} parameters, {left:.1%} of the full-size network. "
        f"Its weights were generated by the NeuMeta family {family} at {_name_widths(facts.widths)}{averaged}{since}."
        f"{calibrated}{measured} Any other size can be had from that family."
    )
    usage = f"## Use\n\n```python\n{_morph_usage(facts, repo_id)}\n```"
    citation = f"## Citation\n\nThe method is [Neural Metamorphosis]({_PAPER}):\n\n{_CITATION}"
    return _assemble(card_data, repo_id.rpartition("/")[2], [summary, usage, citation])


def merge_card(written: str, existing: str) -> str:
    """A new card into one that is there: its generated section is replaced, all else stays.

    Of the front matter, results are replaced as well (they would contradict the table), keys that are missing are
    added, and tags are united. A licence that the new card names takes the place of the old one; "unknown" names none.

    Args:
        written: The new card.
        existing: The card that is there.

    Returns:
        The merged card; `existing` itself where it has no generated section, and so is somebody's own.

    Raises:
        CardError: The front matter of the existing card is not a YAML mapping, its section has no end, or it is
            somebody's own and has another licence than the new card names.
    """
    new_front, new_body = _split_front_matter(written)
    license = new_front["license"]
    if _BEGIN not in existing:
        if license != _UNKNOWN and (own := _split_front_matter(existing)[0].get("license")) != license:
            raise CardError(
                f"license={license!r}, and the card on the Hub, which somebody wrote by hand, has {own!r}: change it "
                "there and push without a licence, or push with overwrite_card=True."
            )
        return existing
    start, end = existing.index(_BEGIN), existing.find(_END)
    if end < start:
        raise CardError(
            f"the card on the Hub has {_BEGIN!r} and no {_END!r} after it: its generated section cannot be told from "
            "the rest. Put the end mark back, or push with overwrite_card=True."
        )
    front, body = _split_front_matter(existing)
    section = new_body[new_body.index(_BEGIN) : new_body.index(_END)]
    body = body[: body.index(_BEGIN)] + section + body[body.index(_END) :]
    merged = {**new_front, **front}
    if license != _UNKNOWN:
        merged["license"] = license
    merged["tags"] = list(dict.fromkeys([*_tags(front), *_tags(new_front)]))
    merged.pop("model-index", None)
    if "model-index" in new_front:
        merged["model-index"] = new_front["model-index"]
    return f"---\n{yaml.safe_dump(merged, sort_keys=False, allow_unicode=True)}---\n{body}"


def is_hub_id(name: Any) -> bool:
    """Whether a name reads as `organisation/name`, which no local path with more or fewer parts does.

    Args:
        name: Anything.

    Returns:
        The answer; a relative path of two parts reads like one, so callers ask the file system first.
    """
    return isinstance(name, str) and _HUB_ID.fullmatch(name) is not None


def _split_front_matter(card: str) -> tuple[dict[str, Any], str]:
    found = re.match(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*\r?\n", card, flags=re.DOTALL | re.MULTILINE)
    if found is None:
        return {}, card
    try:
        front = parse_yaml(found[1], "the front matter of the card on the Hub", error=CardError)
    except CardError as error:
        raise CardError(f"{error} Repair it there, or push with overwrite_card=True.") from error
    if not isinstance(front or {}, dict):
        raise CardError(
            "the front matter of the card on the Hub is no mapping of keys: repair it there, or push with "
            "overwrite_card=True."
        )
    return front or {}, card[found.end() :]


def _tags(front: Mapping[str, Any]) -> list[str]:
    tags = front.get("tags") or []
    return tags if isinstance(tags, list) else [tags]


def _assemble(card_data: ModelCardData, title: str, sections: Sequence[str]) -> str:
    body = "\n\n".join(sections)
    return f"---\n{card_data.to_yaml()}\n---\n\n# {title}\n\n{_BEGIN}\n{body}\n{_END}\n"


def _eval_results(
    task: str, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], datasets: list[str] | None
) -> list[EvalResult]:
    score = score_of(facts)
    name = str(facts.get("dataset", "unknown"))
    return [
        EvalResult(
            task_type=_PIPELINE_TAGS.get(task, task),
            dataset_type=datasets[0] if datasets else name,
            dataset_name=name,
            dataset_split=facts.get("split"),
            metric_type=score.hub_name or score.name,
            metric_name=f"{score.label} at width {format_width(row['width'])} ({_kind(row)})",
            metric_value=round(row[score.name], 6),
        )
        for row in rows
        if row[score.name] is not None
    ]


def _metrics(sweep: Mapping[str, Any]) -> list[str]:
    score = score_of(sweep["facts"])
    return [score.hub_name or score.name]


def _morph_usage(facts: MorphFacts, repo_id: str) -> str:
    if facts.task in _PIPELINE_VERBS:
        need = ""
        if facts.home == _TARGETS:
            need = "import neumeta_hf  # pip install neumeta_hf: knows this architecture\n"
        elif facts.home not in _STOCK:
            need = f"import {facts.home}  # its authors' own: knows this architecture\n"
        return (
            f"{need}from transformers import pipeline\n\n"
            f'{_PIPELINE_VERBS[facts.task]} = pipeline("{_PIPELINE_TAGS[facts.task]}", model="{repo_id}")'
        )
    use = "  # encode(images).latent_dist, decode(z).sample" if facts.task == "image-generation" else ""
    return (
        f'from {facts.home} import {facts.model_class}\n\nmodel = {facts.model_class}.from_pretrained("{repo_id}"){use}'
    )


def _family_summary(facts: FamilyFacts, repo_id: str) -> str:
    num, widths = facts.num_parameters, facts.config.get("trained_widths") or ()
    trained = f" Training drew widths from {min(widths):g} to {max(widths):g}." if widths else ""
    return (
        f"A family of networks in one checkpoint: a hypernetwork of {num['hypernetwork']:,} parameters generates "
        f"{num['generated']:,} weights of a `{facts.family}` network ({num['static']:,} more are shared by all sizes). "
        f"Ask it for a size and it hands back a plain network, without retraining.{trained}"
    )


def _family_usage(repo_id: str) -> str:
    return f"""\
## Use

```python
from neumeta_hf import NeuMetaModel

model = NeuMetaModel.from_pretrained("{repo_id}").morph(width=0.5)
model.save_pretrained("network-0.5")  # a plain network, without the family
```

`pip install neumeta_hf` brings the library; `neumeta morph {repo_id} --width 0.5 --output network-0.5` does the same
from a shell."""


def _sweep_section(sweep: Mapping[str, Any], *, has_figure: bool) -> str:
    score = score_of(sweep["facts"])
    title = f"{score.label[0].upper()}{score.label[1:]}"
    where = _where_measured(sweep["facts"])
    lines = [
        f"## {title} against size",
        "",
        f"{where[0].upper()}{where[1:]}. Parameters, multiply-accumulates (MACs) and compression are of the whole "
        "network.",
        "",
        f"| width | size | {score.label} | parameters | MACs | compression |",
        "|---|---|---|---|---|---|",
    ]
    rows = [("reference", "", sweep["reference"])] if sweep.get("reference") else []
    rows += [(format_width(row["width"]), _kind(row), row) for row in sweep["rows"]]
    lines += [
        f"| {name} | {kind} | {score.format(row[score.name])} | {row['num_parameters']:,} | {row['macs']:,} | "
        f"{row['compression_rate']:.1%} |"
        for name, kind, row in rows
    ]
    if has_figure:
        lines += ["", f"![{title} against parameters of the whole network](sweep.png)"]
    return "\n".join(lines)


def _contents_section(facts: FamilyFacts) -> str:
    config, num = facts.config, facts.num_parameters
    groups = ", ".join(f"`{group}` ({count})" for group, count in facts.width_groups.items())
    lines = [
        "## What is in the checkpoint",
        "",
        f"- Hypernetwork: `{_inline(config['hypernetwork'])}`, {num['hypernetwork']:,} parameters.",
        f"- Generated: {', '.join(f'`{name}`' for name in config['generated'])}, {num['generated']:,} weights at full "
        "size.",
        f"- Static, the same for every size: {num['static']:,} weights.",
        f"- What a size may change, with channels of the full-size network: {groups}.",
        f"- BatchNorm: {_normalization(config)}.",
    ]
    preparation = config.get("preparation")
    if preparation:
        lines.append(
            f"- Total variation of the reference's weights: {preparation['tv_before']:,.1f} before preparation, "
            f"{preparation['tv_after']:,.1f} after."
        )
    return "\n".join(lines)


def _normalization(config: Mapping[str, Any]) -> str:
    if config["normalization"] == "fuse":
        return "fused into the convolutions"
    stored, images = len(config["statistics_widths"]), config["calibration_images"]
    own = f"; any other size measures its own on the checkpoint's {images} synthetic images" if images else ""
    return f"kept, with statistics stored for {stored} widths{own}"


def _training_section(facts: FamilyFacts) -> str:
    lines = ["## Training", ""]
    training = facts.training or {}
    environment = training.get("environment") or {}
    if environment:
        versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items() if version)
        lines.append(
            f"Seed {training['seed']}, on {environment['device']} ({environment['cores']} cores), "
            f"{environment['date']}, {sum(training['seconds'].values()):,.0f} seconds of training steps; {versions}."
        )
    if facts.recipe:
        text = yaml.safe_dump(facts.recipe, sort_keys=False, allow_unicode=True).rstrip()
        lines += ["", f"<details>\n<summary>Recipe</summary>\n\n```yaml\n{text}\n```\n\n</details>"]
    return "\n".join(lines)


def _limits_section(facts: FamilyFacts) -> str:
    widths = facts.config.get("trained_widths") or ()
    lines = ["## Limits", ""]
    if widths:
        lines.append(
            f"- Below width {min(widths):g} and above {max(widths):g} no network was trained; morphs of such sizes "
            "warn, and do worse."
        )
    if facts.sweep is None:
        lines.append("- What each size is worth was not measured for this card.")
    elif facts.sweep["facts"].get("split") != "test":
        lines.append(
            f"- The scores above are of the {facts.sweep['facts'].get('split')} split, which selection may have seen."
        )
    lines.append("- The classes and images are those of the training data; nothing is known of others.")
    return "\n".join(lines)


def _where_measured(facts: Mapping[str, Any]) -> str:
    count = f"{facts['num_images']:,} images of the " if "num_images" in facts else "the "
    images = facts.get("calibrated")
    calibrated = "" if images is None else f" with BatchNorm statistics of {images:,} images at every size"
    where = f"{facts.get('split')} split of {facts.get('dataset')}{calibrated}"
    versions = facts.get("versions") or {}
    torch = f", torch {versions['torch']}" if versions.get("torch") else ""
    return f"measured on {count}{where}, seed {facts.get('seed')}, {facts.get('device')}{torch}, {facts.get('date')}"


def _kind(row: Mapping[str, Any]) -> str:
    return "trained" if row["trained"] else "never trained" if row["in_range"] else "outside the trained range"


def _name_widths(widths: Mapping[str, float]) -> str:
    ratios = {round(ratio, 6) for ratio in widths.values()}
    if len(ratios) == 1:
        return f"width {ratios.pop():g}"
    return "widths " + ", ".join(f"{group} {ratio:g}" for group, ratio in widths.items())


def _inline(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).strip()
