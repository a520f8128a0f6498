import math

import numpy as np
import pytest

from neumeta_hf.kinds import AMOUNT, COUNT, NAME, NUMBER, RATIO, SEED, WIDTH, YES_OR_NO, number, whole_number

NONE_OF_ANY = [
    np.float32("inf"),
    np.float16("nan"),
    math.nan,
    math.inf,
    -math.inf,
    True,
    False,
    np.True_,
    "1",
    None,
    [1],
    1j,
    10**400,
    -(10**400),
]


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (COUNT, [0, 1, np.int64(5), 2**63 - 1], [-1, 1.0, 2**63]),
        (SEED, [0, 2**63 - 1], [-1, 2**63, 0.5]),
        (whole_number(1, 3), [1, 3], [0, 4]),
        (NUMBER, [-5, 0.5, np.float32(1), 1.7e308], []),
        (AMOUNT, [0, 0.0, 1e9], [-1e-9, -1]),
        (RATIO, [0, 1, 0.5, np.float64(0.25)], [-0.01, 1.01, 952]),
        (WIDTH, [1e-9, 4, 0.5], [0, -1, 4.01]),
        (number(most=1), [-(10**6), 1], [1.5]),
    ],
)
def test_numbers_are_of_their_range_and_nothing_else_is_one(kind, good, bad):
    assert [value for value in good if not kind.holds(value)] == []
    assert [value for value in [*bad, *NONE_OF_ANY] if kind.holds(value)] == []
    assert kind.or_none().holds(None)
    assert not kind.or_none().holds("1")


def test_names_are_bounded_and_only_true_and_false_are_answers():
    assert NAME.holds("x" * 200)
    assert not NAME.holds("x" * 201)
    assert not NAME.holds(b"x")
    assert [value for value in (True, False, 1, 0, "true", None) if YES_OR_NO.holds(value)] == [True, False]
