import dataclasses
import itertools
import math

import pytest
import torch

from neumeta_hf.coordinates import add_noise, make_coordinates
from neumeta_hf.errors import HypernetworkError
from neumeta_hf.hypernetworks import Field, Grid
from neumeta_hf.hypernetworks.field import Decoder
from neumeta_hf.targets import find_target
from neumeta_hf.targets.cifar_resnet import cifar_resnet20

VARYING = {"narrow": (True, True), "wide": (True, True), "scale": (True, False), "head": (False, True)}
FULL = {"narrow": 8, "wide": 16}


def network(narrow=8, wide=16, **options):
    """A network of two axes that change by themselves."""

    def tensors(narrow, wide):
        shapes = {"narrow": (narrow, narrow, 3, 3), "wide": (wide, narrow, 3, 3), "scale": (wide,), "head": (5, wide)}
        return shapes, {name: ([shape[0]], [(*shape, 1)[1]]) for name, shape in shapes.items()}

    (shapes, parts), (largest, reference_parts) = tensors(narrow, wide), tensors(**FULL)
    smallest = tensors(4, 8)[0]
    made = make_coordinates(
        shapes, scale=16, varying=VARYING, parts=parts, reference_parts=reference_parts, smallest=smallest,
        largest=largest, **options,
    )  # fmt: skip
    return list(made.values())


def make_field(*, moved=False, **options):
    torch.manual_seed(0)
    field = Field(network(), **{"hidden_size": 8, "levels": 2, **options})
    for module in field.modules():
        field.initialize(module)
    with torch.no_grad():
        assert field.start_at([torch.randn(tensor.shape) for tensor in network()])
        for parameter in field.parameters() if moved else []:
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return field


@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize("positions", ["relative", "absolute"])
@pytest.mark.parametrize("size", [(8, 16), (4, 8), (5, 13), (2, 3), (1, 1), (11, 16)])
def test_it_starts_as_the_grid_at_every_size(size, positions, noise):
    field = make_field(positions=positions)
    grid = Grid(network(), positions=positions, levels=2)
    with torch.no_grad():
        for tensor in field.tensors:
            tensor.changes[0].normal_()
    grid.tensors.load_state_dict(field.tensors.state_dict())
    named = dict(enumerate(network(*size)))
    moved = list(add_noise(named, noise, scale=16, generator=torch.Generator().manual_seed(0)).values())
    for value, wanted in zip(field(moved), grid(moved), strict=True):
        assert torch.equal(value, wanted)


def test_a_layer_differs_in_narrow_and_in_wide_networks():
    field, grid_like = make_field(moved=True), make_field()
    for hypernetwork, differs in ((field, True), (grid_like, False)):
        (first, *_), (second, *_) = hypernetwork(network(4, 16)), hypernetwork(network(4, 8))
        assert first.shape == second.shape == (4, 4, 3, 3)
        assert torch.allclose(first, second, atol=1e-6) != differs


def test_the_size_is_told_in_halvings_of_the_reference():
    field = make_field()

    def told(*size):
        return [held.size(tensor) for held, tensor in zip(field.fields, network(*size), strict=True)]

    for of_tensor in told(8, 16):
        assert torch.allclose(of_tensor, torch.zeros(3), atol=1e-6)
    # Seven axes in all, of which three follow the wide one.
    narrow, wide, scale, head = told(4, 16)
    mean = -3 / 6
    assert narrow.tolist() == pytest.approx([-1, -1, mean])
    assert wide.tolist() == pytest.approx([0, -1, mean])
    assert scale.tolist() == pytest.approx([0, 0, mean], abs=1e-6)
    assert head.tolist() == pytest.approx([0, 0, mean], abs=1e-6)
    for below, smallest in zip(told(1, 2), told(4, 8), strict=True):
        assert torch.equal(below, smallest), "held in the trained range"


def test_noise_moves_the_size_that_the_decoder_sees():
    held, tensor = make_field().fields[0], network(4, 8)[0]
    moved = [
        add_noise({"": tensor}, 1.0, scale=16, generator=torch.Generator().manual_seed(seed))[""] for seed in range(200)
    ]
    outs = torch.stack([held.size(each)[0] for each in moved])
    assert math.log2(3.5 / 8) <= outs.min() < math.log2(3.6 / 8)
    assert math.log2(4.5 / 8) >= outs.max() > math.log2(4.4 / 8)
    assert held.size(dataclasses.replace(tensor, out_size=-0.01)).isfinite().all()


@pytest.mark.parametrize("positions", ["relative", "absolute"])
def test_full_size_forgets_nothing_when_only_smaller_sizes_change(positions):
    field = make_field(positions=positions, num_features=0)
    wanted = field(network())
    with torch.no_grad():
        for tensor in field.tensors:
            for change in tensor.changes:
                change.normal_()
    for value, before in zip(field(network()), wanted, strict=True):
        assert torch.equal(value, before)


def test_decoders_are_shared_by_tensors_of_a_kind_or_each_tensors_own():
    def count(field):
        return len([module for module in field.modules() if isinstance(module, Decoder)])

    assert count(make_field()) == 2, "3x3 kernels, and all of a single number"
    assert count(make_field(shared=False)) == 4


def test_a_scaled_reference_has_a_scaled_decoder():
    first, second = make_field(moved=True), make_field(moved=True)
    with torch.no_grad():
        for held, tensor in zip(second.fields, second.tensors, strict=True):
            held.unit.mul_(100)
            for parameter in (tensor.values, *tensor.changes, *held.features):
                parameter.mul_(100)
    for value, scaled in zip(first(network(6, 9)), second(network(6, 9)), strict=True):
        assert torch.allclose(100 * value, scaled, rtol=1e-4, atol=1e-3)


LARGE = list(make_coordinates({"large": (64, 48, 3, 3), "matrix": (80, 30)}, scale=64).values())


def test_memory_of_the_decoder_is_bounded_by_the_chunk():
    field = Field(LARGE, hidden_size=12, chunk_size=100)
    sizes = []
    for decoder in field.decoders.values():
        decoder.first.register_forward_hook(lambda _, __, hidden: sizes.append(hidden[..., 0].numel()))
    with torch.no_grad():
        field(LARGE)
    assert 0 < max(sizes) <= 100


def test_training_keeps_nothing_hidden_of_a_large_tensor():
    def most_rows_kept(recompute_above):
        field, sizes = Field(LARGE, hidden_size=12, recompute_above=recompute_above), [0]

        def pack(tensor):
            if tensor.shape[-1:] == (12,):
                sizes.append(tensor.numel() // 12)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            field(LARGE)
        return max(sizes)

    assert most_rows_kept(1000) < 100 < most_rows_kept(10**6)


def test_the_whole_of_a_resnet20_takes_at_most_half_as_much_again():
    family = find_target(cifar_resnet20(10))
    reference = family.build(cifar_resnet20(10))
    shapes = {name: tuple(parameter.shape) for name, parameter in reference.named_parameters()}
    varying = {
        name: (not name.startswith("linear"), len(shape) > 1 and name != "conv1.weight")
        for name, shape in shapes.items()
    }
    field = Field(list(make_coordinates(shapes, scale=64, varying=varying).values()))
    count = sum(parameter.numel() for parameter in field.parameters())
    assert count <= 1.5 * sum(math.prod(shape) for shape in shapes.values())


def test_a_family_of_it_comes_back_to_the_bit(make_case, tmp_path):
    case = make_case("lenet")
    family = case.family(hypernetwork={"type": "field", "hidden_size": 8, "levels": 2})
    with torch.no_grad():
        for parameter in family.hypernetwork.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    family.save_pretrained(tmp_path)
    reloaded = type(family).from_pretrained(tmp_path)
    for width in (1.0, 0.6, 0.25):
        for first, second in zip(family.generate(width).values(), reloaded.generate(width).values(), strict=True):
            assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        *(({name: value}, f"{name}={value!r}: .*at least 1") for name, value in itertools.product(
            ("hidden_size", "num_hidden_layers", "chunk_size", "recompute_above", "levels"), (0, 1.5, "8", True)
        )),
        *(({"num_features": value}, f"num_features={value!r}: .*whole number") for value in (-1, 2.0, None, True)),
        *(({"shared": value}, f"shared={value!r}: give true or false") for value in (1, "yes", None)),
        ({"positions": "diagonal"}, "choose one of relative, absolute"),
    ],
)  # fmt: skip
def test_options_that_mean_nothing_are_refused(options, said):
    with pytest.raises(HypernetworkError, match=said):
        make_field(**options)
