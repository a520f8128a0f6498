import copy
import dataclasses

import pytest
import torch

from neumeta_hf.coordinates import COORD_DIM, add_noise, centre_crop, make_coordinates
from neumeta_hf.errors import HypernetworkError
from neumeta_hf.targets import find_target, list_targets

SHAPES = {"conv": (6, 4, 3, 3), "bias": (6,), "linear": (3, 6)}


def noisy(coordinates, noise=1.0, seed=0, scale=8):
    return add_noise(coordinates, noise, scale=scale, generator=torch.Generator().manual_seed(seed))


def assert_equal(first, second):
    assert list(first) == list(second)
    for name, tensor in first.items():
        for field in dataclasses.fields(tensor):
            a, b = getattr(tensor, field.name), getattr(second[name], field.name)
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, (name, field.name)


@pytest.mark.parametrize("alignment", ["corner", "center"])
def test_every_weight_of_every_target_has_one_coordinate_that_leads_back_to_it(target_configs, alignment):
    assert {find_target(config).name for config in target_configs.values()} == set(list_targets())
    for config in target_configs.values():
        shapes = {name: tuple(p.shape) for name, p in find_target(config).build(config).named_parameters()}
        scale = 16
        coordinates = make_coordinates(shapes, scale=scale, alignment=alignment)
        offset = 0.5 if alignment == "center" else 0.0
        for number, (name, shape) in enumerate(shapes.items()):
            rows = coordinates[name].rows()
            num_out, num_in = (*shape, 1)[:2]
            assert rows.shape == (num_out * num_in, COORD_DIM)
            out_size, in_size = (rows[:, column] * scale for column in (4, 5))
            c_out, c_in = rows[:, 1] * out_size - offset, rows[:, 2] * in_size - offset
            # The flat index of each channel pair is its place among the rows.
            assert torch.allclose(c_out * in_size + c_in, torch.arange(len(rows)).float(), atol=1e-3)
            assert torch.allclose(rows[:, 0] * rows[:, 3] * scale, torch.full((len(rows),), float(number)), atol=1e-4)


def test_all_rows_of_a_network_differ(target_configs):
    for config in target_configs.values():
        shapes = {name: tuple(p.shape) for name, p in find_target(config).build(config).named_parameters()}
        rows = torch.cat([tensor.rows() for tensor in make_coordinates(shapes, scale=16).values()])
        assert len(torch.unique(rows, dim=0)) == len(rows)


def test_a_coordinate_by_hand():
    rows = make_coordinates(SHAPES, scale=12)["conv"].rows()
    assert rows[5].tolist() == pytest.approx([0 / 3, 1 / 6, 1 / 4, 3 / 12, 6 / 12, 4 / 12])
    rows = make_coordinates(SHAPES, scale=12, alignment="center")["linear"].rows()
    assert rows[7].tolist() == pytest.approx([2 / 3, 1.5 / 3, 1.5 / 6, 3 / 12, 3 / 12, 6 / 12])
    assert make_coordinates(SHAPES, scale=12)["bias"].rows()[2].tolist() == pytest.approx(
        [1 / 3, 2 / 6, 0, 3 / 12, 6 / 12, 1 / 12]
    )


def test_noise_never_changes_layer_shape_or_divisor():
    exact = make_coordinates(SHAPES, scale=8)
    for seed in range(20):
        for name, tensor in noisy(exact, seed=seed).items():
            assert (tensor.layer, tensor.layer_position) == (exact[name].layer, exact[name].layer_position)
            assert tensor.layer_size == exact[name].layer_size
            assert (tensor.shape, tensor.num_out, tensor.num_in) == (
                exact[name].shape,
                exact[name].num_out,
                exact[name].num_in,
            )


def test_noise_leaves_the_callers_coordinates_alone():
    exact = make_coordinates(SHAPES, scale=8)
    before = copy.deepcopy(exact)
    moved = noisy(exact)
    assert_equal(exact, before)
    for name in moved:
        moved[name].out_positions.fill_(7)
    assert_equal(exact, before)


def test_noise_is_bounded_by_half_a_channel_and_reaches_it():
    exact = make_coordinates({"weight": (50, 40)}, scale=8)["weight"]
    positions, sizes = [], []
    for seed in range(200):
        moved = noisy({"weight": exact}, seed=seed)["weight"]
        positions += [((moved.out_positions - exact.out_positions) * 50).abs().max().item()]
        positions += [((moved.in_positions - exact.in_positions) * 40).abs().max().item()]
        sizes += [abs(moved.out_size - exact.out_size) * 8, abs(moved.in_size - exact.in_size) * 8]
    assert 0.49 < max(positions) <= 0.5 + 1e-5
    assert 0.45 < max(sizes) <= 0.5 + 1e-5
    half = noisy({"weight": exact}, noise=0.5)["weight"]
    assert ((half.out_positions - exact.out_positions) * 50).abs().max() <= 0.25 + 1e-5


def test_every_channel_moves_on_its_own():
    exact = make_coordinates({"weight": (50, 40)}, scale=8)["weight"]
    moved = noisy({"weight": exact})["weight"]
    shifts = torch.cat(
        ((moved.out_positions - exact.out_positions) * 50, (moved.in_positions - exact.in_positions) * 40)
    )
    assert len(torch.unique(shifts)) > 80
    assert abs(shifts.mean()) < 0.15


def test_no_noise_is_the_identity():
    exact = make_coordinates(SHAPES, scale=8)
    assert_equal(noisy(exact, noise=0), exact)


def test_one_seed_is_one_noise():
    exact = make_coordinates(SHAPES, scale=8)
    assert_equal(noisy(exact, seed=3), noisy(exact, seed=3))
    other = noisy(exact, seed=4)
    assert not torch.equal(noisy(exact, seed=3)["conv"].out_positions, other["conv"].out_positions)


def test_axes_that_no_size_changes_stay_where_they_are():
    varying = {"conv": (True, False), "bias": (True, False), "linear": (False, True)}
    exact = make_coordinates(SHAPES, scale=8, varying=varying)
    moved = noisy(exact)
    for name, (out, in_) in varying.items():
        assert torch.equal(moved[name].out_positions, exact[name].out_positions) is not out
        assert torch.equal(moved[name].in_positions, exact[name].in_positions) is not in_
        assert (moved[name].out_size == exact[name].out_size) is not out
        assert (moved[name].in_size == exact[name].in_size) is not in_


@pytest.mark.parametrize("noise", [-0.1, float("nan"), float("inf")])
def test_noise_that_is_no_width_is_refused(noise):
    with pytest.raises(HypernetworkError, match="from 0"):
        noisy(make_coordinates(SHAPES, scale=8), noise=noise)


def test_sizes_outside_the_trained_range_keep_the_nearest_trained_size_as_coordinate_alone():
    small, large = {"w": (4, 2, 3, 3), "b": (4,)}, {"w": (8, 6, 3, 3), "b": (8,)}
    for shape, size in (((2, 9, 3, 3), (4, 6)), ((9, 1, 3, 3), (8, 2)), ((5, 3, 3, 3), (5, 3))):
        shapes = {"w": shape, "b": shape[:1]}
        clamped = make_coordinates(shapes, scale=8, smallest=small, largest=large)["w"]
        free = make_coordinates(shapes, scale=8)["w"]
        assert (clamped.out_size * 8, clamped.in_size * 8) == size
        assert (free.out_size * 8, free.in_size * 8) == shape[:2]
        assert torch.equal(clamped.out_positions, free.out_positions)
        assert torch.equal(clamped.in_positions, free.in_positions)
        assert (clamped.shape, clamped.num_in) == (free.shape, free.num_in)


FULL_PARTS = {"conv": ([8, 2, 6], [5, 5, 5]), "bias": ([8, 2, 6], [1])}
SMALL_PARTS = {"conv": ([3, 2, 5], [2, 2, 2]), "bias": ([3, 2, 5], [1])}


def make_parts(parts, reference_parts=None, **options):
    shapes = {"conv": (sum(parts["conv"][0]), sum(parts["conv"][1]), 3, 3), "bias": (sum(parts["bias"][0]),)}
    reference_parts = FULL_PARTS if reference_parts is None else reference_parts
    return make_coordinates(shapes, scale=16, parts=parts, reference_parts=reference_parts, **options)


@pytest.mark.parametrize("alignment", ["corner", "center"])
def test_every_part_keeps_the_stretch_that_it_has_in_the_reference(alignment):
    small = make_parts(SMALL_PARTS, alignment=alignment)
    offset = 0.5 if alignment == "center" else 0.0
    for name, axes in SMALL_PARTS.items():
        tensor = small[name]
        positions = (tensor.out_positions, tensor.in_positions)
        for held, counts, full_counts in zip(positions, axes, FULL_PARTS[name], strict=True):
            wanted = [
                (sum(full_counts[:part]) + (channel + offset) * full_counts[part] / count) / sum(full_counts)
                for part, count in enumerate(counts)
                for channel in range(count)
            ]
            assert held.tolist() == pytest.approx(wanted, abs=1e-6)
        assert (tensor.out_parts, tensor.in_parts) == tuple(map(tuple, axes))
        assert tensor.out_shares == pytest.approx([count / sum(FULL_PARTS[name][0]) for count in FULL_PARTS[name][0]])


def test_at_full_size_parts_lie_where_their_channels_do():
    full = make_parts(FULL_PARTS)
    for name, plain in make_coordinates({"conv": (16, 15, 3, 3), "bias": (16,)}, scale=16).items():
        assert torch.allclose(full[name].rows(), plain.rows(), atol=1e-6)


def test_positions_are_real_where_a_checkpoint_is_loaded():
    with torch.device("meta"):  # as from_pretrained builds its models
        inside = make_parts(SMALL_PARTS)
    assert_equal(inside, make_parts(SMALL_PARTS))


@pytest.mark.parametrize("alignment", ["corner", "center"])
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_a_single_part_is_no_part(alignment, noise):
    singles = {name: ([shape[0]], [(*shape, 1)[1]]) for name, shape in SHAPES.items()}
    full = {name: ([3 * out], [2 * in_ + 1]) for name, ([out], [in_]) in singles.items()}
    plain = make_coordinates(SHAPES, scale=8, alignment=alignment)
    single = make_coordinates(SHAPES, scale=8, alignment=alignment, parts=singles, reference_parts=full)
    # Without a reference nothing is known of how much smaller the network is.
    assert {tensor.network_size for tensor in plain.values()} == {0.0}
    single = {name: dataclasses.replace(tensor, network_size=0.0) for name, tensor in single.items()}
    assert_equal(noisy(single, noise), noisy(plain, noise))
    for tensor in noisy(plain, noise).values():
        num_out = tensor.num_out  # the formula and the draws of a network without parts, to the last bit
        assert noise or torch.equal(tensor.out_positions, (torch.arange(num_out) + tensor.offset) / num_out)
    generator = torch.Generator().manual_seed(0)
    draws = (torch.rand(7, generator=generator) - 0.5) * noise
    assert torch.equal(noisy(single, noise)["conv"].out_positions, plain["conv"].out_positions + draws[:-1] / 6)


def test_noise_is_bounded_by_half_a_channel_of_the_part_and_reaches_it():
    exact = make_parts(SMALL_PARTS)
    counts, full_counts = SMALL_PARTS["conv"][0], FULL_PARTS["conv"][0]
    widths = [full / count / 16 for count, full in zip(counts, full_counts, strict=True) for _ in range(count)]
    moves = []
    for seed in range(200):
        moved = noisy(exact, seed=seed)
        moves.append((moved["conv"].out_positions - exact["conv"].out_positions) / torch.tensor(widths))
        assert ((moved["conv"].in_positions - exact["conv"].in_positions) * 6).abs().max() <= 0.5 + 1e-5
    furthest = torch.stack(moves).abs().amax(0)
    assert (furthest <= 0.5 + 1e-4).all()
    assert (furthest > 0.47).all()
    assert_equal(noisy(exact, seed=3), noisy(exact, seed=3))


def test_parts_of_tensors_that_are_not_generated_are_passed_over():
    static = {"head": ([3, 4], [9])}
    plain = make_coordinates(SHAPES, scale=8)
    assert_equal(make_coordinates(SHAPES, scale=8, parts=static, reference_parts=static), plain)


@pytest.mark.parametrize(
    ("parts", "reference_parts", "said"),
    [
        (
            ([3, 2], [4]),
            ([3, 3], [4]),
            r"output axis of conv has parts of \[3, 2\] channels, 5 in all, .* has 6: parts sum",
        ),
        (
            ([6], [3, 2]),
            ([6], [3, 2]),
            r"input axis of conv has parts of \[3, 2\] channels, 5 in all, .* has 4: parts sum",
        ),
        (([3, 3], [4]), ([4, 4, 4], [4]), r"conv has parts of \[3, 3\] .* reference of \[4, 4, 4\]: .*\(2 and 3\)"),
        (([6], [2, 2]), ([6], [8]), r"input axis of conv .*never how many there are \(2 and 1\)"),
        (([6, 0], [4]), ([6, 1], [4]), r"output axis of conv has parts of \[6, 0\] .*at least one channel"),
        (([3, 3], [4]), ([6, 0], [4]), r"and of \[6, 0\] in the reference: .*at least one channel"),
        (([3, 3], [4]), None, r"conv has parts of \[3, 3\] .* reference of \[6\]: .*\(2 and 1\)"),
        (None, ([3, 3], [4]), r"conv has parts of \[6\] .* reference of \[3, 3\]: .*\(1 and 2\)"),
    ],
)
def test_parts_that_are_none_of_an_axis_are_refused_by_name(parts, reference_parts, said):
    parts, reference_parts = ({} if each is None else {"conv": each} for each in (parts, reference_parts))
    with pytest.raises(HypernetworkError, match=said + ".*rules"):
        make_coordinates(SHAPES, scale=8, parts=parts, reference_parts=reference_parts)


@pytest.mark.parametrize("shape", [(), (2, 3, 1, 1, 1), (0, 3), (4, 0, 3, 3)])
def test_other_tensors_are_refused_by_name(shape):
    with pytest.raises(HypernetworkError, match="odd.one has shape .* static"):
        make_coordinates({"fine": (2, 2), "odd.one": shape}, scale=8)


def literal_centre(kernel_size, largest):
    grid = torch.arange(largest[0] * largest[1]).reshape(largest)
    top, left = ((b - a) // 2 for a, b in zip(kernel_size, largest, strict=True))
    return grid[top : top + kernel_size[0], left : left + kernel_size[1]].flatten().tolist()


def test_the_centre_of_a_kernel_is_cropped_in_two_dimensions():
    assert centre_crop((3, 3), (5, 5)) == [6, 7, 8, 11, 12, 13, 16, 17, 18]
    assert centre_crop((1, 1), (3, 3)) == [4]
    assert centre_crop((1, 1), (7, 7)) == [24]
    assert centre_crop((5, 5), (5, 5)) == list(range(25))
    assert centre_crop((1, 3), (3, 3)) == [3, 4, 5]
    assert centre_crop((2, 2), (3, 3)) == [0, 1, 3, 4]


@pytest.mark.parametrize("largest", [(3, 3), (5, 5), (7, 7), (4, 4), (6, 3), (3, 7)])
def test_every_crop_is_the_centre(largest):
    for height in range(1, largest[0] + 1):
        for width in range(1, largest[1] + 1):
            assert centre_crop((height, width), largest) == literal_centre((height, width), largest)


def test_a_crop_larger_than_the_kernel_is_refused():
    for kernel_size in ((5, 3), (3, 5)):
        with pytest.raises(HypernetworkError, match="cannot be cropped from 3x3"):
            centre_crop(kernel_size, (3, 3))


def test_the_size_of_a_network_is_the_mean_halving_of_all_axes_that_sizes_change():
    varying = {"conv": (True, False), "bias": (True, False), "linear": (False, True)}
    reference = {"conv": ([6], [4]), "bias": ([6], [1]), "linear": ([3], [6])}

    def size_of(count, **options):
        shapes = {"conv": (count, 4, 3, 3), "bias": (count,), "linear": (3, count)}
        parts = {"conv": ([count], [4]), "bias": ([count], [1]), "linear": ([3], [count])}
        made = make_coordinates(
            shapes, scale=8, varying=varying, parts=parts, reference_parts=reference, layers=list(SHAPES), **options
        )
        assert len({tensor.network_size for tensor in (*made.values(), *noisy(made).values())}) == 1
        return made["bias"].network_size

    assert size_of(6) == 0
    assert size_of(3) == pytest.approx(-1)
    assert size_of(12) == pytest.approx(1)
    smallest = {"conv": (4, 4, 3, 3), "bias": (4,), "linear": (3, 4)}
    assert size_of(3, smallest=smallest, largest=SHAPES) == size_of(4), "held in the trained range"
    assert size_of(12, smallest=smallest, largest=SHAPES) == 0
    # One half of the axes at half width.
    shapes = {"conv": (3, 4, 3, 3), "linear": (3, 6)}
    made = make_coordinates(shapes, scale=8, varying=varying, reference_parts=reference, layers=list(SHAPES))
    assert made["conv"].network_size == pytest.approx(-0.5)
