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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"positions": "diagonal"}, "choose one of relative, absolute"),
        ({"resolution": 0}, "resolution=0: "),
        ({"resolution": 1.5}, "resolution=1.5: "),
        ({"positions": "absolute", "resolution": 0.5}, "with absolute positions"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, said):
    with pytest.raises(HypernetworkError, match=said):
        make_grid(**options)
