"""Write the page of results: what every file of docs/results holds, so that no number of it is copied by hand.

Rows that name a method become a table of methods by uniform widths. Sweeps have a line a width. All else is shown as
keys and values.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from neumeta_hf.scores import Score, score_of

RESULTS = Path(__file__).parents[1] / "results"
LONGEST_LIST = 12
"""Of more numbers than these only how many there are is shown."""

INTRODUCTION = """# Results, file by file

Made from `docs/results` when this site was built. What the numbers mean, and where they fall short, stands in
[what was measured](guide_results.md) and in [every table, explained](measured.md).
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    sections = [_section(path) for path in sorted(RESULTS.glob("*.json"))]
    files.append(File.generated(config, "results.md", content="\n".join([INTRODUCTION, *sections])))
    return files


def _section(path: Path) -> str:
    result = json.loads(path.read_text(encoding="utf-8"))
    facts = result.pop("facts")
    score = score_of(facts) if "score" in facts else None
    parts = [f"## {path.stem}", f"[{path.name}](results/{path.name})", f"```text\n{facts['command']}\n```"]
    parts.append(table(["measured", ""], _facts(facts)))
    if path.with_suffix(".png").exists():
        parts.append(f"![{path.stem}](results/{path.stem}.png)")
    if score is not None:
        reference = result.pop("reference", None)
        rows = result.pop("rows")
        if "seed" in rows[0]:
            parts.append(_by_method(rows, score))
        elif "method" in rows[0]:  # sizes of width and depth
            parts.append(_any("rows", rows))
        else:
            parts.append(_sweep(reference, rows, score))
    parts += [_any(name, value) for name, value in result.items() if isinstance(value, dict | list)]
    single = [(name, _show(value)) for name, value in result.items() if not isinstance(value, dict | list)]
    parts += [table(["", "value"], single)] if single else []
    return "\n\n".join(parts) + "\n"


def _facts(facts: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    yield "date", facts["date"]
    yield "device", f"{facts['device']}, {facts['cores']} cores, {facts['threads']} threads"
    for name in ("seed", "recipe_seed", "dataset", "split", "num_images", "epochs", "mixed_precision"):
        if facts.get(name) is not None:
            yield name.replace("_", " "), _show(facts[name])
    yield "versions", ", ".join(f"{name} {version}" for name, version in facts["versions"].items())


def _by_method(rows: list[dict[str, Any]], score: Score) -> str:
    """A line for each method and seed with a column for each uniform width, then the means over other shapes."""
    uniform: dict[tuple[str, int], dict[float, float]] = {}
    shapes: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        key, value = (row["method"], row["seed"]), row[score.name]
        if isinstance(row["width"], dict):
            shapes.setdefault(key, []).append(value)
        else:
            uniform.setdefault(key, {})[row["width"]] = value
    widths = sorted({width for at in uniform.values() for width in at}, reverse=True)
    lines = [
        (method, str(seed), *(score.format(at[width]) if width in at else "" for width in widths))
        for (method, seed), at in uniform.items()
    ]
    found = table([f"{score.label} at width", "seed", *(f"{width:g}" for width in widths)], lines)
    means = [
        (method, str(seed), str(len(values)), score.format(sum(values) / len(values)))
        for (method, seed), values in shapes.items()
    ]
    header = ["other shapes", "seed", "how many", f"mean {score.label}"]
    return f"{found}\n\n{table(header, means)}" if means else found


def _sweep(reference: dict[str, Any] | None, rows: list[dict[str, Any]], score: Score) -> str:
    named = [("reference", reference)] if reference else []
    named += [(f"{row['width']:g}", row) for row in rows]
    lines = [
        (
            name,
            "" if name == "reference" else _kind(row),
            score.format(row[score.name]),
            f"{row['num_parameters']:,}",
            f"{row['macs']:,}",
            f"{row['compression_rate']:.1%}",
        )
        for name, row in named
    ]
    return table(["width", "size", score.label, "parameters", "MACs", "compression"], lines)


def _kind(row: Mapping[str, Any]) -> str:
    return "trained" if row["trained"] else "untrained" if row["in_range"] else "outside"


def _any(name: str, value: Any) -> str:
    """A table of a list or mapping of any depth: a line for each entry, a column for each key below it."""
    title = f"**{name.replace('_', ' ')}**\n\n"
    if isinstance(value, list) and not (value and isinstance(value[0], dict)):
        return title + _show(value)
    if isinstance(value, list):
        named = [("", _flat(entry)) for entry in value]
    else:
        named = [(str(key), _flat(entry)) for key, entry in value.items()]
    columns = list(dict.fromkeys(column for _, flat in named for column in flat))
    if 2 * sum(len(flat) for _, flat in named) < len(named) * len(columns):  # hardly a column in common
        return title + table(
            ["", "value"], [(f"{key} {column}", _show(flat[column])) for key, flat in named for column in flat]
        )
    first = [] if isinstance(value, list) else [""]
    lines = [(key, *(_show(flat[column]) if column in flat else "" for column in columns)) for key, flat in named]
    return title + table(
        [*first, *(column or "value" for column in columns)], [line[1 - len(first) :] for line in lines]
    )


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    return {
        key: leaf for inner, entry in value.items() for key, leaf in _flat(entry, f"{name} {inner}".strip()).items()
    }


def _show(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, list):
        return ", ".join(map(_show, value)) if len(value) <= LONGEST_LIST else f"{len(value)} values"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)


def table(header: list[str], lines: Iterable[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
