"""The card of a family, written from its config and from what its run left behind."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from neumeta_hf.hub.card import (
    CITATION,
    ROWS,
    assemble,
    eval_results,
    front_matter,
    is_hub_id,
    size_of,
    where_measured,
)
from neumeta_hf.hub.escaping import block, cell, code, literal, plain, words
from neumeta_hf.scores import score_of
from neumeta_hf.widths import format_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class FamilyFacts:
    """What the card of a family is written from.

    Attributes:
        config: The checkpoint's config as plain values.
        family: Name of the target family.
        task: What its networks do, as the target family names it.
        width_groups: Group to its channels in the reference.
        num_parameters: Number of parameters of the "hypernetwork", "generated" and "static".
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


def family_card(facts: FamilyFacts, repo_id: str, *, license: str | None = None, tags: Iterable[str] = ()) -> str:
    """Write the card of a family.

    Args:
        facts: What is known of it.
        repo_id: Where the card will be.
        license: Licence of the weights, a Hub identifier; None writes "unknown" and never overwrites a licence that is
            already there.
        tags: More tags.

    Returns:
        The text of a README.md, front matter included.
    """
    recipe = facts.recipe or {}
    data = recipe.get("data") or {}
    checkpoint = (recipe.get("target") or {}).get("checkpoint")
    datasets = [data["dataset"]] if is_hub_id(data.get("dataset")) else None
    card_data = front_matter(
        repo_id,
        facts.task,
        ["neumeta", "hypernetwork", "model-compression", facts.family, *tags],
        license=license,
        library_name="neumeta_hf",
        base_model=checkpoint if is_hub_id(checkpoint) else None,
        datasets=datasets,
        metrics=_metrics(facts.sweep) if facts.sweep else None,
        eval_results=eval_results(facts.task, facts.sweep["rows"], facts.sweep["facts"], datasets)
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
        CITATION,
    ]
    return assemble(card_data, repo_id.rpartition("/")[2], sections)


def _metrics(sweep: Mapping[str, Any]) -> list[str]:
    score = score_of(sweep["facts"])
    return [plain(score.hub_name or score.name)]


def _family_summary(facts: FamilyFacts, repo_id: str) -> str:
    num, widths = facts.num_parameters, facts.config.get("trained_widths") or ()
    trained = f" Training drew widths from {min(widths):g} to {max(widths):g}." if widths else ""
    return (
        f"A family of networks in one checkpoint: a hypernetwork of {num['hypernetwork']:,} parameters generates "
        f"{num['generated']:,} weights of a {code(facts.family)} network ({num['static']:,} more are shared by all "
        f"sizes). Ask it for a size and it hands back a plain network, without retraining.{trained}"
    )


def _family_usage(repo_id: str) -> str:
    lines = f"""\
from neumeta_hf import NeuMetaModel

model = NeuMetaModel.from_pretrained({literal(repo_id)}).morph(width=0.5)
model.save_pretrained("network-0.5")  # a plain network, without the family"""
    shell = code(f"neumeta morph {repo_id} --width 0.5 --output network-0.5")
    return f"""\
## Use

{block(lines, "python")}

`pip install neumeta_hf` brings the library; {shell} does the same
from a shell."""


def _sweep_section(sweep: Mapping[str, Any], *, has_figure: bool) -> str:
    score = score_of(sweep["facts"])
    title = words(score.label[:1].upper() + score.label[1:])
    where = where_measured(sweep["facts"])
    lines = [
        f"## {title} against size",
        "",
        f"{where[0].upper()}{where[1:]}. Parameters, multiply-accumulates (MACs) and compression are of the whole "
        "network.",
        "",
        f"| width | size | {cell(score.label)} | parameters | MACs | compression |",
        "|---|---|---|---|---|---|",
    ]
    rows = [("reference", "", sweep["reference"])] if sweep.get("reference") else []
    rows += [(format_size(row["width"], row.get("depth", 1)), size_of(row), row) for row in sweep["rows"]]
    lines += [
        f"| {cell(name)} | {kind} | {score.format(row[score.name])} | {row['num_parameters']:,} | {row['macs']:,} | "
        f"{row['compression_rate']:.1%} |"
        for name, kind, row in rows
    ]
    if has_figure:
        lines += ["", f"![{title} against parameters of the whole network](sweep.png)"]
    return "\n".join(lines)


def _contents_section(facts: FamilyFacts) -> str:
    config, num = facts.config, facts.num_parameters
    groups = ", ".join(f"{code(group)} ({count})" for group, count in facts.width_groups.items())
    lines = [
        "## What is in the checkpoint",
        "",
        f"- Hypernetwork: {code(_inline(config['hypernetwork']))}, {num['hypernetwork']:,} parameters.",
        f"- Generated: {', '.join(map(code, config['generated']))}, {num['generated']:,} weights at full size.",
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
    depths = len(config.get("statistics_depths") or (1,))
    at_depths = f" at each of {depths} depths" if depths > 1 else ""
    return f"kept, with statistics stored for {stored} widths{at_depths}{own}"


def _training_section(facts: FamilyFacts) -> str:
    lines = ["## Training", ""]
    training = facts.training or {}
    environment = training.get("environment") or {}
    if environment:
        versions = [f"{words(name)} {words(version)}" for name, version in environment["versions"].items() if version]
        cores = "" if environment["cores"] is None else f" ({environment['cores']} cores)"
        lines.append(
            f"Seed {words(training['seed'])}, on {words(environment['device'])}{cores}, {words(environment['date'])}, "
            f"{sum(training['seconds'].values()):,.0f} seconds of training steps; {', '.join(versions)}."
        )
    if facts.recipe:
        text = yaml.safe_dump(facts.recipe, sort_keys=False, allow_unicode=True).rstrip()
        lines += ["", f"<details>\n<summary>Recipe</summary>\n\n{block(text, 'yaml')}\n\n</details>"]
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
    elif (split := facts.sweep["facts"].get("split")) != "test":
        which = "a split that is not named" if split is None else f"the {words(split)} split"
        lines.append(f"- The scores above are of {which}, which selection may have seen.")
    data = "texts" if facts.task in ROWS else "classes and images"
    lines.append(f"- The {data} are those of the training data; nothing is known of others.")
    return "\n".join(lines)


def _inline(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).strip()
