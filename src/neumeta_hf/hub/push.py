"""Uploading a finished folder as one commit, its card merged with the one that is there."""

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage] - of httpx or of httpx2, as the release has it
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import validate_repo_id

from neumeta_hf.errors import one_line
from neumeta_hf.hub.client import download_file, explain_hub_errors
from neumeta_hf.hub.merging import merge_card

logger = logging.getLogger(__name__)

_WAITS = (1.0, 4.0)
"""Seconds before the tries after the first."""

_Result = TypeVar("_Result")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PushPlan:
    """What a push would upload.

    Attributes:
        repo_id: As it was given.
        card: The text of its README.md, as it is where the repo has none yet.
        files: Name to bytes.
    """

    repo_id: str
    card: str
    files: Mapping[str, int]


def plan_push(folder: str | Path, repo_id: str, *, make_card: Callable[[str], str]) -> PushPlan:
    """See what `push_folder` would upload, and reach no network.

    Args:
        folder: As of `push_folder`; the card is written into it.
        repo_id: As of `push_folder`.
        make_card: As of `push_folder`.

    Returns:
        The card and the files.

    Raises:
        HubError: The Hub has no such names.
    """
    folder = Path(folder)
    explain_hub_errors(f"pushing to {repo_id}", lambda: validate_repo_id(repo_id))
    card = make_card(repo_id)
    (folder / "README.md").write_text(card, encoding="utf-8")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    return PushPlan(repo_id=repo_id, card=card, files=sizes)


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    make_card: Callable[[str], str],
    repo_type: Literal["model", "space"] = "model",
    replaced: Sequence[str] = (),
    decided: Sequence[str] = (),
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    commit_description: str | None = None,
    overwrite_card: bool = False,
) -> CommitInfo:
    """Upload a folder, as one commit that appears whole or not at all.

    The client repeats what it can. The commit itself it does not: an answer that was lost may have been a commit. Here
    the whole upload is tried again, which makes no second commit where the first has arrived.

    Args:
        folder: What to upload; `README.md` is written into it.
        repo_id: `organisation/name`, or a name in one's own space; made if it does not exist.
        make_card: Gets the full repo id, returns the card.
        repo_type: Of the repo; a new Space is one of Gradio.
        replaced: Files that the repo loses where the folder has none of that name, as they would tell of other weights.
        decided: Keys of the card's front matter that the new card decides, as for `merge_card`.
        private: Whether a new repo is private; None: as the organisation's default says.
        token: Access token of the Hub; None: the stored one.
        revision: Branch to push to, made if it does not exist; None: main.
        create_pr: Open a pull request instead of committing.
        commit_message: Its first line.
        commit_description: What follows.
        overwrite_card: Write the card anew, also over one that somebody wrote by hand.

    Returns:
        The commit. Where nothing has changed the Hub makes none, and this is the last one.

    Raises:
        HubError: The Hub refuses or cannot be reached, after the retries that are safe; nothing was changed then.
        CardError: The card that is there cannot be read, or is somebody's own and has another licence.
    """
    folder, api = Path(folder), HfApi(token=token)

    def upload() -> CommitInfo:
        sdk = "gradio" if repo_type == "space" else None
        made = api.create_repo(repo_id, repo_type=repo_type, space_sdk=sdk, private=private, exist_ok=True)
        full_id = made.repo_id
        if revision is not None:
            api.create_branch(full_id, branch=revision, repo_type=repo_type, exist_ok=True)
        card = make_card(full_id)
        existing = None if overwrite_card else _existing_card(full_id, repo_type, revision, token)
        if existing is not None:
            merged = merge_card(card, existing, decided=decided)
            if merged == existing:
                logger.info("the card of %s is kept: it is up to date, or somebody's own", full_id)
            card = merged
        (folder / "README.md").write_text(card, encoding="utf-8")
        return api.upload_folder(
            repo_id=full_id,
            repo_type=repo_type,
            folder_path=folder,
            revision=revision,
            create_pr=create_pr,
            delete_patterns=list(replaced) or None,
            commit_message=commit_message or "Upload with neumeta_hf",
            commit_description=commit_description,
        )

    return explain_hub_errors(f"pushing to {repo_id}", lambda: _try_again(upload))


def _try_again(call: Callable[[], _Result]) -> _Result:
    for wait in _WAITS:
        try:
            return call()
        except HfHubHTTPError as error:
            if getattr(error.response, "status_code", 0) < 500:
                raise
            logger.warning("the Hub failed (%s): trying again in %g seconds", one_line(error), wait)
        except OfflineModeIsEnabled:
            raise
        except (HTTPError, ConnectionError) as error:
            logger.warning("the connection failed (%s): trying again in %g seconds", one_line(error), wait)
        time.sleep(wait)
    return call()


def _existing_card(repo_id: str, repo_type: str, revision: str | None, token: bool | str | None) -> str | None:
    # Past the cache: a card that was edited a moment ago must not be written over.
    options = {"repo_type": repo_type, "revision": revision, "token": token}
    path = download_file(repo_id, "README.md", **options, force_download=True)
    return None if path is None else path.read_text(encoding="utf-8")
