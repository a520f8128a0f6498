"""Asking the Hub: downloads of single files, and what went wrong in words. Knows no network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    FileMetadataError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage] - of httpx or of httpx2, as the release has it
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from neumeta_hf.errors import HubError, NeuMetaError, one_line
from neumeta_hf.reading import find_file

_Result = TypeVar("_Result")


def download_file(repo_id: str, name: str, **options: Any) -> Path | None:
    """Download a file of a repo.

    Args:
        repo_id: `organisation/name`.
        name: Name of the file.
        **options: Options of `hf_hub_download`.

    Returns:
        Where it lies, or None where the repo has no such file.

    Raises:
        Exception: What the client met, such as an `HfHubHTTPError`: `explain_hub_errors` puts it into words.
    """
    try:
        return Path(hf_hub_download(repo_id, name, **options))
    except (LocalEntryNotFoundError, ValueError) as error:
        # Both also wrap connection failures. The cause is raised instead: it decides whether to try again, and what to
        # say.
        if error.__cause__ is None or isinstance(error, (HfHubHTTPError, HFValidationError)):
            raise
        raise error.__cause__ from None
    except EntryNotFoundError:
        return None


def find_beside(name: str, file: str) -> Path | None:
    """Find a file that lies beside the weights of a network.

    Args:
        name: A folder or Hub id, or a file of weights, which has nothing beside it.
        file: Its name.

    Returns:
        Where it lies, or None where there is none.

    Raises:
        HubError: Whether there is such a file cannot be told.
        CheckpointError: It is a link out of the folder, or no regular file.
    """
    if Path(name).is_file() or name.endswith(".safetensors"):
        return None
    if Path(name).is_dir():
        return find_file(name, file)

    def download() -> Path | None:
        # Offline, too, it is known where the Hub has said before that there is none.
        known_missing = try_to_load_from_cache(name, file) is _CACHED_NO_EXIST
        return None if known_missing else download_file(name, file)

    return explain_hub_errors(f"reading {file} of {name}", download)


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
        problem = f"{doing}: there is no token. Run `hf auth login`, or"
        raise HubError(f"{problem} pass token=.", command=f"{problem} set HF_TOKEN.") from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        problem = (
            f"{doing}: {one_line(error)} Check the name and the revision; a private repo needs a token that may see it"
        )
        raise HubError(
            f"{problem} (`hf auth login`, or token=).", command=f"{problem} (`hf auth login`, or HF_TOKEN)."
        ) from error
    except BadRequestError as error:
        raise HubError(f"{doing}: the Hub refuses what was sent: {one_line(error)}") from error
    except HfHubHTTPError as error:
        said = f"{doing}: {one_line(error)}"
        python, command = _remedies(error)
        raise HubError(f"{said} {python}", command=f"{said} {command}") from error
    except (HTTPError, ConnectionError, FileMetadataError) as error:
        raise HubError(
            f"{doing}: the connection failed ({type(error).__name__}: {one_line(error)}). Check the network and try "
            "again: what has arrived is not sent twice."
        ) from error
    except ValueError as error:  # the Hub's word on the front matter, through the client
        problem = (
            f"{doing}: the card is refused: {one_line(error)} Nothing was committed; repair the card's front matter, "
            "or push with"
        )
        raise HubError(f"{problem} overwrite_card=True.", command=f"{problem} --overwrite-card.") from error
    except RuntimeError as error:  # of a file that could not be uploaded, after the client's own tries
        raise HubError(f"{doing}: {one_line(error)} Nothing was committed; try again later.") from error


def _remedies(error: HfHubHTTPError) -> tuple[str, str]:
    """What to do, in Python and on the command line."""
    status: Any = getattr(error.response, "status_code", None)
    if status in (401, 403):
        advice = "The token may not write there: run `hf auth login` with one that may, or"
        return f"{advice} pass token=.", f"{advice} set HF_TOKEN."
    said = "Nothing was committed; try again later."
    if status == 429:
        said = "The Hub limits the rate of requests: wait, then try again. Nothing was committed."
    return said, said
