import pytest

from neumeta_hf.errors import one_line
from neumeta_hf.printable import printable


@pytest.mark.parametrize("text", ["Größe", "画像 1", "a [b] `c`", "نامه‌ها", "👨‍👩‍👧"])  # noqa: RUF001
def test_what_people_write_stays(text):
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jx", r"\x1b[2Jx"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\x9b0m\x00", r"\x9b0m\x00"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\u2066x\u200f", r"\u2066x\u200f"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("\u2028", r"\u2028"),
    ],
)
def test_what_moves_or_hides_shows_as_an_escape(text, shown):
    assert printable(text) == shown
    assert printable(f"{text}ä").encode()  # a terminal can be given all of it


def test_lines_stay_where_they_are_asked_for():
    assert printable("a\nb\x07", keep="\n") == "a\nb\\x07"


def test_an_error_is_one_inert_line():
    assert one_line(ValueError("key '\x1b[31m\n x'\u202e")) == r"key '\x1b[31m x'\u202e"
