"""In which order the channels of a clique should stand (section 3.2 of arXiv:2410.11878).

The total variation (TV) of a clique under an order is the length of a path that visits every channel once. The distance
of two channels is the L1 distance of everything they own. The best order is a Shortest Hamiltonian Path (SHP).
"""

from collections.abc import Mapping
from typing import Literal, get_args

import fast_tsp
import numpy as np
import torch
from torch import Tensor

from neumeta_hf.errors import PreparationError
from neumeta_hf.kinds import SEED
from neumeta_hf.preparation.activations import ReadAxes, activation_importance
from neumeta_hf.preparation.cliques import Clique
from neumeta_hf.preparation.variation import channel_slices, path_length

OrderMethod = Literal["path", "random", "identity", "importance", "activations"]

# Largest distance that fast_tsp takes; also the resolution of the distances.
_MAX_DISTANCE = 65_535
# Held and Karp's algorithm takes under 0.1 s for 20 cities and doubles with each more.
_MAX_EXACT_CITIES = 20
# How often the search kicks a local optimum: enough that the last kicks find next to nothing, few enough for seconds.
_KICKS_PER_CITY = 4
_MAX_KICKS = 400
_MAX_SEGMENT = 3


def find_order(
    clique: Clique,
    state_dict: Mapping[str, Tensor],
    *,
    method: OrderMethod = "path",
    seed: int = 0,
    reading: ReadAxes | None = None,
) -> list[int]:
    """Decide in which order the channels of a clique should stand.

    - `path`: the shortest open path that is found, by L1 distance; never longer than the present order. Its direction,
      which TV does not see, is fixed: the first channel's number is below the last one's.
    - `importance`: descending L1 norm, so that a slice of the first channels keeps the largest ones.
    - `activations`: descending share of what the layers take in that read the clique, on a batch of data.
    - `random`: uniform.
    - `identity`: as they stand.

    Deterministic: the same weights, method and seed give the same order on a busy machine and on an idle one.

    Args:
        clique: Axes that are permuted together.
        state_dict: Weights by name; all that the clique names, of finite values.
        method: One of the above.
        seed: Seed of `random`, and of the search of `path`.
        reading: For `activations`, as from `measure_reading`.

    Returns:
        For each place the channel, numbered as in `clique`, that should stand there: `[num_channels]`.

    Raises:
        PreparationError: The method is unknown, or the seed is below 0 or above 2^63 - 1. The weights lack a tensor of
            the clique, do not have its shape or are not finite. Nothing was measured of the clique.
    """
    check_method(method)
    if not SEED.holds(seed):
        rule = "give a whole number from 0 to 2^63 - 1, which every generator takes."
        raise PreparationError(f"seed={seed}: {rule}", command=f"--seed {seed}: {rule}")
    identity = list(range(clique.num_channels))
    if method == "identity":
        return identity
    if method == "random":
        return torch.randperm(clique.num_channels, generator=torch.Generator().manual_seed(seed)).tolist()
    if method == "activations":
        return _descending(activation_importance(clique, reading or {}))
    slices = channel_slices(clique, state_dict)
    if method == "importance":
        return _descending(slices.abs().sum(dim=1, dtype=torch.float64))
    order = shortest_path(_l1_distances(slices).numpy(), seed=seed)
    # Compared on the weights themselves: the search saw rounded distances.
    return order if path_length(slices[order]) < path_length(slices) else identity


def _descending(importance: Tensor) -> list[int]:
    return importance.argsort(descending=True, stable=True).tolist()


def check_method(method: str) -> None:
    """Refuse a way to order channels that there is not.

    Raises:
        PreparationError: The method is unknown.
    """
    if method not in get_args(OrderMethod):
        raise PreparationError(
            f"order={method!r} is no way to order channels: choose one of {', '.join(get_args(OrderMethod))}."
        )


def shortest_path(distances: np.ndarray, *, seed: int = 0) -> list[int]:
    """Visit every city once, on a short open path.

    A dummy city at distance 0 from all others closes the path to a tour; the tour is cut where the dummy stands. Up to
    19 cities `fast_tsp.solve_tsp_exact` finds the shortest one. Above, `fast_tsp.find_tour` would stop by the clock and
    draw its own seed, so that two calls give two orders. Instead an iterated local search of our own improves the
    better of `fast_tsp.greedy_nearest_neighbor` and the present order. It uses 2-opt and Or-opt moves and double-bridge
    kicks; it is seeded, and bounded by the number of kicks.

    Args:
        distances: Symmetric, not negative, 0 on the diagonal, of any scale: `[num_cities, num_cities]`.
        seed: Seed of the kicks.

    Returns:
        Cities in the order of the visit, the smaller of the two ends first: `[num_cities]`.
    """
    num_cities = len(distances)
    largest = distances.max(initial=0.0)
    if num_cities < 3 or largest == 0:
        return list(range(num_cities))
    # fast_tsp takes integers only: unscaled, distances below 1 would all become 0.
    scaled = np.rint(distances * (_MAX_DISTANCE / float(largest))).astype(np.int64)
    with_dummy = np.pad(scaled, ((0, 1), (0, 1)))
    if num_cities + 1 <= _MAX_EXACT_CITIES:
        tour = np.array(fast_tsp.solve_tsp_exact(with_dummy))
    else:
        starts = (np.array(fast_tsp.greedy_nearest_neighbor(with_dummy)), np.arange(num_cities + 1))
        shorter = min(starts, key=lambda tour: _edges(with_dummy, tour).sum())
        tour = _iterated_local_search(with_dummy, shorter, np.random.default_rng(seed))
    cut = int((tour == num_cities).argmax())
    path = _from(tour, cut)[1:].tolist()
    return path if path[0] < path[-1] else path[::-1]


def _l1_distances(slices: Tensor, block: int = 64) -> Tensor:
    # Blocks of the upper triangle: half the work, and memory that does not grow with the number of features.
    distances = slices.new_zeros(len(slices), len(slices))
    for start in range(0, len(slices), block):
        rows = torch.cdist(slices[start : start + block], slices[start:], p=1.0)
        distances[start : start + block, start:] = rows
        distances[start:, start : start + block] = rows.T
    return distances


def _edges(distances: np.ndarray, tour: np.ndarray) -> np.ndarray:
    return distances[tour, _from(tour, 1)]


def _from(tour: np.ndarray, place: int) -> np.ndarray:
    # The same tour, begun elsewhere; np.roll takes several times as long for tours this short.
    return np.concatenate((tour[place:], tour[:place]))


def _iterated_local_search(distances: np.ndarray, tour: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Kick the best tour, repair it around the kick, keep it where it is no longer than before."""
    best = _local_optimum(distances, tour, list(tour))
    length = _edges(distances, best).sum()
    for _ in range(min(_KICKS_PER_CITY * len(tour), _MAX_KICKS)):
        # Three neighbouring stretches of at most 50 cities change places: far-flung cuts would take long to repair.
        reach = min(len(tour), 50)
        a, b, c = np.sort(generator.choice(np.arange(1, reach), size=3, replace=False))
        turned = _from(best, int(generator.integers(len(tour))))
        kicked = np.concatenate([turned[:a], turned[b:c], turned[a:b], turned[c:]])
        ends = [turned[i] for i in (a - 1, a, b - 1, b, c - 1, c)]
        kicked = _local_optimum(distances, kicked, ends)
        if (kicked_length := _edges(distances, kicked).sum()) <= length:
            best, length = kicked, kicked_length
    return best


def _local_optimum(distances: np.ndarray, tour: np.ndarray, cities: list) -> np.ndarray:
    """Improve a tour until no 2-opt or Or-opt move at one of `cities`, or at a city moved since, makes it shorter."""
    waiting = dict.fromkeys(map(int, cities))
    while waiting:
        city = next(iter(waiting))
        improved = _or_opt(distances, tour, city)
        if improved is None:
            improved = _two_opt(distances, tour, city)
        if improved is None:
            del waiting[city]
        else:
            tour, ends = improved
            waiting.update(dict.fromkeys(map(int, ends)))
    return tour


def _two_opt(distances: np.ndarray, tour: np.ndarray, city: int) -> tuple[np.ndarray, list] | None:
    """Turn a stretch that begins or ends at `city` around, the one that saves most."""
    for direction in (tour, tour[::-1]):
        # With the city in front, the edges (city, after) and (x, y) become (city, x) and (after, y).
        turned = _from(direction, int((direction == city).argmax()))
        after = turned[1]
        following = _from(turned, 1)
        change = (
            distances[city][turned] + distances[after][following] - _edges(distances, turned) - distances[city, after]
        )
        change[0] = 0
        x = int(change.argmin())
        if change[x] < 0:
            improved = np.concatenate([turned[:1], turned[x:0:-1], turned[x + 1 :]])
            return improved, [city, after, turned[x], following[x]]
    return None


def _or_opt(distances: np.ndarray, tour: np.ndarray, city: int) -> tuple[np.ndarray, list] | None:
    """Move a stretch of one to three cities that begins or ends at `city` elsewhere, where that saves most."""
    for direction in (tour, tour[::-1]):
        turned = _from(direction, int((direction == city).argmax()))
        edges = _edges(distances, turned)
        for length in range(1, _MAX_SEGMENT + 1):
            segment, rest = turned[:length], turned[length:]
            last, before, after = segment[-1], rest[-1], rest[0]
            saved = distances[before, city] + distances[last, after] - distances[before, after]
            # Between rest[i] and rest[i + 1], as it is or turned around.
            x, y = rest[:-1], rest[1:]
            straight = distances[city][x] + distances[last][y]
            reverse = distances[last][x] + distances[city][y]
            change = np.minimum(straight, reverse) - edges[length:-1] - saved
            i = int(change.argmin())
            if change[i] < 0:
                piece = segment if straight[i] <= reverse[i] else segment[::-1]
                improved = np.concatenate([rest[: i + 1], piece, rest[i + 1 :]])
                return improved, [city, last, before, after, x[i], y[i]]
    return None
