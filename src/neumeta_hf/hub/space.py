"""A page for a family, as a Space beside its repo: the page's files, this package's code, and the family's name."""

import importlib.resources
import shutil
import tempfile
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitInfo, HfApi

from neumeta_hf.errors import HubError
from neumeta_hf.hub.card import BEGIN, END
from neumeta_hf.hub.client import download_file, explain_hub_errors
from neumeta_hf.hub.escaping import plain
from neumeta_hf.hub.merging import is_generated, split_front_matter
from neumeta_hf.hub.push import PushPlan, plan_push, push_folder
from neumeta_hf.shipped import space_files

_PACKAGE = __name__.split(".")[0]
_DECIDED = ("sdk", "sdk_version", "python_version", "app_file", "models")
"""What the header says of the files that go up with it, whatever somebody wrote there."""
_MADE_BY_THE_HUB = {".gitattributes", "README.md"}


def push_space(
    family_id: str,
    *,
    private: bool | None = None,
    token: bool | str | None = None,
    commit_message: str | None = None,
    dry_run: bool = False,
) -> CommitInfo | PushPlan:
    """Upload a page for a family as a Space of the same name, or bring the one that is there up to date.

    The Space has no weights: it loads the family from its repo. What somebody wrote into its README.md stays.

    Args:
        family_id: Of the family's repo, `organisation/name`.
        private: Whether a new Space is private; None: as the organisation's default says.
        token: Of the Hub; None: the stored one.
        commit_message: Its first line.
        dry_run: Upload nothing, and reach no network.

    Returns:
        The commit, or what would go up in a dry run.

    Raises:
        HubError: The Space holds files of somebody's own, the Hub refuses or cannot be reached; or the page's files did
            not come with the package.
        CardError: The header of the Space's README.md cannot be read.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        template = _write_files(folder)

        def make_card(_: str) -> str:
            return _card(template, family_id)

        if dry_run:
            return plan_push(folder, family_id, make_card=make_card)
        is_new = explain_hub_errors(f"reading the Space {family_id}", lambda: _is_new(family_id, token))
        return push_folder(
            folder,
            family_id,
            make_card=make_card,
            repo_type="space",
            replaced=(f"{_PACKAGE}/*",),
            decided=_DECIDED,
            private=private,
            token=token,
            commit_message=commit_message,
            overwrite_card=is_new,  # what stands there then is the Hub's
        )


def _write_files(folder: Path) -> str:
    """Write all but the README.md, whose template comes back."""
    files = {path.name: path for path in space_files()}
    if "README.md" not in files:
        raise HubError("the files of the page did not come with this copy of the package: install it from its wheel.")
    for name, path in files.items():
        if name != "README.md":
            shutil.copyfile(path, folder / name)
    _copy_code(importlib.resources.files(_PACKAGE), folder / _PACKAGE)
    return files["README.md"].read_text(encoding="utf-8")


def _copy_code(source: Traversable, target: Path) -> None:
    """Copy modules, and the packages among the folders; trained families stay behind."""
    target.mkdir()
    for entry in source.iterdir():
        if entry.is_dir() and entry.joinpath("__init__.py").is_file():
            _copy_code(entry, target / entry.name)
        elif entry.is_file() and entry.name.endswith((".py", ".yaml")):
            (target / entry.name).write_bytes(entry.read_bytes())


def _card(template: str, family_id: str) -> str:
    front, _ = split_front_matter(template)
    name = plain(family_id.rpartition("/")[2])
    front: dict[str, Any] = {**front, "title": f"{name}: any size", "models": [family_id]}
    header = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    body = (
        f"Any size of the family [{family_id}](https://huggingface.co/{family_id}): what it costs, what it scores, and "
        "what it makes of an image."
    )
    return f"---\n{header}---\n\n{BEGIN}\n{body}\n{END}\n"


def _is_new(repo_id: str, token: bool | str | None) -> bool:
    """Whether a Space is not there yet, or holds nothing yet; one of somebody's own is an error."""
    api = HfApi(token=token)
    if not api.repo_exists(repo_id, repo_type="space"):
        return True
    if not set(api.list_repo_files(repo_id, repo_type="space")) - _MADE_BY_THE_HUB:
        return True  # a push that was interrupted
    card = download_file(repo_id, "README.md", repo_type="space", token=token, force_download=True)
    if card is None or not is_generated(card.read_text(encoding="utf-8")):
        raise HubError(
            f"the Space {repo_id} holds files of somebody's own, which are left as they are: rename it, or push the "
            "family under another name."
        )
    return False
