"""Tables for a terminal that is narrow: no number is cut and no word broken; what has no room goes below."""

import dataclasses
from collections.abc import Sequence

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from neumeta_hf.printable import printable

_BORDERS = 3
"""What a column takes beside its text; a table has one more."""
_LONG_KEY = 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its heading, which may be broken between words.
        cells: One per row.
        is_text: Whether it stands at the left, as words do, and not at the right.
    """

    name: str
    cells: Sequence[str]
    is_text: bool = False

    @property
    def least(self) -> int:
        """The narrowest that breaks no word and cuts no number."""
        lines = [*self.name.split(), *(line for cell in self.cells for line in cell.splitlines())]
        return max(map(cell_len, lines), default=1)


def build_tables(
    columns: Sequence[Column], *, width: int, title: str = "", sections: Sequence[int] = ()
) -> list[Table]:
    """Lay columns out in as few tables as a terminal's width needs, each with the first column.

    Args:
        columns: The first says what a row is of.
        width: Width of the terminal, in characters.
        title: Above the first table.
        sections: Rows that a line is drawn below.

    Returns:
        Tables; names in them are shown and do nothing, whatever they hold.
    """
    key, *others = [_inert(column) for column in columns]
    tables, waiting = [], list(others)
    while waiting or not tables:
        chosen = [key]
        while waiting and (len(chosen) == 1 or _width([*chosen, waiting[0]]) <= width):
            chosen.append(waiting.pop(0))
        tables.append(_build(chosen, width, "" if tables else title, sections))
    return tables


def break_at_commas(text: str) -> str:
    """Break a list of names and values into a line each where it is long.

    Args:
        text: Such as "stage2=0.5,stage3=0.25".

    Returns:
        The same, for a cell.
    """
    return text if len(text) <= _LONG_KEY else text.replace(",", ",\n")


def _inert(column: Column) -> Column:
    cells = [printable(cell, keep="\n") for cell in column.cells]
    return dataclasses.replace(column, name=printable(column.name), cells=cells)


def _width(columns: Sequence[Column]) -> int:
    return sum(column.least + _BORDERS for column in columns) + 1


def _build(columns: Sequence[Column], width: int, title: str, sections: Sequence[int]) -> Table:
    # As Text, whose brackets are no markup.
    table = Table(title=Text(printable(title)) if title else None, title_justify="left")
    spare = width - _width(columns)
    for column in columns:
        wanted = max(0, cell_len(column.name) - column.least)  # a heading on one line, where there is room
        extra = min(wanted, spare) if wanted <= spare else 0
        spare -= extra
        justify = "left" if column.is_text else "right"
        wide = min(column.least + extra, width // 2)  # a name that is longer goes on below
        table.add_column(Text(column.name), justify=justify, width=wide, overflow="fold")
    for row, cells in enumerate(zip(*(column.cells for column in columns), strict=True)):
        table.add_row(*map(Text, cells), end_section=row in sections)
    return table
