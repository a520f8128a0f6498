"""Tensors as networks have them, and the form that hypernetworks make."""

import pytest
import torch

from neumeta_hf.axes import Axis, Layout, Segment, Size
from neumeta_hf.errors import TargetError
from neumeta_hf.layouts import from_canonical, to_canonical
from neumeta_hf.rules import make_space

SHAPES = {
    "queries.weight": (24, 8),  # 3 groups of 2 heads of 4 positions
    "out.weight": (8, 24),
    "gates.weight": (8, 10),  # two copies of an axis, one behind the other
    "positions": (1, 5, 8),
    "scale": (1, 1, 1, 8),
    "plain.weight": (8, 3, 2, 2),
}
RULES = {
    "queries": (("heads", 1, 8), "hidden"),
    "out": ("hidden", ("heads", 1, 8)),
    "gates": ("hidden", ["mlp", "mlp"]),
    "positions": (None, None, "hidden"),
    "scale": (None, None, None, "hidden"),
    "plain": ("hidden",),
}
SPACE = make_space([Axis("hidden", 8), Axis("heads", 3), Axis("mlp", 5)], RULES, SHAPES, name="toy")
SIZES = [SPACE.full, SPACE.size_of({"hidden": 5, "heads": 2, "mlp": 3})]


@pytest.mark.parametrize("size", SIZES, ids=["full", "small"])
@pytest.mark.parametrize("name", SHAPES)
def test_there_and_back_is_the_same_tensor(name, size):
    shape = SPACE.shapes(size)[name]
    tensor = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    layout = SPACE.layout(name)
    values = to_canonical(tensor, layout, size)
    assert values.shape == SPACE.canonical_shape(name, size)
    assert torch.equal(from_canonical(values, layout, size), tensor)
    assert sum(SPACE.parts(name, size)[0]) == values.shape[0]


def test_the_first_channels_of_each_part_are_whole_heads():
    """What a hypernetwork that reads first channels makes of a small size is a slice of whole heads."""
    full, small = SIZES
    tensor = torch.randn(SHAPES["queries.weight"])
    layout = SPACE.layout("queries.weight")
    values = to_canonical(tensor, layout, full)
    first = torch.cat([part[: small["heads"]] for part in values.split(full["heads"])])[:, : small["hidden"]]
    assert torch.equal(from_canonical(first, layout, small), tensor[: 8 * small["heads"], : small["hidden"]])


def test_what_sizes_change_comes_first():
    assert SPACE.canonical_shape("positions", SPACE.full) == (8, 1, 5)
    assert SPACE.canonical_shape("scale", SPACE.full) == (8, 1, 1, 1)
    assert SPACE.layout("plain.weight").is_plain
    assert not SPACE.layout("out.weight").is_plain


def test_a_tensor_with_three_dimensions_that_change_is_refused_by_name():
    axes = [Axis(name, 2) for name in "abc"]
    space = make_space(axes, {"cube": ("a", "b", "c")}, {"cube": (2, 2, 2)}, name="toy")
    with pytest.raises(TargetError, match="cube"):
        space.layout("cube")


def test_concatenated_features_with_heads_among_them():
    dims = ((Segment("heads", 4, inner=2), Segment(None, 3)),)
    layout, size = Layout((0,), dims), Size({"heads": 2})
    tensor = torch.arange(7.0)
    assert to_canonical(tensor, layout, size).tolist() == [0, 2, 1, 3, 4, 5, 6]
    assert torch.equal(from_canonical(to_canonical(tensor, layout, size), layout, size), tensor)
