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
    with pytest.raises(RecipeError, match=r"sizes.turns=\[0.3\]: 0.3 is not among"):
        make(sampler="sandwich", turns=[0.3])
    with pytest.raises(RecipeError, match="turns take the place of the largest width"):
        make(turns=[1.0])


def test_some_widths_are_always_drawn():
    draws = [make(sampler="sandwich", always=[0.5, 0.75]).draw(step) for step in range(20)]
    assert all(draw[:4] == [1.0, 0.25, 0.5, 0.75] and len(draw) == 5 for draw in draws)
    assert make(num_random=0, always=[0.5]).draw(3) == [0.5]
    with pytest.raises(
        RecipeError, match=r"always=\[0.5, 0.3\]: 0.3 is not among sizes.widths, \[0.25, 0.5, 0.75, 1.0\]"
    ):
        make(always=[0.5, 0.3])


def test_uniform_widths_and_those_per_group_can_take_turns():
    options = {"num_random": 2, "num_per_group": 1, "groups": {"stage1": False}}
    both, turns = make(**options), make(**options, alternate=True)
    assert all([type(size) for size in both.draw(step)] == [float, float, dict] for step in range(6))
    assert [[type(size) for size in turns.draw(step)] for step in range(4)] == 2 * [[float, float], [dict]]
    assert len({str(turns.draw(step)) for step in range(0, 60, 2)}) > 10
    with pytest.raises(RecipeError, match="num_random=0 and num_per_group=1: steps alternate between"):
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


MANY = [number / 16 for number in range(4, 17)]


def stratum_of(width, strata, widths=MANY):
    """Which stretch of the logarithmic range a width lies in; a border belongs to the upper one."""
    borders = [min(widths) * (max(widths) / min(widths)) ** (n / strata) for n in range(1, strata)]
    return sum(width >= border - 1e-9 for border in borders)


@pytest.mark.parametrize("strata", [2, 3, 4])
@pytest.mark.parametrize("num_random", [1, 2, 3])
def test_random_widths_take_the_strata_in_turn(strata, num_random):
    sampler = SizeSampler(MANY, sampler="sandwich", num_random=num_random, strata=strata, seed=0)
    draws = [width for step in range(60 * strata) for width in sampler.draw(step)[2:]]
    orders = {tuple(stratum_of(width, strata) for width in draws[n : n + strata]) for n in range(0, len(draws), strata)}
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(strata))}
    assert len(orders) > 1, "in an order that changes"
    assert set(draws) == set(MANY)


def test_every_group_takes_the_strata_in_turn_by_itself():
    groups = {"stage1": False, "stage1.block1": True, "stage2": False}
    for alternate, num_random in ((False, 0), (True, 2)):
        sampler = SizeSampler(
            MANY, sampler="uniform", num_random=num_random, num_per_group=2, alternate=alternate, strata=3,
            groups=groups, seed=4,
        )  # fmt: skip
        sizes = [size for step in range(360) for size in sampler.draw(step) if isinstance(size, dict)]
        strata = [{group: stratum_of(width, 3) for group, width in size.items()} for size in sizes]
        for group in ("stage1", "stage2"):
            of_group = [each[group] for each in strata]
            assert all(sorted(of_group[n : n + 3]) == [0, 1, 2] for n in range(0, len(of_group) - 2, 3))
        both = collections.Counter((each["stage1"], each["stage2"]) for each in strata)
        assert len(both) == 9, "one group says nothing of another"
        followers = collections.Counter(each["stage1.block1"] for each in strata if "stage1.block1" in each)
        assert all(abs(count / sum(followers.values()) - 1 / 3) < 0.1 for count in followers.values())


def test_strata_are_a_function_of_seed_and_step_and_without_them_draws_are_what_they_were():
    options = {"sampler": "sandwich", "num_random": 2, "num_per_group": 1, "groups": {"stage1": False, "stage2": True}}
    first, second = (SizeSampler(MANY, **options, strata=3, seed=1) for _ in range(2))
    draws = [first.draw(step) for step in range(30)]
    assert [second.draw(step) for step in reversed(range(30))] == draws[::-1]
    assert draws != [SizeSampler(MANY, **options, strata=3, seed=2).draw(step) for step in range(30)]
    old = SizeSampler(MANY, **options, seed=1)
    assert old.draw(0) == [1.0, 0.25, 0.625, 0.625, {"stage1": 0.8125, "stage2": 1.0}]
    assert [old.draw(step) for step in range(30)] == [
        SizeSampler(MANY, **options, strata=0, seed=1).draw(step) for step in range(30)
    ]


def test_an_impossible_size_of_strata_is_drawn_again_from_any():
    sampler = SizeSampler(
        MANY, sampler="uniform", num_random=0, num_per_group=1, strata=3, groups={"a": False, "b": False},
        is_possible=lambda size: size["a"] == size["b"], seed=0,
    )  # fmt: skip
    sizes = [sampler.draw(step)[0] for step in range(200)]
    assert all(size["a"] == size["b"] for size in sizes)
    assert len({size["a"] for size in sizes}) > 10


@pytest.mark.parametrize(("widths", "strata"), [(WIDTHS, 5), ([0.5], 2), ([0.25, 1.0], 3), ([0.0, 1.0], 2)])
def test_strata_without_a_width_are_refused(widths, strata):
    with pytest.raises(RecipeError, match=f"sizes.strata={strata}: .*fewer strata"):
        SizeSampler(widths, sampler="uniform", num_random=1, strata=strata, seed=0)
