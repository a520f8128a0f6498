import pytest

from neumeta_hf.errors import RecipeError
from neumeta_hf.widths import format_width, parse_widths


@pytest.mark.parametrize(
    ("text", "widths"),
    [
        ("0.25:1.0:0.125", [0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0]),
        ("0.1:0.3:0.1", [0.1, 0.2, 0.3]),  # 0.1 + 2 * 0.1 is 0.30000000000000004 in floats
        ("0.3:1.0:0.4", [0.3, 0.7]),  # the end is met by no step
        ("0.5:0.5:0.1", [0.5]),
        (" 0.25, 0.5 ,1 ", [0.25, 0.5, 1.0]),
        ("1,0.5", [1.0, 0.5]),
        ("0.75", [0.75]),
    ],
)
def test_ranges_and_lists(text, widths):
    assert parse_widths(text) == widths


@pytest.mark.parametrize(
    "text",
    ["", "a", "0.25,,0.5", "0.25:1.0", "0.25:1.0:0", "0.25:1.0:-0.1", "1.0:0.25:0.1", "1:2:3:4", "nan", "0.5,inf"]
    + ["0:inf:1", "nan:1:1", "0:1:1e-9", "0.25-1.0"],
)
def test_anything_else_is_refused_with_the_allowed_forms(text):
    with pytest.raises(RecipeError, match=r"such as 0.25:1.0:0.125, or a list such as 0.25,0.5,1.0"):
        parse_widths(text)


@pytest.mark.parametrize(
    ("width", "short", "exact"),
    [
        (0.5, "0.5", "0.5"),
        (1.0, "1", "1.0"),
        (2 / 3, "0.666667", "0.6666666666666666"),
        ({"stage3": 1 / 3, "stage2": 1.0}, "stage3=0.333333,stage2=1", "stage3=0.3333333333333333,stage2=1.0"),
    ],
)
def test_widths_are_written_as_the_command_takes_them(width, short, exact):
    assert format_width(width) == short
    assert format_width(width, exact=True) == exact
