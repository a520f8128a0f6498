"""What the cards of families and of morphs have in common."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from neumeta_hf.hub.escaping import plain, words
from neumeta_hf.scores import score_of
from neumeta_hf.widths import format_size

BEGIN = "<!-- neumeta: begin (rewritten by every push) -->"
END = "<!-- neumeta: end -->"
"""Marks of the section that a push writes anew, each a line of its own."""
UNKNOWN = "unknown"
"""Licence of a card whose writer named none."""
PIPELINE_TAGS = {
    "image-classification": "image-classification",
    "semantic-segmentation": "image-segmentation",
    "image-generation": "unconditional-image-generation",
    "causal-lm": "text-generation",
    "masked-lm": "fill-mask",
    "sentence-embedding": "sentence-similarity",
    "image-reconstruction": "image-to-image",
}
"""Task, as target families name it, to the Hub's name; others have none."""
ROWS = {"causal-lm": "blocks of text", "masked-lm": "blocks of text", "sentence-embedding": "pairs of sentences"}
"""Task to what it is measured on; others are on images."""
CITATION = """\
## Citation

The method is [Neural Metamorphosis](https://arxiv.org/abs/2410.11878):

```bibtex
@inproceedings{yang2024neural,
  title     = {Neural Metamorphosis},
  author    = {Yang, Xingyi and Wang, Xinchao},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year      = {2024}
}
```"""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_hub_id(name: Any) -> bool:
    """Tell whether a name reads as `organisation/name`, which no local path with more or fewer parts does.

    Args:
        name: Anything.

    Returns:
        The answer; a relative path of two parts reads like one, so callers ask the file system first.
    """
    return isinstance(name, str) and _HUB_ID.fullmatch(name) is not None


def front_matter(repo_id: str, task: str, tags: Iterable[str], *, license: str | None, **fields: Any) -> ModelCardData:
    """Make the front matter of a card.

    Args:
        repo_id: Where the card will be.
        task: What the networks do, as the target family names it.
        tags: Tags of the repo; each stands once.
        license: Licence of the weights, a Hub identifier; None: "unknown".
        **fields: Further ones of `ModelCardData`.

    Returns:
        The front matter.
    """
    return ModelCardData(
        license=plain(license or UNKNOWN),
        pipeline_tag=PIPELINE_TAGS.get(task),
        tags=list(dict.fromkeys(map(plain, tags))),
        model_name=plain(repo_id.rpartition("/")[2]),
        **fields,
    )


def assemble(card_data: ModelCardData, title: str, sections: Sequence[str]) -> str:
    """Write the text of a card.

    Args:
        card_data: The front matter.
        title: Its heading.
        sections: What stands between the two marks.

    Returns:
        The text of a README.md.
    """
    body = "\n\n".join(sections)
    return f"---\n{card_data.to_yaml()}\n---\n\n# {words(title)}\n\n{BEGIN}\n{body}\n{END}\n"


def eval_results(
    task: str, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], datasets: list[str] | None
) -> list[EvalResult]:
    """Measured rows as the Hub reads them.

    Args:
        task: What the networks do, as the target family names it.
        rows: Rows of a sweep; those without a score are left out.
        facts: Facts of the sweep.
        datasets: Hub ids of the data, if they are on the Hub.

    Returns:
        A result for each row.
    """
    score = score_of(facts)
    name, split = plain(facts.get("dataset", UNKNOWN)), facts.get("split")
    return [
        EvalResult(
            task_type=PIPELINE_TAGS.get(task, plain(task)),
            dataset_type=datasets[0] if datasets else name,
            dataset_name=name,
            dataset_split=None if split is None else plain(split),
            metric_type=plain(score.hub_name or score.name),
            metric_name=plain(
                f"{score.label} at width {format_size(row['width'], row.get('depth', 1))} ({size_of(row)})"
            ),
            metric_value=round(row[score.name], 6),
        )
        for row in rows
        if row[score.name] is not None
    ]


def where_measured(facts: Mapping[str, Any]) -> str:
    """Say where and on what a sweep was measured, as far as its facts tell.

    Args:
        facts: Facts of the sweep.

    Returns:
        Such as "measured on 300 images of the test split of mnist, seed 0, cpu, torch 2.13.0, 2026-01-02".
    """
    count, split, dataset = (facts.get(key) for key in ("num_images", "split", "dataset"))
    images = [
        *([] if count is None else [f"{count:,} {ROWS.get(facts.get('task', ''), 'images')}"]),
        *([] if split is None else [f"the {words(split)} split"]),
        *([] if dataset is None else [words(dataset)]),
    ]
    calibrated = facts.get("calibrated")
    statistics = "" if calibrated is None else f" with BatchNorm statistics of {calibrated:,} images at every size"
    torch = (facts.get("versions") or {}).get("torch")
    with_what = [
        f"{name}{words(value)}"
        for name, value in (
            ("seed ", facts.get("seed")),
            ("", facts.get("device")),
            ("torch ", torch),
            ("", facts.get("date")),
        )
        if value is not None
    ]
    return ", ".join([f"measured on {' of '.join(images) or 'images that are not named'}{statistics}", *with_what])


def size_of(row: Mapping[str, Any]) -> str:
    """Say what the size of a row was to training.

    Args:
        row: A row of a sweep.

    Returns:
        "trained", "never trained" or "outside the trained range".
    """
    return "trained" if row["trained"] else "never trained" if row["in_range"] else "outside the trained range"
