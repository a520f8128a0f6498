"""Uploading a finished folder as one commit, its card merged with the one that is there."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage] - of httpx or of httpx2, as the release has it
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from neumeta_hf.errors import HubError, NeuMetaError, one_line
from neumeta_hf.hub.card import merge_card

logger = logging.getLogger(__name__)

_WAITS = (1.0, 4.0)
"""Seconds before the tries after the first."""

_Result = TypeVar("_Result")


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    make_card: Callable[[str], str],
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
        private: Whether a new repo is private; None: as the organisation's default says.
        token: Of the Hub; None: the stored one.
        revision: Branch to push to, made if it does not exist; None: main.
        create_pr: Open a pull request instead of committing.
        commit_message: Its first line.
        commit_description: What follows.
        overwrite_card: Write the card anew, also over one that somebody wrote by hand.

    Returns:
        The commit. Where nothing has changed the Hub makes none, and this is the last one.

    Raises:
        HubError: The Hub refuses or cannot be reached, after the retries that are safe; nothing was changed then.
        CardError: The card that is there cannot be read.
    """
    folder, api = Path(folder), HfApi(token=token)

    def upload() -> CommitInfo:
        full_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(full_id, branch=revision, exist_ok=True)
        card = make_card(full_id)
        existing = None if overwrite_card else _existing_card(api, full_id, revision)
        if existing is not None:
            merged = merge_card(card, existing)
            if merged == existing:
                logger.info("the card of %s is kept: it is up to date, or somebody's own", full_id)
            card = merged
        (folder / "README.md").write_text(card, encoding="utf-8")
        return api.upload_folder(
            repo_id=full_id,
            folder_path=folder,
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message or "Upload with neumeta_hf",
            commit_description=commit_description,
        )

    return explain_hub_errors(f"pushing to {repo_id}", lambda: _try_again(upload))


def explain_hub_errors(doing: str, call: Callable[[], _Result]) -> _Result:
    """Call something that talks to the Hub; what goes wrong becomes one error that says what to do.

    Args:
        doing: Such as "pushing to org/name".
        call: Without arguments.

    Returns:
        What it returns.

    Raises:
        HubError: Naming the repo, the reason and the remedy.
    """
    try:
        return call()
    except NeuMetaError:
        raise
    except OfflineModeIsEnabled as error:
        raise HubError(f"{doing}: HF_HUB_OFFLINE is set. Unset it to reach the Hub.") from error
    except HFValidationError as error:
        raise HubError(f"{doing}: {one_line(error)} Give organisation/name.") from error
    except LocalTokenNotFoundError as error:
        raise HubError(f"{doing}: there is no token. Run `hf auth login`, or pass token=.") from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise HubError(
            f"{doing}: {one_line(error)} Check the name and the revision; a private repo needs a token that may see "
            "it (`hf auth login`, or token=)."
        ) from error
    except BadRequestError as error:
        raise HubError(f"{doing}: the Hub refuses what was sent: {one_line(error)}") from error
    except HfHubHTTPError as error:
        raise HubError(f"{doing}: {one_line(error)} {_remedy(error)}") from error
    except (HTTPError, ConnectionError) as error:
        raise HubError(
            f"{doing}: the connection failed ({type(error).__name__}: {one_line(error)}). Check the network and try "
            "again: what has arrived is not sent twice."
        ) from error
    except ValueError as error:  # the Hub's word on the front matter, through the client
        raise HubError(
            f"{doing}: the card is refused: {one_line(error)} Nothing was committed; repair the card's front "
            "matter, or push with overwrite_card=True."
        ) from error
    except RuntimeError as error:  # of a file that could not be uploaded, after the client's own tries
        raise HubError(f"{doing}: {one_line(error)} Nothing was committed; try again later.") from error


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


def _existing_card(api: HfApi, repo_id: str, revision: str | None) -> str | None:
    try:
        # Past the cache: a card that was edited a moment ago must not be written over.
        path = api.hf_hub_download(repo_id, "README.md", revision=revision, force_download=True)
    except EntryNotFoundError:
        return None
    return Path(path).read_text(encoding="utf-8")


def _remedy(error: HfHubHTTPError) -> str:
    status: Any = getattr(error.response, "status_code", None)
    if status in (401, 403):
        return "The token may not write there: run `hf auth login` with one that may, or pass token=."
    if status == 429:
        return "The Hub limits the rate of requests: wait, then try again. Nothing was committed."
    return "Nothing was committed; try again later."
