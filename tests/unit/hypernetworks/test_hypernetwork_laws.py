"""What holds for every registered hypernetwork."""

import dataclasses

import pytest
import torch

from neumeta_hf.coordinates import add_noise, make_coordinates
from neumeta_hf.errors import HypernetworkError
from neumeta_hf.hypernetworks import build_hypernetwork, list_hypernetworks

# A stem, a kernel in parts, a matrix, a vector and one that no size changes.
PARTS = {"conv": ([6, 2], [4, 4, 2]), "scale": ([6, 2], [1])}
VARYING = {
    "stem": (True, False),
    "conv": (True, True),
    "scale": (True, False),
    "head": (False, True),
    "bias": (False, False),
}
CASES = [
    {"type": "inr", "hidden_size": 8, "num_hidden_layers": 3},
    {"type": "grid", "positions": "relative", "levels": 2},
    {"type": "grid", "positions": "absolute", "levels": 3},
    {"type": "field", "positions": "relative", "levels": 2, "hidden_size": 8, "shared": False},
    {"type": "field", "positions": "absolute", "levels": 3, "hidden_size": 8},
    {"type": "field", "positions": "absolute", "levels": 1, "num_features": 0, "hidden_size": 8},
]
each_hypernetwork = pytest.mark.parametrize("options", CASES, ids=lambda options: "-".join(map(str, options.values())))


def coordinates_at(ratio, **options):
    parts = {
        name: tuple([max(1, round(count * ratio)) if sum(counts) > 1 else count for count in counts] for counts in axes)
        for name, axes in PARTS.items()
    }
    out, in_ = (sum(counts) for counts in parts["conv"])
    shapes = {"stem": (in_, 3, 5, 5), "conv": (out, in_, 3, 3), "scale": (out,), "head": (5, out), "bias": (5,)}
    made = make_coordinates(
        shapes, scale=10, varying=VARYING, parts={**parts, "stem": ([in_], [3]), "head": ([5], [out])},
        reference_parts={**PARTS, "stem": ([10], [3]), "head": ([5], [8])}, **options,
    )  # fmt: skip
    return list(made.values())


def make(options, *, moved=True):
    """A hypernetwork around a random reference, all of its parameters away from where they start."""
    torch.manual_seed(0)
    full_size = coordinates_at(1.0)
    hypernetwork = build_hypernetwork(options, full_size)
    for module in hypernetwork.modules():
        hypernetwork.initialize(module)
    values = [torch.randn(tensor.shape) for tensor in full_size]
    with torch.no_grad():
        exact = hypernetwork.start_at(values)
        for parameter in hypernetwork.parameters() if moved else []:
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return hypernetwork, values, exact


def noisy(coordinates, seed=0):
    named = dict(enumerate(coordinates))
    return list(add_noise(named, 1.0, scale=10, generator=torch.Generator().manual_seed(seed)).values())


def test_all_that_are_registered_are_tried():
    assert {options["type"] for options in CASES} == set(list_hypernetworks())


@each_hypernetwork
@pytest.mark.parametrize("ratio", [1e-3, 0.3, 0.5, 1.0, 1.7, 4.0])
def test_any_size_has_the_shapes_asked_for_with_noise_and_without(options, ratio):
    hypernetwork, *_ = make(options)
    for coordinates in (coordinates_at(ratio), noisy(coordinates_at(ratio))):
        for value, tensor in zip(hypernetwork(coordinates), coordinates, strict=True):
            assert value.shape == tensor.shape
            assert value.isfinite().all()


@each_hypernetwork
def test_what_says_that_it_starts_at_the_reference_generates_it_to_the_bit(options):
    hypernetwork, values, exact = make(options, moved=False)
    assert exact == (options["type"] != "inr")
    if exact:
        for value, wanted in zip(hypernetwork(coordinates_at(1.0)), values, strict=True):
            assert torch.equal(value, wanted)


@each_hypernetwork
def test_any_subset_in_any_order_is_the_same_tensors(options):
    hypernetwork, *_ = make(options)
    coordinates = coordinates_at(0.5)
    in_order = hypernetwork(coordinates)
    for order in ([4, 2, 0, 1, 3], [1], [1, 1, 0]):
        for number, value in zip(order, hypernetwork([coordinates[number] for number in order]), strict=True):
            assert torch.equal(value, in_order[number])


@each_hypernetwork
def test_generation_changes_no_coordinate(options):
    hypernetwork, *_ = make(options)
    coordinates = noisy(coordinates_at(0.5))
    before = [(tensor.out_positions.clone(), tensor.in_positions.clone()) for tensor in coordinates]
    hypernetwork(coordinates)
    for tensor, (out, in_) in zip(coordinates, before, strict=True):
        assert torch.equal(tensor.out_positions, out)
        assert torch.equal(tensor.in_positions, in_)


@each_hypernetwork
def test_every_parameter_learns_over_a_set_of_sizes(options):
    hypernetwork, *_ = make(options)
    for ratio in (1.0, 0.6, 0.5, 0.25):
        torch.stack([value.square().sum() for value in hypernetwork(coordinates_at(ratio))]).sum().backward()
    for name, parameter in hypernetwork.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not name.endswith("exponent"):  # of tensors with as many inputs at every size it is never read
            assert parameter.grad.abs().max() > 0, name


@each_hypernetwork
def test_a_kernel_keeps_to_its_number_whatever_the_noise(options):
    hypernetwork, *_ = make(options)
    coordinates = coordinates_at(0.5)
    exact = hypernetwork(coordinates)
    with torch.no_grad():
        for parameter in hypernetwork.state_dict().values():
            assert parameter.isfinite().all()
    for seed in range(5):
        for value, wanted in zip(hypernetwork(noisy(coordinates, seed)), exact, strict=True):
            assert (value - wanted).abs().max() < 4 * wanted.abs().max() + 4


@pytest.mark.parametrize("options", [options for options in CASES if options["type"] != "grid"], ids=str)
def test_chunks_and_recomputation_change_nothing(options):
    results = []
    for chunks in ({}, {"chunk_size": 7}, {"chunk_size": 25, "recompute_above": 1}):
        hypernetwork, *_ = make({**options, **chunks})
        values = hypernetwork(coordinates_at(0.6))
        torch.stack([(value * torch.arange(value.numel()).view_as(value)).sum() for value in values]).sum().backward()
        results.append([*values, *(parameter.grad for parameter in hypernetwork.parameters())])
    for whole, *others in zip(*results, strict=True):
        for other in others:
            assert torch.allclose(whole, other, rtol=1e-3, atol=1e-3)


@each_hypernetwork
def test_coordinates_of_other_tensors_are_refused(options):
    hypernetwork, *_ = make(options)
    stranger = dataclasses.replace(coordinates_at(1.0)[1], layer=5)
    with pytest.raises(HypernetworkError, match="built for 5 tensors"):
        hypernetwork([stranger])


@each_hypernetwork
def test_hidden_matrices_are_its_own_and_of_two_axes(options):
    hypernetwork, *_ = make(options)
    own = {id(parameter) for parameter in hypernetwork.parameters()}
    matrices = hypernetwork.hidden_matrices()
    assert (len(matrices) > 0) == (options["type"] != "grid")
    assert all(id(matrix) in own and matrix.ndim == 2 for matrix in matrices)
    assert len({id(matrix) for matrix in matrices}) == len(matrices)
