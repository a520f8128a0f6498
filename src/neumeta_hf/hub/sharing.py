"""What goes up with a family or a morph: weights, preprocessor, what the run left behind, and the card."""

import csv
import dataclasses
import functools
import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitInfo
from transformers import PreTrainedModel

from neumeta_hf.axes import scale_channels
from neumeta_hf.checkpoints import save_network
from neumeta_hf.errors import CheckpointError, HubError
from neumeta_hf.files import write_folder_beside
from neumeta_hf.hub.card import is_hub_id
from neumeta_hf.hub.code import AUTO_MAP, TASK_CLASSES, remote_code
from neumeta_hf.hub.family_card import FamilyFacts, family_card
from neumeta_hf.hub.morph_card import MorphFacts, morph_card
from neumeta_hf.hub.preprocessors import read_preprocessor, write_preprocessor
from neumeta_hf.hub.push import PushPlan, plan_push, push_folder
from neumeta_hf.hub.run_files import (
    FACTS,
    FIGURE,
    RECIPE,
    SWEEP,
    TABLE,
    TRAINING,
    find_run_file,
    read_recipe,
    read_sweep,
    read_table,
    read_training,
)
from neumeta_hf.hub.sentences import write_sentence_modules
from neumeta_hf.provenance import MorphOrigin, RunSource

logger = logging.getLogger(__name__)

_EMBEDDING = "sentence-embedding"


def push_family(
    model: PreTrainedModel,
    facts: FamilyFacts,
    repo_id: str,
    *,
    run: RunSource | None,
    max_shard_size: int | str = "50GB",
    license: str | None = None,
    tags: list[str] | None = None,
    image_processor: Any = None,
    with_code: bool = False,
    dry_run: bool = False,
    **options: Any,
) -> CommitInfo | PushPlan:
    """Upload a family as one commit.

    Args:
        model: The family.
        facts: What the model itself says of the card; what the run left behind is added here.
        repo_id: `organisation/name`.
        run: Where image processor or tokenizer, recipe, training facts and sweep come from; None: there are none.
        max_shard_size: Largest size of a weights file.
        license: Licence of the weights, a Hub identifier.
        tags: More tags for the card.
        image_processor: Instead of the run's image processor or tokenizer.
        with_code: Add this package's modeling code, for people who have not installed it.
        dry_run: Upload nothing.
        **options: Options of `push_folder`.

    Returns:
        The commit, or what would go up in a dry run.

    Raises:
        HubError: As `push_folder`, or the repo that the family came from cannot be reached.
        CardError: As `push_folder`.
        CheckpointError: A file of the run is damaged.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        found = {} if run is None else _add_run(run, folder, token=options.get("token"))
        if image_processor is not None:
            image_processor.save_pretrained(folder)
        if with_code:
            _add_code(folder, facts.task)
        whole = dataclasses.replace(facts, **found, has_figure=(folder / FIGURE).is_file())
        make_card = functools.partial(family_card, whole, license=license, tags=tags or ())
        if dry_run:
            return plan_push(folder, repo_id, make_card=make_card)
        return push_folder(folder, repo_id, make_card=make_card, replaced=FACTS, **options)


def push_morph(
    model: Any,
    origin: MorphOrigin,
    repo_id: str,
    *,
    max_shard_size: int | str = "50GB",
    license: str | None = None,
    tags: list[str] | None = None,
    image_processor: Any = None,
    dry_run: bool = False,
    **options: Any,
) -> CommitInfo | PushPlan:
    """Upload a morph as an ordinary checkpoint whose card names its family and its size.

    Args:
        model: The morph.
        origin: Where it comes from.
        repo_id: `organisation/name`.
        max_shard_size: Largest size of a weights file.
        license: Licence of the weights, a Hub identifier.
        tags: More tags for the card.
        image_processor: Instead of the family's image processor or tokenizer.
        dry_run: Upload nothing.
        **options: Options of `push_folder`.

    Returns:
        The commit, or what would go up in a dry run.

    Raises:
        HubError: As `push_folder`, or the repo that the family came from cannot be reached.
        CardError: As `push_folder`.
        CheckpointError: The family's sweep is damaged.
    """
    preprocessor, sweep = {}, None
    if origin.run is not None:
        find = functools.partial(find_run_file, origin.run, token=options.get("token"))
        preprocessor, sweep = read_preprocessor(find), read_sweep(find(SWEEP))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        if image_processor is not None:
            image_processor.save_pretrained(folder)
        else:
            write_preprocessor(preprocessor, folder)
        if origin.task == _EMBEDDING:
            write_sentence_modules(folder)
        facts = _morph_facts(model, origin, sweep)
        make_card = functools.partial(morph_card, facts, license=license, tags=tags or ())
        if dry_run:
            return plan_push(folder, repo_id, make_card=make_card)
        return push_folder(folder, repo_id, make_card=make_card, **options)


def save_morph(model: Any, origin: MorphOrigin, folder: str | Path) -> None:
    """Write a morph into a folder as `push_morph` uploads it: weights, the family's preprocessor, and the card.

    Morphs of sentence encoders load in sentence-transformers as well, if the family has a tokenizer.

    A checksum of the weights goes with it, which loading it with this package compares.

    A file of the family that is damaged, or lies on the Hub and cannot be reached, is told of and left out: a family
    from the cache morphs without a network.

    Args:
        model: The morph.
        origin: Where it comes from.
        folder: Made whole or not at all; what was there is replaced.

    Raises:
        OSError: The folder cannot be written.
    """
    folder, preprocessor, sweep = Path(folder), {}, None
    if origin.run is not None:
        try:
            find = functools.partial(find_run_file, origin.run)
            preprocessor, sweep = read_preprocessor(find), read_sweep(find(SWEEP))
        except (HubError, CheckpointError) as error:
            logger.warning("the morph is saved with what there is: %s", error)
    facts = _morph_facts(model, origin, sweep)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with write_folder_beside(folder) as beside:
        save_network(model, beside)
        write_preprocessor(preprocessor, beside)
        if origin.task == _EMBEDDING:
            write_sentence_modules(beside)
        (beside / "README.md").write_text(morph_card(facts, folder.name), encoding="utf-8")


def _morph_facts(model: Any, origin: MorphOrigin, sweep: Mapping[str, Any] | None) -> MorphFacts:
    """What is known of a morph, its measured score where the family's sweep holds this very network."""
    is_changed = not origin.fingerprint.fits(model.state_dict())
    row = None if sweep is None or is_changed else _row_of(origin, sweep)
    # A relative path of two parts reads like a Hub id.
    is_on_hub = is_hub_id(origin.source) and not Path(origin.source).is_dir()
    return MorphFacts(
        model_class=type(model).__name__,
        module=type(model).__module__,
        family=origin.family,
        task=origin.task,
        source=origin.source if is_on_hub else Path(origin.source).name or "never saved",
        widths=origin.widths,
        depths=origin.depths,
        num_samples=origin.num_samples,
        noise=origin.noise,
        calibrated=origin.calibrated,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        full_num_parameters=origin.full_num_parameters,
        is_changed=is_changed,
        row=row,
        sweep_facts=sweep["facts"] if row is not None and sweep is not None else None,
    )


def _row_of(origin: MorphOrigin, sweep: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The row that measured this very network: of its size, sampled and calibrated as it was."""
    facts, ratios = sweep["facts"], set(origin.widths.values())
    decisive = {"calibrated": origin.calibrated, "noise": origin.noise}
    if origin.noise:
        decisive |= {"num_samples": origin.num_samples, "seed": origin.seed}
    # What the sweep does not say may have been otherwise.
    if len(ratios) > 1 or any(key not in facts or facts[key] != value for key, value in decisive.items()):
        return None
    uniform = (row for row in sweep["rows"] if not isinstance(row["width"], Mapping))
    return next((row for row in uniform if row["width"] in ratios and _has_depth(origin, row.get("depth", 1))), None)


def _has_depth(origin: MorphOrigin, depth: float) -> bool:
    return all(count == scale_channels(full, depth) for count, full in origin.depths.values())


def _add_run(run: RunSource, folder: Path, *, token: bool | str | None) -> dict[str, Any]:
    """Put what a run left behind into a folder; what the card tells of it.

    What was read and checked is what is written, without the folders of the machine that it was first written on.
    """
    find = functools.partial(find_run_file, run, token=token)
    preprocessor = read_preprocessor(find)
    found = {name: find(name) for name in FACTS}
    table = read_table(found[TABLE])
    recipe, training, sweep = read_recipe(found[RECIPE]), read_training(found[TRAINING]), read_sweep(found[SWEEP])
    write_preprocessor(preprocessor, folder)
    for name, values in ((TRAINING, training), (SWEEP, sweep)):
        if values is not None:
            _write_json(values, folder / name)
    if table is not None:
        with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(table)
    if recipe is not None:
        text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
        (folder / RECIPE).write_text(text, encoding="utf-8")
    if (figure := found[FIGURE]) is not None:
        shutil.copyfile(figure, folder / FIGURE)
    return {"recipe": recipe, "training": training, "sweep": sweep}


def _write_json(values: Mapping[str, Any], path: Path) -> None:
    """Write values as those who made the file do, so that what needed no change is the same to the byte."""
    path.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _add_code(folder: Path, task: str) -> None:
    for name, source in remote_code().items():
        (folder / name).write_text(source, encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = json.dumps({**config, "auto_map": AUTO_MAP | TASK_CLASSES.get(task, {})}, indent=2, sort_keys=True)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
