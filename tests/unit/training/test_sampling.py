import collections

import pytest

from neumeta_hf.errors import RecipeError
from neumeta_hf.training import SizeSampler

WIDTHS = [0.75, 0.25, 1.0, 0.5]


def make(**options):
    return SizeSampler(WIDTHS, **{"sampler": "uniform", "num_random": 1, "seed": 0, **options})


def test_draws_are_a_function_of_seed_and_step_alone():
    first, second = make(), make()
    assert [first.draw(step) for step in range(30)] == [first.draw(step) for step in range(30)]
    assert [first.draw(step) for step in (9, 3, 7)] == [second.draw(step) for step in (9, 3, 7)]
    assert [first.draw(step) for step in range(30)] != [make(seed=1).draw(step) for step in range(30)]


def test_uniform_draws_every_width_alike_and_nothing_else():
    counts = collections.Counter(width for step in range(2000) for width in make(num_random=2).draw(step))
    assert set(counts) == set(WIDTHS)
    assert all(abs(count / 4000 - 0.25) < 0.03 for count in counts.values())
    assert all(len(make().draw(step)) == 1 for step in range(20))


def test_a_sandwich_holds_the_largest_and_the_smallest_and_random_ones():
    sampler = make(sampler="sandwich", num_random=2)
    draws = [sampler.draw(step) for step in range(200)]
    assert all(draw[:2] == [1.0, 0.25] and len(draw) == 4 for draw in draws)
    assert {width for draw in draws for width in draw[2:]} == set(WIDTHS)
    assert make(sampler="sandwich", num_random=0).draw(3) == [1.0, 0.25]


def test_groups_are_drawn_on_their_own():
    sampler = make(sampler="sandwich", groups=["stage1", "stage2"])
    draws = [sampler.draw(step)[2] for step in range(400)]
    assert all(list(draw) == ["stage1", "stage2"] for draw in draws)
    assert len({tuple(draw.values()) for draw in draws}) == 16
    assert sampler.draw(0)[:2] == [1.0, 0.25]


@pytest.mark.parametrize(("widths", "num_random"), [([], 1), (WIDTHS, 0)])
def test_a_sampler_that_draws_nothing_is_refused(widths, num_random):
    with pytest.raises(RecipeError, match="draws nothing"):
        SizeSampler(widths, sampler="uniform", num_random=num_random, seed=0)
