"""A new card into one that is there: the generated section is written anew, what somebody wrote by hand is kept."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from neumeta_hf.errors import CardError
from neumeta_hf.hub.card import BEGIN, END, UNKNOWN
from neumeta_hf.reading import parse_yaml

_BEGIN = re.compile(f"^{re.escape(BEGIN)}", flags=re.MULTILINE)
_END = re.compile(f"^{re.escape(END)}", flags=re.MULTILINE)
"""At the start of a line alone: within one they are somebody's words."""


def merge_card(written: str, existing: str, *, decided: Sequence[str] = ()) -> str:
    """Merge a new card into an existing one: its generated section is replaced, all else stays.

    Of the front matter, results are replaced as well (they would contradict the table), keys that are missing are
    added, and tags are united. A licence that the new card names takes the place of the old one; "unknown" names none.

    Args:
        written: The new card.
        existing: The card that is there.
        decided: Keys of the front matter that the new card decides, whatever the existing one says.

    Returns:
        The merged card; `existing` itself where it has no generated section, and so is somebody's own.

    Raises:
        CardError: The front matter of the existing card is not a YAML mapping, or its section has no end. Or somebody
            wrote it by hand, with another licence than the new card names.
    """
    new_front, new_body = split_front_matter(written)
    license = new_front["license"]
    if not is_generated(existing):
        if license != UNKNOWN and (own := split_front_matter(existing)[0].get("license")) != license:
            raise _refuse(
                f"the licence {license!r} was given, but the card on the Hub has {own!r}, written by hand: change it "
                "there and push without a licence,"
            )
        return existing
    front, body = split_front_matter(existing)
    (start, end), (new_start, new_end) = _find_section(body), _find_section(new_body)
    body = body[:start] + new_body[new_start:new_end] + body[end:]
    merged = {**new_front, **front, **{key: new_front[key] for key in decided if key in new_front}}
    if license != UNKNOWN:
        merged["license"] = license
    merged["tags"] = _tags(front) + [tag for tag in _tags(new_front) if tag not in _tags(front)]
    merged.pop("model-index", None)
    if "model-index" in new_front:
        merged["model-index"] = new_front["model-index"]
    return f"---\n{yaml.safe_dump(merged, sort_keys=False, allow_unicode=True)}---\n{body}"


def is_generated(card: str) -> bool:
    """Whether a card has a section that a push wrote; else it is somebody's own."""
    return _BEGIN.search(card) is not None


def split_front_matter(card: str) -> tuple[dict[str, Any], str]:
    """Split a card into the keys of its front matter and what follows.

    Raises:
        CardError: The front matter is no YAML mapping.
    """
    found = re.match(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*\r?\n", card, flags=re.DOTALL | re.MULTILINE)
    if found is None:
        return {}, card
    try:
        front = parse_yaml(found[1], "the front matter of the card on the Hub", error=CardError)
    except CardError as error:
        raise _refuse(f"{error} Repair it there,") from error
    if not isinstance(front or {}, dict):
        raise _refuse("the front matter of the card on the Hub is no mapping of keys: repair it there,")
    return front or {}, card[found.end() :]


def _find_section(body: str) -> tuple[int, int]:
    """Where the generated section begins and ends, its end mark left out."""
    begin = _BEGIN.search(body)
    end = _END.search(body, begin.end()) if begin else None
    if begin is None or end is None:
        raise _refuse(
            f"the card on the Hub has {BEGIN!r} and no {END!r} after it: its generated section cannot be told from "
            "the rest. Put the end mark back,"
        )
    return begin.start(), end.start()


def _refuse(problem: str) -> CardError:
    """The error of a card that is not merged, which may be written anew."""
    return CardError(
        f"{problem} or push with overwrite_card=True.", command=f"{problem} or push with --overwrite-card."
    )


def _tags(front: Mapping[str, Any]) -> list[str]:
    tags = front.get("tags") or []
    return tags if isinstance(tags, list) else [tags]
