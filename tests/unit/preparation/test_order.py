import itertools
import time

import numpy as np
import preparation_networks as networks
import pytest
import torch

from neumeta_hf.errors import PreparationError
from neumeta_hf.preparation import Clique, CliqueMember, apply_order, find_cliques, find_order, total_variation
from neumeta_hf.preparation.order import shortest_path


def rows(weight: torch.Tensor) -> tuple[Clique, dict[str, torch.Tensor]]:
    """A clique of the rows of one matrix."""
    clique = Clique(len(weight), (CliqueMember("weight", 0, torch.arange(len(weight))[:, None]),))
    return clique, {"weight": weight}


def length(distances: np.ndarray, path: list[int]) -> float:
    return float(distances[path[:-1], path[1:]].sum())


def random_points(num: int, num_features: int, seed: int) -> torch.Tensor:
    return torch.randn(num, num_features, generator=torch.Generator().manual_seed(seed))


# Distances far below 1 once became 0 on their way to the solver.
@pytest.mark.parametrize("scale", [1e-6, 0.01, 1.0, 1e4])
@pytest.mark.parametrize("num", [3, 8, 19, 20, 40])
def test_points_on_a_line_are_put_in_line(num, scale):
    # Irregular steps; a tour that is cut anywhere but at the dummy city has one jump too many.
    line = torch.linspace(0, 1, num) ** 1.5 * scale
    shuffle = torch.randperm(num, generator=torch.Generator().manual_seed(num))
    clique, state = rows(line[shuffle, None])
    order = find_order(clique, state)
    found = shuffle[order].tolist()
    assert found in (list(range(num)), list(range(num))[::-1])


@pytest.mark.parametrize("seed", range(10))
def test_seven_cities_are_visited_by_the_shortest_path(seed):
    points = random_points(7, 4, seed)
    distances = torch.cdist(points, points, p=1).double().numpy()
    best = min(length(distances, list(path)) for path in itertools.permutations(range(7)))
    assert length(distances, shortest_path(distances)) <= best * 1.0001


@pytest.mark.parametrize(("num", "num_features", "seed"), [(30, 2, 0), (40, 3, 1), (50, 200, 2)])
def test_the_search_comes_close_to_what_the_time_limited_solver_finds(num, num_features, seed):
    fast_tsp = pytest.importorskip("fast_tsp")
    points = random_points(num, num_features, seed)
    distances = torch.cdist(points, points, p=1).double().numpy()
    scaled = np.pad(np.rint(distances * 65_535 / distances.max()).astype(np.int64), ((0, 1), (0, 1)))
    tour = fast_tsp.find_tour(scaled, duration_seconds=0.3)
    cut = tour.index(num)
    solved = (tour[cut:] + tour[:cut])[1:]
    found = shortest_path(distances)
    assert sorted(found) == list(range(num))
    assert length(distances, found) <= length(distances, solved) * 1.03


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num", [2, 5, 24])
def test_the_path_is_never_longer_than_the_present_order(num, seed):
    # Points that already stand in line, so near to it that rounding could prefer another order.
    line = torch.arange(float(num))[:, None] + 1e-6 * random_points(num, 1, seed)
    for weight in (line, random_points(num, 6, seed)):
        clique, state = rows(weight)
        permuted = apply_order(state, clique, find_order(clique, state))
        assert total_variation(permuted, [clique]) <= total_variation(state, [clique])


def test_a_fine_order_is_not_given_up_for_a_coarse_one():
    # Beside a channel this far off, the others lie within one step of the solver's integers.
    weight = torch.cat([torch.arange(24.0) * 1e-3, torch.tensor([1000.0])])[:, None]
    assert find_order(*rows(weight)) == list(range(25))


def test_the_same_seed_gives_the_same_order():
    # With 60 channels, other seeds end in other orders.
    clique, state = rows(random_points(60, 5, 0))
    orders = [find_order(clique, state, seed=seed) for seed in (3, 3, 4)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("num", [5, 12, 25])
def test_the_direction_is_fixed(num):
    points = random_points(num, 5, 1)
    for weight in (points, points.flip(0)):
        order = find_order(*rows(weight))
        assert order[0] < order[-1]


def test_every_member_counts_and_statistics_do_not():
    positions = torch.arange(3)[:, None]
    names = ("conv.weight", "norm.bias", "norm.running_mean", "next.weight")
    clique = Clique(3, tuple(CliqueMember(name, int(name == "next.weight"), positions) for name in names))
    state = {
        "conv.weight": torch.tensor([[0.0], [1.0], [2.0]]),
        "norm.bias": torch.zeros(3),
        "norm.running_mean": torch.tensor([0.0, 1e6, 0.0]),
        "next.weight": torch.tensor([[0.0, 10.0, 5.0]]),
    }
    assert find_order(clique, state) == [0, 2, 1]
    assert find_order(clique, state, method="importance") == [1, 2, 0]


def test_the_other_methods():
    clique, state = rows(torch.tensor([[1.0, -1.0], [0.0, 5.0], [-3.0, 1.0], [2.0, 2.0]]))
    assert find_order(clique, state, method="identity") == [0, 1, 2, 3]
    assert find_order(clique, state, method="importance") == [1, 2, 3, 0]
    big, state = rows(torch.zeros(50, 1))
    draws = [find_order(big, state, method="random", seed=seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert sorted(draws[0]) == list(range(50))


@pytest.mark.parametrize("method", ["path", "random", "identity", "importance"])
@pytest.mark.parametrize("num", [1, 2, 3, 25])
def test_few_channels_and_equal_channels_are_orders_too(num, method):
    assert sorted(find_order(*rows(torch.ones(num, 4)), method=method)) == list(range(num))


@pytest.mark.parametrize("method", ["path", "random", "identity", "importance"])
@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_no_generator_takes_is_refused(method, seed):
    with pytest.raises(PreparationError, match=f"seed={seed}: give a whole number from 0"):
        find_order(*rows(torch.ones(3, 2)), method=method, seed=seed)
    find_order(*rows(torch.ones(25, 2)), method=method, seed=2**63 - 1)


def test_unknown_methods_and_weights_that_are_no_numbers_are_refused():
    clique, state = rows(torch.ones(3, 2))
    with pytest.raises(PreparationError, match="'shortest'.*path, random, identity, importance"):
        find_order(clique, state, method="shortest")  # pyright: ignore[reportArgumentType]
    state["weight"][1, 1] = float("nan")
    with pytest.raises(PreparationError, match="'weight' holds NaN"):
        find_order(clique, state)


def test_a_wide_layer_takes_seconds():
    # Generous beside the half second that it takes on one core: it is the order of magnitude that is guarded.
    clique, state = rows(random_points(256, 512, 0))
    start = time.process_time()
    order = find_order(clique, state)
    assert time.process_time() - start < 10
    assert sorted(order) == list(range(256))


def test_the_order_of_one_clique_does_not_change_another_ones_variation():
    model, inputs = networks.make(networks.Residual)
    state = model.state_dict()
    first, *others = find_cliques(model, inputs)
    permuted = apply_order(state, first, find_order(first, state, method="random"))
    assert total_variation(permuted, others) == pytest.approx(total_variation(state, others), rel=1e-9)
