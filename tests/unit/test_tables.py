import io

import pytest
from rich.console import Console

from neumeta_hf.tables import Column, break_at_commas, build_tables

COLUMNS = [
    Column(name="width", cells=["reference", break_at_commas("stage1.0=0.125,stage2.0=0.25,stage3.0=0.5")]),
    Column(name="reconstruction MSE", cells=["0.008189", "0.01221"]),
    Column(name="SSIM", cells=["0.9123", "0.8123"]),
    Column(name="Frechet distance", cells=["12.34", "56.78"]),
    Column(name="parameters", cells=["1,234,567,890", "234,567,890"]),
    Column(name="MACs", cells=["123,456,789,012", "23,456,789,012"]),
    Column(name="compression", cells=["0.0%", "81.0%"]),
    Column(name="size", cells=["", "untrained"], is_text=True),
]


def shown(width):
    console = Console(file=io.StringIO(), width=width)
    console.print(*build_tables(COLUMNS, width=width, title="a, b", sections=[0]))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_no_number_is_cut_and_no_word_broken_at_any_width(width):
    text = shown(width)
    assert max(map(len, text.splitlines())) <= width
    words = set(text.replace("│", " ").replace("┃", " ").split())
    assert words >= {word for column in COLUMNS for entry in (column.name, *column.cells) for word in entry.split()}


def test_what_has_no_room_goes_below_with_the_first_column_again():
    assert shown(200).count("reference") == 1
    assert shown(80).count("reference") == 2


def test_names_do_nothing():
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    columns = [Column(name="[red]a", cells=["\x1b[2J[/]"]), Column(name="b", cells=["1"])]
    console.print(*build_tables(columns, width=80, title="[bold]t"))
    text = console.file.getvalue()
    assert all(part in text for part in ("[red]a", r"\x1b[2J[/]", "[bold]t"))
    assert "\x1b" not in text
