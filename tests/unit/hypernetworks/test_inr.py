import math

import pytest
import torch
import torch.nn.functional as F

from neumeta_hf.coordinates import COORD_DIM, add_noise, centre_crop, make_coordinates
from neumeta_hf.errors import HypernetworkError
from neumeta_hf.hypernetworks import INR
from neumeta_hf.hypernetworks.inr import MEAN_RATE, positional_encoding

PAPER = {"num_frequencies": 5, "encode_sizes": True, "centered": False, "output": "channels"}
SHAPES = {"stem": (5, 3, 5, 5), "conv": (6, 4, 3, 3), "projection": (6, 5, 1, 1), "bias": (6,), "linear": (3, 6)}


def make_inr(shapes=None, **options):
    torch.manual_seed(0)
    full_size = make_coordinates(shapes or SHAPES, scale=8)
    inr = INR(list(full_size.values()), **{"hidden_size": 12, "num_hidden_layers": 3, **options})
    for module in inr.modules():
        inr.initialize(module)
    for parameter in inr.parameters():  # no bias may be zero by chance, nor may two scales be alike
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return inr


def literal(inr, tensor):
    """The paper's hypernetwork, row by row of coordinates."""
    mlp = inr.mlps[tensor.layer]
    encoded = []
    for column in tensor.rows().T:
        angles = column[:, None] * 2.0 ** torch.arange(mlp.num_frequencies) * math.pi
        encoded += [column[:, None], torch.sin(angles), torch.cos(angles)]
    hidden = F.relu(mlp.first(torch.cat(encoded, dim=1)))
    for number, linear in enumerate(mlp.residuals):
        hidden = hidden + mlp.scales[number] * F.relu(linear(hidden))
    kernels = mlp.last(hidden)[:, centre_crop(tensor.kernel_size, inr.kernel_size)] / tensor.num_in
    return kernels.reshape(tensor.shape)


@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize("alignment", ["corner", "center"])
def test_it_is_the_papers_network_row_by_row(noise, alignment):
    inr = make_inr(**PAPER)
    smaller = {"stem": (3, 3, 5, 5), "conv": (4, 2, 3, 3), "projection": (4, 3, 1, 1), "bias": (4,), "linear": (3, 4)}
    for shapes in (SHAPES, smaller):
        coordinates = make_coordinates(shapes, scale=8, alignment=alignment)
        coordinates = add_noise(coordinates, noise, scale=8, generator=torch.Generator().manual_seed(0))
        for value, tensor in zip(inr(list(coordinates.values())), coordinates.values(), strict=True):
            assert value.shape == tensor.shape
            assert torch.allclose(value, literal(inr, tensor), atol=1e-5), tensor.layer


def test_the_encoding_by_hand():
    encoded = positional_encoding(torch.tensor([0.25]), 2)[0]
    half = math.sqrt(0.5)
    assert encoded.tolist() == pytest.approx([0.25, half, 1.0, half, 0.0], abs=1e-6)
    assert positional_encoding(torch.zeros(3, 4), 16).shape == (3, 4, 33)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_a_part_is_read_where_the_reference_has_it(noise):
    inr = make_inr(**PAPER)
    full_parts = {"conv": ([4, 2], [2, 2])}
    full = make_coordinates(SHAPES, scale=8, parts=full_parts, reference_parts=full_parts)["conv"]
    shapes = {**SHAPES, "conv": (3, 2, 3, 3)}
    parts = {"conv": ([2, 1], [1, 1])}
    half = make_coordinates(shapes, scale=8, smallest=SHAPES, largest=SHAPES, parts=parts, reference_parts=full_parts)[
        "conv"
    ]
    # Every second channel of each part, with the size's own coordinates held at the reference's.
    wanted = inr([full])[0][[0, 2, 4]][:, [0, 2]] * full.num_in
    assert torch.allclose(inr([half])[0] * half.num_in, wanted, atol=1e-5)
    moved = add_noise({"conv": half}, noise, scale=8, generator=torch.Generator().manual_seed(0))["conv"]
    assert torch.allclose(inr([moved])[0], literal(inr, moved), atol=1e-5)


def test_noise_never_routes_to_another_tensors_network():
    inr = make_inr()
    coordinates = make_coordinates(SHAPES, scale=8)
    exact = inr(list(coordinates.values()))
    for mlp in inr.mlps[1:]:
        mlp.last.bias.data += 1000.0
    for seed in range(5):
        moved = add_noise(coordinates, 1.0, scale=8, generator=torch.Generator().manual_seed(seed))
        values = inr(list(moved.values()))
        assert values[0].abs().max() < 100
        assert all(value.min() > 10 for value in values[1:])
    assert all(value.abs().max() < 100 for value in exact)


def test_noise_never_rescales_the_output():
    inr = make_inr(**PAPER)
    for mlp in inr.mlps:
        for parameter in mlp.parameters():
            parameter.data.zero_()
        mlp.last.bias.data.fill_(6.0)
    coordinates = make_coordinates(SHAPES, scale=8)
    for seed in range(5):
        moved = add_noise(coordinates, 1.0, scale=8, generator=torch.Generator().manual_seed(seed))
        for value, tensor in zip(inr(list(moved.values())), coordinates.values(), strict=True):
            assert torch.equal(value, torch.full(tensor.shape, 6.0 / tensor.num_in))


def test_a_clamped_size_keeps_its_true_divisor():
    inr = make_inr(**PAPER)
    shapes = {name: (shape[0], 2, *shape[2:]) if len(shape) > 1 else shape for name, shape in SHAPES.items()}
    clamped = make_coordinates(shapes, scale=8, smallest=SHAPES, largest=SHAPES)["conv"]
    assert clamped.in_size * 8 == 4
    for parameter in inr.mlps[clamped.layer].parameters():
        parameter.data.zero_()
    inr.mlps[clamped.layer].last.bias.data.fill_(6.0)
    assert torch.equal(inr([clamped])[0], torch.full(clamped.shape, 3.0))


@pytest.mark.parametrize(
    "options", [{"chunk_size": 1}, {"chunk_size": 7}, {"recompute_above": 1}, {"chunk_size": 5, "recompute_above": 1}]
)
def test_chunks_and_recomputation_change_nothing(options):
    coordinates = list(make_coordinates(SHAPES, scale=8).values())
    results = []
    for extra in ({}, options):
        inr = make_inr(**extra)
        values = inr(coordinates)
        torch.stack(
            [(value * torch.arange(value.numel()).reshape(value.shape)).sum() for value in values]
        ).sum().backward()
        results.append((values, [parameter.grad for parameter in inr.parameters()]))
    for first, second in zip(*(values + gradients for values, gradients in results), strict=True):
        assert torch.allclose(first, second, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, PAPER])
@pytest.mark.parametrize("num_hidden_layers", [1, 2, 4])
def test_every_parameter_gets_a_gradient(num_hidden_layers, options):
    inr = make_inr(num_hidden_layers=num_hidden_layers, **options)
    smaller = {"stem": (3, 2, 5, 5), "conv": (4, 2, 3, 3), "projection": (4, 3, 1, 1), "bias": (4,), "linear": (3, 4)}
    coordinates = make_coordinates(smaller, scale=8)
    torch.stack([value.square().sum() for value in inr(list(coordinates.values()))]).sum().backward()
    for name, parameter in inr.named_parameters():
        assert parameter.numel() > 0, name
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def largest_hidden(inr, coordinates):
    """Most rows of hidden activations that any layer was given at once."""
    rows = []
    handles = [
        linear.register_forward_hook(lambda _, inputs, __: rows.append(inputs[0].reshape(-1, 12).shape[0]))
        for mlp in inr.mlps
        for linear in mlp.residuals
    ]
    values = inr(coordinates)
    for handle in handles:
        handle.remove()
    return max(rows), values


def test_memory_is_bounded_by_the_chunk_not_by_the_tensor():
    shapes = {"large": (64, 48, 3, 3), "matrix": (80, 30)}
    inr = make_inr(shapes, chunk_size=100)
    coordinates = list(make_coordinates(shapes, scale=64).values())
    with torch.no_grad():
        assert largest_hidden(inr, coordinates)[0] <= 100


def test_training_keeps_only_a_chunk_of_a_large_tensor():
    shapes = {"large": (64, 48, 3, 3)}
    inr = make_inr(shapes, chunk_size=100, recompute_above=1000)
    largest = 0

    def pack(tensor):
        nonlocal largest
        if tensor.ndim == 2 and tensor.shape[1] == 12:
            largest = max(largest, tensor.shape[0])
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        inr(list(make_coordinates(shapes, scale=64).values()))[0].sum().backward()
    assert 0 < largest <= 100


def test_generation_changes_no_argument():
    inr = make_inr()
    coordinates = make_coordinates(SHAPES, scale=8)
    before = {name: (t.out_positions.clone(), t.in_positions.clone()) for name, t in coordinates.items()}
    inr(list(coordinates.values()))
    for name, (out, in_) in before.items():
        assert torch.equal(coordinates[name].out_positions, out)
        assert torch.equal(coordinates[name].in_positions, in_)


def test_any_subset_in_any_order_gives_the_same_tensors():
    inr = make_inr()
    coordinates = list(make_coordinates(SHAPES, scale=8).values())
    in_order = inr(coordinates)
    for order in ([4, 2, 0, 1, 3], [3], [1, 1, 0]):
        for number, value in zip(order, inr([coordinates[number] for number in order]), strict=True):
            assert torch.equal(value, in_order[number])


def test_signals_keep_their_size_at_the_start():
    shapes = {"conv": (64, 64, 3, 3), "wide": (128, 64, 3, 3), "linear": (10, 128), "bias": (128,)}
    torch.manual_seed(0)
    inr = INR(list(make_coordinates(shapes, scale=128).values()), **{**PAPER, "num_frequencies": 16})
    for module in inr.modules():
        inr.initialize(module)
    conv, wide, linear, bias = inr(list(make_coordinates(shapes, scale=128).values()))
    images = torch.rand(4, 64, 8, 8)
    hidden = F.relu(F.conv2d(F.relu(F.conv2d(images, conv, padding=1)), wide, padding=1)).mean((2, 3))
    assert 0.03 < (hidden @ linear.T).std() / images.std() < 30
    assert 0.01 < bias.std() < 1


def test_the_mean_of_a_tensor_is_a_parameter_of_its_own():
    inr = make_inr()
    coordinates = list(make_coordinates(SHAPES, scale=8).values())
    for value, tensor, mlp in zip(inr(coordinates), coordinates, inr.mlps, strict=True):
        kept = centre_crop(tensor.kernel_size, inr.kernel_size)
        mean = value.reshape(tensor.num_out * tensor.num_in, -1).mean(0)
        assert torch.allclose(mean, MEAN_RATE * mlp.last.bias[kept], atol=1e-6)


def test_values_are_in_units_of_the_reference():
    reference = [10.0**index * torch.randn(shape) for index, shape in enumerate(SHAPES.values())]
    inr, plain = make_inr(), make_inr()
    with torch.no_grad():
        assert not inr.start_at(reference)  # the INR cannot hold the reference itself
    coordinates = list(make_coordinates(SHAPES, scale=8).values())
    for value, unscaled, tensor in zip(inr(coordinates), plain(coordinates), reference, strict=True):
        assert torch.allclose(value, unscaled * tensor.square().mean().sqrt(), rtol=1e-4)


def test_fewer_input_channels_get_larger_weights():
    inr = make_inr()
    for unit in inr.units:
        if unit.power is not None:
            unit.power.data.fill_(1.0)
    full = make_coordinates(SHAPES, scale=8)
    half = make_coordinates({**SHAPES, "conv": (6, 2, 3, 3)}, scale=8, smallest=SHAPES, largest=SHAPES)["conv"]
    inr.mlps[half.layer].centered = False  # the mean is over other channels
    wanted = 2 * inr([full["conv"]])[0][:, ::2]
    assert torch.allclose(inr([half])[0], wanted, rtol=1e-4)


@pytest.mark.parametrize("num_channels", [3, 8, 64])
def test_no_octave_is_finer_than_what_noise_of_a_channel_leaves(num_channels):
    inr = make_inr({"conv": (num_channels, 3, 3, 3)})
    wavelength = 2 / 2 ** (inr.mlps[0].num_frequencies - 1) * num_channels  # of the last, sin(2^(F - 1) pi c / C)
    assert 2 <= wavelength <= 4


def test_a_tensor_beyond_those_it_was_built_for_is_refused():
    inr = make_inr()
    stranger = list(make_coordinates({**SHAPES, "more": (2, 2)}, scale=8).values())[-1]
    with pytest.raises(HypernetworkError, match="built for 5 tensors"):
        inr([stranger])


@pytest.mark.parametrize(
    "option", ["hidden_size", "num_hidden_layers", "num_frequencies", "chunk_size", "recompute_above"]
)
@pytest.mark.parametrize("value", [0, 1.5, "8", True])
def test_options_that_are_no_counts_are_refused_by_name(option, value):
    with pytest.raises(HypernetworkError, match=f"{option}=.*at least 1"):
        make_inr(**{option: value})


@pytest.mark.parametrize("value", ["0.1", None, True])
def test_a_residual_scale_that_is_no_number_is_refused(value):
    with pytest.raises(HypernetworkError, match="residual_scale=.*give a number"):
        make_inr(residual_scale=value)


def test_the_first_layer_reads_all_six_numbers():
    inr = make_inr(**PAPER)
    assert inr.mlps[0].first.in_features == COORD_DIM * 11
    tensor = make_coordinates(SHAPES, scale=8)["conv"]
    shapes = {**SHAPES, "conv": (7, 4, 3, 3)}, {**SHAPES, "conv": (6, 5, 3, 3)}
    for other in (make_coordinates(each, scale=8)["conv"] for each in shapes):
        first, second = inr([tensor])[0] * tensor.num_in, inr([other])[0] * other.num_in
        # Channel pair 0, 0 lies at the same place in both; only the network's size tells the two apart.
        assert (first[0, 0] - second[0, 0]).abs().max() > 1e-3
