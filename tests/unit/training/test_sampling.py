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


def test_the_smallest_of_a_sandwich_may_share_its_place_with_widths_below_twice_its_own():
    widths = [0.25, 0.3, 0.4, 0.5, 1.0]
    sampler = SizeSampler(widths, sampler="sandwich", smallest_share=0.4, num_random=0, seed=0)
    draws = [sampler.draw(step) for step in range(2000)]
    assert {largest for largest, _ in draws} == {1.0}
    counts = collections.Counter(smallest for _, smallest in draws)
    assert set(counts) == {0.25, 0.3, 0.4}
    assert all(abs(counts[width] / 2000 - share) < 0.04 for width, share in ((0.25, 0.6), (0.3, 0.2), (0.4, 0.2)))


def test_groups_draw_on_their_own_and_followers_half_of_the_time():
    groups = {"stage1": False, "stage1.block1": True, "stage2": False}
    sampler = make(sampler="sandwich", num_per_group=1, groups=groups)
    draws = [sampler.draw(step) for step in range(800)]
    assert all(draw[:2] == [1.0, 0.25] and draw[2] in WIDTHS and len(draw) == 4 for draw in draws)
    sizes = [draw[3] for draw in draws]
    assert all([group for group in groups if group in size] == list(size) for size in sizes)
    assert len({(size["stage1"], size["stage2"]) for size in sizes}) == 16
    assert abs(sum("stage1.block1" in size for size in sizes) / 800 - 0.5) < 0.06
    assert [sampler.draw(step) for step in (9, 3)] == [draws[9], draws[3]]


def test_groups_may_take_the_smallest_width_more_often():
    options = {"num_random": 1, "num_per_group": 1, "groups": {"stage1": False, "stage2": False}}
    sampler = make(**options, smallest_per_group=0.4)
    draws = [sampler.draw(step) for step in range(2000)]
    for group in ("stage1", "stage2"):  # of the other 60 % a quarter each
        counts = collections.Counter(size[group] for _, size in draws)
        assert all(abs(counts[width] / 2000 - (0.55 if width == 0.25 else 0.15)) < 0.04 for width in WIDTHS)
    both = sum(size["stage1"] == size["stage2"] == 0.25 for _, size in draws) / 2000
    assert abs(both - 0.55**2) < 0.04, "each group on its own"
    assert abs(sum(width == 0.25 for width, _ in draws) / 2000 - 0.25) < 0.04, "uniform widths as ever"
    with pytest.raises(RecipeError, match="smallest_per_group=0.4 with num_per_group=0: no group draws on its own"):
        make(smallest_per_group=0.4)


def test_widths_take_turns_as_the_largest():
    sampler = make(sampler="sandwich", turns=[1.0, 0.75, 0.5])
    draws = [sampler.draw(step) for step in range(6)]
    assert [draw[:2] for draw in draws] == 2 * [[1.0, 0.25], [0.75, 0.25], [0.5, 0.25]]
    without = make(sampler="sandwich")
    assert [draw[2:] for draw in draws] == [without.draw(step)[2:] for step in range(6)]
    with pytest.raises(RecipeError, match=r"sizes.turns=\[0.3\]: 0.3 is none"):
        make(sampler="sandwich", turns=[0.3])
    with pytest.raises(RecipeError, match="they stand for the largest of a sandwich"):
        make(turns=[1.0])


def test_some_widths_are_always_drawn():
    draws = [make(sampler="sandwich", always=[0.5, 0.75]).draw(step) for step in range(20)]
    assert all(draw[:4] == [1.0, 0.25, 0.5, 0.75] and len(draw) == 5 for draw in draws)
    assert make(num_random=0, always=[0.5]).draw(3) == [0.5]
    with pytest.raises(
        RecipeError, match=r"always=\[0.5, 0.3\]: 0.3 is none of sizes.widths, \[0.25, 0.5, 0.75, 1.0\]"
    ):
        make(always=[0.5, 0.3])


def test_uniform_widths_and_those_per_group_can_take_turns():
    options = {"num_random": 2, "num_per_group": 1, "groups": {"stage1": False}}
    both, turns = make(**options), make(**options, alternate=True)
    assert all([type(size) for size in both.draw(step)] == [float, float, dict] for step in range(6))
    assert [[type(size) for size in turns.draw(step)] for step in range(4)] == 2 * [[float, float], [dict]]
    assert len({str(turns.draw(step)) for step in range(0, 60, 2)}) > 10
    with pytest.raises(RecipeError, match="num_random=0 and num_per_group=1: steps cannot take turns with none"):
        make(**{**options, "num_random": 0}, alternate=True)


def test_impossible_sizes_are_drawn_again():
    groups = {"stage1": False, "stage2": False}
    sampler = make(
        num_random=0,
        num_per_group=3,
        groups=groups,
        is_possible=lambda size: size["stage1"] <= size["stage2"],
    )
    sizes = [size for step in range(100) for size in sampler.draw(step)]
    assert all(size["stage1"] <= size["stage2"] for size in sizes)
    assert len({tuple(size.values()) for size in sizes}) == 10
    with pytest.raises(RecipeError, match="none of 1000 random sizes is possible"):
        make(num_random=0, num_per_group=1, groups=groups, is_possible=lambda size: False).draw(0)


def test_a_sampler_without_groups_to_draw_for_is_refused():
    with pytest.raises(RecipeError, match="num_per_group=1 draws for width groups"):
        make(num_per_group=1)


@pytest.mark.parametrize(("widths", "num_random"), [([], 1), (WIDTHS, 0)])
def test_a_sampler_that_draws_nothing_is_refused(widths, num_random):
    with pytest.raises(RecipeError, match="draws nothing"):
        SizeSampler(widths, sampler="uniform", num_random=num_random, seed=0)
