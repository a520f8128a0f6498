"""What goes up with a family or a morph: weights, image processor, what the run left behind, and the card."""

import dataclasses
import functools
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitInfo, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from transformers import PreTrainedModel

from neumeta_hf.errors import HubError
from neumeta_hf.files import shorten_paths
from neumeta_hf.hub.card import FamilyFacts, MorphFacts, family_card, is_hub_id, morph_card
from neumeta_hf.hub.code import AUTO_MAP, TASK_CLASSES, remote_code
from neumeta_hf.hub.push import explain_hub_errors, push_folder

_PROCESSOR = "preprocessor_config.json"
_RUN_FILES = (_PROCESSOR, "training.json", "sweep.json", "sweep.csv", "sweep.png")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MorphOrigin:
    """Where a morph comes from.

    Attributes:
        source: Hub id or folder of the family; empty for one that was never saved.
        family: Name of the target family.
        task: What its networks do.
        widths: Width group to ratio.
        num_samples: Generations averaged.
        full_num_parameters: Of the family's reference.
    """

    source: str
    family: str
    task: str
    widths: Mapping[str, float]
    num_samples: int
    full_num_parameters: int


def push_family(
    model: PreTrainedModel,
    facts: FamilyFacts,
    repo_id: str,
    *,
    run: str | Path | None,
    max_shard_size: int | str = "50GB",
    license: str | None = None,
    tags: list[str] | None = None,
    image_processor: Any = None,
    with_code: bool = False,
    **options: Any,
) -> CommitInfo:
    """Upload a family as one commit.

    Args:
        model: The family.
        facts: What the model itself says of the card; what the run left behind is added here.
        repo_id: `organisation/name`.
        run: Folder of the run, whose image processor, training facts and sweep go along; None: there is none.
        max_shard_size: Of a weights file.
        license: Of the weights, a Hub identifier.
        tags: More tags for the card.
        image_processor: Instead of the run's.
        with_code: Add this package's modeling code, for people who have not installed it.
        **options: Of `push_folder`.

    Returns:
        The commit.

    Raises:
        HubError: As `push_folder`, or a file of the run cannot be read.
        CardError: The card that is there cannot be read.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        found = {} if run is None else _run_facts(Path(run))
        if run is not None:
            _copy(Path(run), folder, _RUN_FILES)
        if image_processor is not None:
            image_processor.save_pretrained(folder)
        if with_code:
            _add_code(folder, facts.task)
        whole = dataclasses.replace(facts, **found, has_figure=(folder / "sweep.png").is_file())
        make_card = functools.partial(family_card, whole, license=license, tags=tags or ())
        return push_folder(folder, repo_id, make_card=make_card, **options)


def push_morph(
    model: Any,
    origin: MorphOrigin,
    repo_id: str,
    *,
    max_shard_size: int | str = "50GB",
    license: str | None = None,
    tags: list[str] | None = None,
    image_processor: Any = None,
    **options: Any,
) -> CommitInfo:
    """Upload a morph as an ordinary checkpoint whose card names its family and its size.

    Args:
        model: The morph.
        origin: Where it comes from.
        repo_id: `organisation/name`.
        max_shard_size: Of a weights file.
        license: Of the weights, a Hub identifier.
        tags: More tags for the card.
        image_processor: Instead of the family's.
        **options: Of `push_folder`.

    Returns:
        The commit.

    Raises:
        HubError: As `push_folder`.
        CardError: The card that is there cannot be read.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _save_morph(
            model,
            origin,
            folder,
            image_processor=image_processor,
            max_shard_size=max_shard_size,
            token=options.get("token"),
        )
        facts = _morph_facts(model, origin)
        make_card = functools.partial(morph_card, facts, license=license, tags=tags or ())
        return push_folder(folder, repo_id, make_card=make_card, **options)


def _save_morph(
    model: Any,
    origin: MorphOrigin,
    folder: Path,
    *,
    image_processor: Any,
    max_shard_size: int | str,
    token: bool | str | None,
) -> None:
    """Write a morph, and the family's image processor where it has one."""
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    if image_processor is not None:
        image_processor.save_pretrained(folder)
    elif Path(origin.source).is_dir() and origin.source:
        _copy(Path(origin.source), folder, (_PROCESSOR,))
    elif is_hub_id(origin.source):
        try:
            path = explain_hub_errors(
                f"reading {_PROCESSOR} of {origin.source}",
                lambda: hf_hub_download(origin.source, _PROCESSOR, token=token),
            )
        except HubError as error:
            if not isinstance(error.__cause__, EntryNotFoundError):
                raise
        else:
            shutil.copyfile(path, folder / _PROCESSOR)


def _morph_facts(model: Any, origin: MorphOrigin) -> MorphFacts:
    """What is known of a morph, its measured score where the family's folder holds a sweep with this very size."""
    row, sweep = None, _read_json(Path(origin.source) / "sweep.json") if origin.source else None
    ratios = set(origin.widths.values())
    # A relative path of two parts reads like a Hub id.
    is_on_hub = is_hub_id(origin.source) and not Path(origin.source).is_dir()
    if sweep is not None and len(ratios) == 1 and origin.num_samples == sweep["facts"].get("num_samples"):
        row = next((row for row in sweep["rows"] if row["width"] in ratios), None)
    library = type(model).__module__.partition(".")[0]
    return MorphFacts(
        model_class=type(model).__name__,
        library=library if library in ("transformers", "diffusers") else "neumeta_hf",
        family=origin.family,
        task=origin.task,
        source=origin.source if is_on_hub else Path(origin.source).name or "never saved",
        widths=origin.widths,
        num_samples=origin.num_samples,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        full_num_parameters=origin.full_num_parameters,
        row=row,
        sweep_facts=sweep["facts"] if row is not None and sweep is not None else None,
    )


def _run_facts(run: Path) -> dict[str, Any]:
    recipe = None
    if (run / "recipe.yaml").is_file():
        recipe = _without_folders(yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8")))
    return {
        "recipe": recipe,
        "training": _read_json(run / "training.json"),
        "sweep": _read_json(run / "sweep.json"),
    }


def _read_json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise HubError(f"{path} is no JSON ({error}): remove it, or write it anew with neumeta evaluate.") from error


def _without_folders(value: Any) -> Any:
    """A recipe as others may read it: folders of this machine say nothing to them."""
    if isinstance(value, dict):
        return {key: _without_folders(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_folders(entry) for entry in value]
    if not isinstance(value, str):
        return value
    shortened = shorten_paths(value)
    # The last part alone: two would read like the id of somebody's repo.
    is_folder = shortened != value or (is_hub_id(value) and Path(value).exists())
    return Path(shortened).name if is_folder else value


def _add_code(folder: Path, task: str) -> None:
    for name, source in remote_code().items():
        (folder / name).write_text(source, encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = json.dumps({**config, "auto_map": AUTO_MAP | TASK_CLASSES.get(task, {})}, indent=2, sort_keys=True)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def _copy(source: Path, folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
