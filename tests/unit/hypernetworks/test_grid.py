import dataclasses

import pytest
import torch

from neumeta_hf.coordinates import add_noise, make_coordinates
from neumeta_hf.errors import HypernetworkError
from neumeta_hf.hypernetworks import Grid

SHAPES = {"conv": (8, 6, 3, 3), "bias": (8,), "linear": (3, 8)}
HALF = {"conv": (4, 3, 3, 3), "bias": (4,), "linear": (3, 4)}


def make_grid(alignment="corner", **options):
    torch.manual_seed(0)
    full_size = make_coordinates(SHAPES, scale=8, alignment=alignment)
    grid = Grid(list(full_size.values()), **options)
    values = [torch.randn(shape) for shape in SHAPES.values()]
    assert grid.start_at(values)
    return grid, values


def generate(grid, shapes, alignment="corner"):
    return grid(list(make_coordinates(shapes, scale=8, alignment=alignment).values()))


@pytest.mark.parametrize("positions", ["relative", "absolute"])
@pytest.mark.parametrize("alignment", ["corner", "center"])
def test_full_size_is_the_reference(positions, alignment):
    grid, values = make_grid(alignment, positions=positions)
    for generated, value in zip(generate(grid, SHAPES, alignment), values, strict=True):
        assert torch.allclose(generated, value, atol=1e-5)


@pytest.mark.parametrize("alignment", ["corner", "center"])
def test_relative_positions_average_outputs_and_sum_inputs(alignment):
    grid, (conv, bias, linear) = make_grid(alignment)
    half = generate(grid, HALF, alignment)
    assert torch.allclose(half[0], conv.reshape(4, 2, 3, 2, 3, 3).mean(1).sum(2), atol=1e-5)
    assert torch.allclose(half[1], bias.reshape(4, 2).mean(1), atol=1e-6)
    assert torch.allclose(half[2], linear.reshape(3, 4, 2).sum(2), atol=1e-5)


@pytest.mark.parametrize("alignment", ["corner", "center"])
def test_absolute_positions_take_the_first_channels(alignment):
    grid, (conv, bias, linear) = make_grid(alignment, positions="absolute")
    half = generate(grid, HALF, alignment)
    assert torch.allclose(half[0], conv[:4, :3] * 2**0.5, atol=1e-5)
    assert torch.allclose(half[1], bias[:4], atol=1e-6)
    assert torch.allclose(half[2], linear[:, :4] * 2**0.5, atol=1e-5)


@pytest.mark.parametrize("positions", ["relative", "absolute"])
@pytest.mark.parametrize("num_channels", [1, 3, 5, 7, 11])
def test_constant_grids_stay_constant_at_every_size(positions, num_channels):
    grid, _ = make_grid(positions=positions)
    grid.start_at([torch.ones(shape) for shape in SHAPES.values()])
    shapes = {"conv": (num_channels, 6, 3, 3), "bias": (num_channels,), "linear": (3, num_channels)}
    conv, bias, linear = generate(grid, shapes)
    exponent = 1.0 if positions == "relative" else 0.5
    assert torch.allclose(conv, torch.ones(()), atol=1e-5)
    assert torch.allclose(bias, torch.ones(()), atol=1e-5)
    assert torch.allclose(linear, torch.full((), (8 / num_channels) ** exponent), atol=1e-4)


@pytest.mark.parametrize("positions", ["relative", "absolute"])
def test_every_value_gets_a_gradient_at_full_size(positions):
    grid, _ = make_grid(positions=positions)
    torch.stack([value.square().sum() for value in generate(grid, SHAPES)]).sum().backward()
    assert all((tensor.values.grad != 0).all() for tensor in grid.tensors)


@pytest.mark.parametrize("positions", ["relative", "absolute"])
def test_the_exponent_learns_from_smaller_sizes_alone(positions):
    grid, _ = make_grid(positions=positions)
    for shapes, learns in ((SHAPES, [False, False, False]), (HALF, [True, False, True])):
        grid.zero_grad()
        torch.stack([value.square().sum() for value in generate(grid, shapes)]).sum().backward()
        assert [bool(tensor.exponent.grad != 0) for tensor in grid.tensors] == learns


def test_noise_moves_the_values_a_little():
    grid, values = make_grid()
    coordinates = make_coordinates(SHAPES, scale=8)
    moved = add_noise(coordinates, 1.0, scale=8, generator=torch.Generator().manual_seed(0))
    for generated, value in zip(grid(list(moved.values())), values, strict=True):
        assert not torch.allclose(generated, value, atol=1e-3)
        assert (generated - value).abs().max() < 2 * value.abs().max()


@pytest.mark.parametrize("alignment", ["corner", "center"])
def test_a_coarse_grid_is_one_function_at_every_multiple_of_its_cells(alignment):
    def shapes(inner):
        return {"first": (inner, 6), "bias": (inner,), "second": (5, inner)}

    fixed = {"first": (True, False), "bias": (True, False), "second": (False, True)}

    def coordinates(inner):
        return list(make_coordinates(shapes(inner), scale=8, alignment=alignment, varying=fixed).values())

    torch.manual_seed(0)
    grid = Grid(coordinates(8), resolution=0.25)
    assert [tuple(tensor.values.shape) for tensor in grid.tensors] == [(2, 6, 1), (2, 1, 1), (5, 2, 1)]
    values = [torch.randn(shape) for shape in shapes(8).values()]
    assert not grid.start_at(values)
    assert torch.allclose(grid(coordinates(2))[0], values[0].reshape(2, 4, 6).mean(1), atol=1e-6)
    inputs = torch.randn(7, 6)

    def outputs(inner):
        first, bias, second = grid(coordinates(inner))
        return (inputs @ first.T + bias).relu() @ second.T

    for inner in (2, 4, 6):
        assert torch.allclose(outputs(inner), outputs(8), atol=1e-5)
    assert not torch.allclose(outputs(1), outputs(8), atol=1e-2)  # fewer channels than cells have to merge


def make_square(num_channels):
    shapes = {"conv": (num_channels, num_channels, 3, 3), "scale": (num_channels,), "head": (5, num_channels)}
    varying = {"conv": (True, True), "scale": (True, False), "head": (False, True)}
    return list(make_coordinates(shapes, scale=16, varying=varying).values())


def make_levels(levels, positions="absolute"):
    torch.manual_seed(0)
    grid = Grid(make_square(16), positions=positions, levels=levels)
    assert grid.start_at([torch.randn(tensor.shape) for tensor in make_square(16)])
    return grid


@pytest.mark.parametrize("positions", ["relative", "absolute"])
@pytest.mark.parametrize("num_channels", [16, 11, 8, 4, 3])
def test_levels_start_at_nothing(num_channels, positions):
    levels, plain = make_levels(3, positions), make_levels(1, positions)
    for one, other in zip(levels(make_square(num_channels)), plain(make_square(num_channels)), strict=True):
        assert torch.equal(one, other)


def test_a_level_fades_in_with_the_logarithm_of_the_size_and_leaves_larger_sizes_alone():
    grid = make_levels(3)
    with torch.no_grad():
        for tensor in grid.tensors:
            tensor.exponent.zero_()
            for level, change in enumerate(tensor.changes):
                change.fill_(10.0 ** (1 + level))
    plain = make_levels(1)
    for tensor in plain.tensors:
        tensor.exponent.data.zero_()

    def added(num_channels):
        pairs = zip(grid(make_square(num_channels)), plain(make_square(num_channels)), strict=True)
        return [one - other for one, other in pairs]

    assert all((change == 0).all() for change in added(16))
    for num_channels, first, second in ((12, 4.15037, 0.0), (8, 10.0, 0.0), (6, 10.0, 41.5037), (4, 10.0, 100.0)):
        conv, scale, head = added(num_channels)
        corner = min(num_channels, 4)  # 7/8 of 4 channels, rounded, are on the second level
        assert torch.allclose(conv[: corner - 1, : corner - 1], torch.tensor(first + second), rtol=1e-4)
        assert torch.allclose(scale, torch.tensor(first + second), rtol=1e-4)
        assert torch.allclose(head[:, : corner - 1], torch.tensor(first + second), rtol=1e-4)
        assert (conv[7:] == 0).all()
        assert (conv[:, 7:] == 0).all()


@pytest.mark.parametrize("num_channels", [16, 11, 8, 4, 3])
def test_slices_are_what_the_box_filter_reads(num_channels):
    grid = make_levels(3)
    with torch.no_grad():
        for parameter in grid.parameters():
            parameter.add_(torch.randn(parameter.shape))
    coordinates = make_square(num_channels)
    unmoved = [dataclasses.replace(tensor, is_noisy=True) for tensor in coordinates]
    for sliced, read in zip(grid(coordinates), grid(unmoved), strict=True):
        assert torch.allclose(sliced, read, atol=1e-5)


def test_a_level_with_relative_positions_has_a_cell_per_channel_of_its_size():
    grid, plain = make_levels(2, "relative"), make_levels(1, "relative")
    for tensor in grid.tensors:
        assert [tuple(change.shape) for change in tensor.changes] == {
            (16, 16, 3, 3): [(8, 8, 9)],
            (16,): [(16, 1, 1)],
            (5, 16): [(5, 8, 1)],
        }[tensor.full_size.shape]
    change = torch.randn(8, 8, 9)
    grid.tensors[0].changes[0].data.copy_(change)

    def added(num_channels):
        return grid(make_square(num_channels))[0] - plain(make_square(num_channels))[0]

    assert torch.allclose(added(8), change.reshape(8, 8, 3, 3) * 2, atol=1e-5)  # twice: an input stands for two
    merged = change.reshape(4, 2, 4, 2, 3, 3).mean((1, 3))
    assert torch.allclose(added(4), merged * 4, atol=1e-5)
    assert (added(16) == 0).all()


def test_every_value_of_a_level_learns_at_its_size():
    grid = make_levels(3)
    torch.stack([value.square().sum() for value in grid(make_square(4))]).sum().backward()
    for tensor in grid.tensors:
        scale = tensor.full_size.shape == (16,)
        for level, change in enumerate(tensor.changes):
            reached = change.grad[:4] if scale else change.grad[:4, :4]
            assert (reached != 0).all(), level


def test_two_further_levels_hold_less_than_a_quarter_more():
    def count(levels):
        shapes = {f"conv{i}": (64, 64, 3, 3) for i in range(3)} | {f"scale{i}": (64,) for i in range(6)}
        varying = {name: (True, len(shape) > 1) for name, shape in shapes.items()}
        coordinates = list(make_coordinates(shapes, scale=64, varying=varying).values())
        grid = Grid(coordinates, positions="absolute", levels=levels)
        return sum(parameter.numel() for parameter in grid.parameters())

    assert 1.2 * count(1) < count(3) < 1.25 * count(1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"positions": "diagonal"}, "choose one of relative, absolute"),
        ({"resolution": 0}, "resolution=0: "),
        ({"resolution": 1.5}, "resolution=1.5: "),
        ({"positions": "absolute", "resolution": 0.5}, "with absolute positions"),
        ({"positions": "absolute", "levels": 0}, "levels=0: "),
    ],
)
def test_options_that_mean_nothing_are_refused(options, said):
    with pytest.raises(HypernetworkError, match=said):
        make_grid(**options)
