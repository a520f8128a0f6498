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
        corner = min(num_channels, 4)  # 13/16 of 4 channels, rounded, are on the second level
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


@pytest.mark.parametrize(
    ("positions", "in_varies", "levels", "share"),
    [
        ("absolute", True, 3, 1 / 5),
        ("relative", True, 3, 5 / 16),
        ("absolute", False, 3, 3 / 5),
        ("relative", False, 3, 3 / 4),
        ("absolute", True, 2, 1 / 6),
        ("relative", True, 2, 1 / 4),
        ("absolute", False, 2, 2 / 5),
        ("relative", False, 2, 1 / 2),
    ],
)
def test_how_much_more_further_levels_hold(positions, in_varies, levels, share):
    def count(levels):
        shapes = {f"conv{i}": (64, 64, 3, 3) for i in range(3)} | {f"scale{i}": (64,) for i in range(6)}
        varying = {name: (True, in_varies and len(shape) > 1) for name, shape in shapes.items()}
        coordinates = list(make_coordinates(shapes, scale=64, varying=varying).values())
        grid = Grid(coordinates, positions=positions, levels=levels)
        return sum(parameter.numel() for parameter in grid.parameters())

    assert count(levels) / count(1) - 1 == pytest.approx(share, abs=0.02)  # vectors are whole on every level


# An axis of several parts. Equal parts are groups of a normalisation; others are concatenated features.
EQUAL = ([8, 8, 8, 8], [16, 16])
CONCATENATED = ([16, 8, 4], [16, 4, 4, 8])
MIXED = ([8, 8, 8, 8], [12, 4, 16])


def make_parts(full, counts, **options):
    """A kernel, a vector over its output axis and a matrix over its input axis, all of them in parts."""

    def tensors(axes):
        out, in_ = axes
        parts = {"conv": (out, in_), "scale": (out, [1]), "head": ([5], in_)}
        return {"conv": (sum(out), sum(in_), 3, 3), "scale": (sum(out),), "head": (5, sum(in_))}, parts

    varying = {"conv": (True, True), "scale": (True, False), "head": (False, True)}
    (shapes, parts), reference_parts = tensors(counts), tensors(full)[1]
    coordinates = make_coordinates(
        shapes, scale=32, varying=varying, parts=parts, reference_parts=reference_parts, **options
    )
    return list(coordinates.values())


def shortened(axes, ratio):
    return tuple([max(1, round(count * ratio)) for count in counts] for counts in axes)


def make_parts_grid(full, alignment="corner", **options):
    torch.manual_seed(0)
    grid = Grid(make_parts(full, full, alignment=alignment), **options)
    values = [torch.randn(tensor.shape) for tensor in make_parts(full, full)]
    exact = grid.start_at(values)
    assert exact == (options.get("resolution", 1.0) == 1)
    return grid, values


def randomize_changes(grid):
    with torch.no_grad():
        for tensor in grid.tensors:
            for change in tensor.changes:
                change.copy_(torch.randn(change.shape))


def blocks(tensor, axes):
    out, in_ = axes
    return [block.split(in_, dim=1) for block in tensor.split(out, dim=0)]


def generate_by_parts(grid, values, full, counts, alignment, options, moves):
    """The kernel of a grid, each pair of parts generated by a grid that holds nothing else."""
    held = grid.tensors[0]
    cells = [values[0], *held.changes]
    axes_of_cells = [full, *held.cell_parts[1:]]
    split = [blocks(each, axes) for each, axes in zip(cells, axes_of_cells, strict=True)]
    rows = []
    for p, num_out in enumerate(counts[0]):
        row = []
        for q, num_in in enumerate(counts[1]):
            reference, tensor = (
                make_coordinates({"block": (out, in_, 3, 3)}, scale=32, alignment=alignment)["block"]
                for out, in_ in ((full[0][p], full[1][q]), (num_out, num_in))
            )
            if moves is not None:
                tensor = dataclasses.replace(
                    tensor,
                    out_positions=tensor.out_positions + moves[0].split(counts[0])[p] / num_out,
                    in_positions=tensor.in_positions + moves[1].split(counts[1])[q] / num_in,
                    is_noisy=True,
                )
            alone = Grid([reference], **options)
            alone.start_at([split[0][p][q]])
            with torch.no_grad():
                alone.tensors[0].exponent.copy_(held.exponent)
                for change, block in zip(alone.tensors[0].changes, split[1:], strict=True):
                    change.copy_(block[p][q])
            row.append(alone([tensor])[0])
        rows.append(torch.cat(row, dim=1))
    return torch.cat(rows, dim=0)


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("alignment", ["corner", "center"])
@pytest.mark.parametrize("full", [EQUAL, CONCATENATED, MIXED])
@pytest.mark.parametrize(
    "options",
    [
        {"positions": "absolute", "levels": 3},
        {"positions": "relative", "levels": 3},
        {"positions": "relative", "resolution": 0.4},
    ],
)
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75, 1.0, 1.5, 4.0])
def test_each_part_is_generated_as_a_tensor_of_its_own(ratio, options, full, alignment, moved):
    grid, values = make_parts_grid(full, alignment, **options)
    randomize_changes(grid)
    counts = shortened(full, ratio)
    conv = make_parts(full, counts, alignment=alignment)[0]
    moves = None
    if moved:
        moves = [torch.rand(sum(axis)) - 0.5 for axis in counts]
        widths = [
            torch.tensor([n / count / sum(axis) for n, count in zip(axis, small, strict=True) for _ in range(count)])
            for axis, small in zip(full, counts, strict=True)
        ]
        conv = dataclasses.replace(
            conv,
            out_positions=conv.out_positions + moves[0] * widths[0],
            in_positions=conv.in_positions + moves[1] * widths[1],
            is_noisy=True,
        )
    alone = generate_by_parts(grid, values, full, counts, alignment, options, moves)
    assert torch.allclose(grid([conv])[0], alone, atol=1e-4)


@pytest.mark.parametrize("positions", ["absolute", "relative"])
@pytest.mark.parametrize(
    "counts",
    [
        ([16, 2, 3], [5, 4, 1, 8]),
        ([1, 8, 4], [16, 1, 4, 2]),
        ([18, 4, 2], [3, 5, 4, 9]),  # one part longer than in the reference, the axis shorter
        ([4, 4, 4], [2, 2, 2, 2]),
    ],
)
def test_parts_change_their_length_by_themselves(positions, counts):
    grid, values = make_parts_grid(CONCATENATED, positions=positions)
    grid.tensors[0].exponent.data.zero_()  # the gain is of the whole axis
    alone = generate_by_parts(grid, values, CONCATENATED, counts, "corner", {"positions": positions}, None)
    assert torch.allclose(grid(make_parts(CONCATENATED, counts))[0], alone, atol=1e-5)


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("positions", ["absolute", "relative"])
@pytest.mark.parametrize("alignment", ["corner", "center"])
@pytest.mark.parametrize("full", [EQUAL, CONCATENATED, MIXED, ([7, 7, 7], [5, 49, 3])])
def test_full_size_is_the_reference_part_by_part(full, alignment, positions, levels):
    grid, values = make_parts_grid(full, alignment, positions=positions, levels=levels)
    randomize_changes(grid)
    for generated, value in zip(grid(make_parts(full, full, alignment=alignment)), values, strict=True):
        assert torch.equal(generated, value)


@pytest.mark.parametrize("full", [EQUAL, CONCATENATED, MIXED])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.7])
def test_absolute_positions_take_the_first_channels_of_every_part(full, ratio):
    grid, (conv, scale, head) = make_parts_grid(full, positions="absolute")
    counts = shortened(full, ratio)
    kept = [
        [sum(axis[:part]) + channel for part, count in enumerate(small) for channel in range(count)]
        for axis, small in zip(full, counts, strict=True)
    ]
    gain = (sum(full[1]) / sum(counts[1])) ** 0.5
    small = grid(make_parts(full, counts))
    assert torch.allclose(small[0], conv[kept[0]][:, kept[1]] * gain, atol=1e-6)
    assert torch.allclose(small[1], scale[kept[0]], atol=1e-6)
    assert torch.allclose(small[2], head[:, kept[1]] * gain, atol=1e-6)


@pytest.mark.parametrize("positions", ["absolute", "relative"])
@pytest.mark.parametrize("full", [EQUAL, CONCATENATED, MIXED])
def test_a_coarse_or_exact_grid_starts_at_the_mean_of_its_channels(positions, full):
    resolution = 0.5 if positions == "relative" else 1.0
    grid, (conv, *_) = make_parts_grid(full, positions=positions, resolution=resolution)
    merged = int(1 / resolution)
    out, in_ = (sum(axis) // merged for axis in full)
    means = conv.reshape(out, merged, in_, merged, 9).mean((1, 3))
    assert torch.allclose(grid.tensors[0].values, means, atol=1e-6)


def test_every_part_has_its_share_of_a_level():
    grid, _ = make_parts_grid(CONCATENATED, positions="absolute", levels=3)
    conv, scale, head = (tensor.cell_parts for tensor in grid.tensors)
    # 13/32 and 13/64 of each part, rounded, and never nothing.
    assert conv == [[(16, 8, 4), (16, 4, 4, 8)], [(6, 3, 2), (6, 2, 2, 3)], [(3, 2, 1), (3, 1, 1, 2)]]
    assert scale == [[(16, 8, 4), (1,)]] * 3
    assert head == [[(5,), (16, 4, 4, 8)], [(5,), (6, 2, 2, 3)], [(5,), (3, 1, 1, 2)]]
    for tensor in grid.tensors:
        for cells, (out, in_) in zip((tensor.values, *tensor.changes), tensor.cell_parts, strict=True):
            assert cells.shape[:2] == (sum(out), sum(in_))


@pytest.mark.parametrize("positions", ["absolute", "relative"])
@pytest.mark.parametrize("full", [EQUAL, CONCATENATED, MIXED])
def test_every_parameter_learns_over_a_set_of_sizes(positions, full):
    grid, _ = make_parts_grid(full, positions=positions, levels=3)
    randomize_changes(grid)
    for ratio in (1.0, 0.6, 0.5, 0.25):
        coordinates = make_parts(full, shortened(full, ratio))
        torch.stack([value.square().sum() for value in grid(coordinates)]).sum().backward()
    for name, parameter in grid.named_parameters():
        if name == "tensors.1.exponent":  # a vector has one input channel at every size
            continue
        reached = parameter.grad != 0
        if name.startswith("tensors.1.changes"):  # its levels have a cell per channel, of which small sizes have few
            assert reached.any(), name
        else:
            assert reached.all(), name


@pytest.mark.parametrize("full", [EQUAL, CONCATENATED, MIXED])
@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.6, 0.9, 1.0])
def test_first_channels_of_parts_are_what_the_box_filter_reads(full, ratio):
    grid, _ = make_parts_grid(full, positions="absolute", levels=3)
    randomize_changes(grid)
    coordinates = make_parts(full, shortened(full, ratio))
    unmoved = [dataclasses.replace(tensor, is_noisy=True) for tensor in coordinates]
    outputs, gradients = [], []
    for each in (coordinates, unmoved):
        grid.zero_grad()
        outputs.append(grid(each))
        torch.stack([value.square().sum() for value in outputs[-1]]).sum().backward()
        gradients.append([parameter.grad for parameter in grid.parameters()])
    for fast, slow in zip(*outputs, strict=True):
        assert torch.allclose(fast, slow, atol=1e-4)
    for fast, slow in zip(*gradients, strict=True):
        assert torch.allclose(fast, slow, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("positions", ["absolute", "relative"])
def test_noise_reads_nothing_of_another_part(positions):
    grid, _ = make_parts_grid(CONCATENATED, positions=positions)
    parts = torch.arange(3.0).repeat_interleave(torch.tensor(CONCATENATED[0]))
    grid.start_at([parts[:, None, None, None].expand(28, 32, 3, 3), parts, torch.zeros(5, 32)])
    counts = ([5, 8, 1], CONCATENATED[1])
    exact = dict(enumerate(make_parts(CONCATENATED, counts)))
    wanted = torch.arange(3.0).repeat_interleave(torch.tensor(counts[0]))
    for seed in range(20):
        moved = add_noise(exact, 1.0, scale=32, generator=torch.Generator().manual_seed(seed))
        assert torch.allclose(grid([moved[1]])[0], wanted, atol=1e-5)


@pytest.mark.parametrize("positions", ["absolute", "relative"])
def test_explicit_single_parts_change_no_bit(positions):
    names = list(SHAPES)

    def singles(shapes):
        return {name: ([shapes[name][0]], [(*shapes[name], 1)[1]]) for name in names}

    results = []
    for explicit in (False, True):

        def coordinates(shapes, noise=0.0, explicit=explicit):
            parts = {"parts": singles(shapes), "reference_parts": singles(SHAPES)} if explicit else {}
            made = make_coordinates(shapes, scale=8, **parts)
            return list(add_noise(made, noise, scale=8, generator=torch.Generator().manual_seed(0)).values())

        torch.manual_seed(0)
        grid = Grid(coordinates(SHAPES), positions=positions, levels=2)
        grid.start_at([torch.randn(shape) for shape in SHAPES.values()])
        randomize_changes(grid)
        results.append([*grid(coordinates(SHAPES)), *grid(coordinates(HALF)), *grid(coordinates(HALF, 1.0))])
    for plain, single in zip(*results, strict=True):
        assert torch.equal(plain, single)


def test_coordinates_without_the_grids_parts_are_refused():
    grid, _ = make_parts_grid(EQUAL)
    plain = make_coordinates({"conv": (16, 16, 3, 3)}, scale=32)["conv"]
    with pytest.raises(
        HypernetworkError, match=r"number 0 has an axis with parts of \[16\] .* for \[8, 8, 8, 8\]: give"
    ):
        grid([plain])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"positions": "diagonal"}, "choose one of relative, absolute"),
        ({"resolution": 0}, "resolution=0: "),
        ({"resolution": 1.5}, "resolution=1.5: "),
        ({"positions": "absolute", "resolution": 0.5}, "with absolute positions"),
        ({"positions": "absolute", "levels": 0}, "levels=0: "),
        ({"positions": ["relative"]}, r"positions=\['relative'\]: choose one of"),
        *(
            ({"resolution": value}, f"resolution={value!r}: give the cells per channel")
            for value in ("a", None, True, float("nan"))
        ),
        *(({"levels": value}, f"levels={value!r}: give a whole number") for value in (3.0, "3", None, True)),
    ],
)
def test_options_that_mean_nothing_are_refused(options, said):
    with pytest.raises(HypernetworkError, match=said):
        make_grid(**options)
