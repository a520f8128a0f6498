"""What a target family says of the axes of a network, by name."""


def num_channels(family, config):
    """Axis to count."""
    return {axis.name: axis.full for axis in family.axes(config)}


def parents_of(family, config):
    """Axis to the axis that it follows."""
    return {axis.name: axis.parent for axis in family.axes(config) if axis.parent is not None}


def multiples(family, config):
    """Axis to what its counts are multiples of, where not any number will do."""
    return {axis.name: axis.step for axis in family.axes(config) if axis.step > 1}


def with_num_channels(family, config, counts):
    """The config of other counts."""
    return family.config_at(config, family.space(config).exactly(counts))


def axis_parts(family, config):
    """Tensors with an axis of several parts, to the parts of their output and input axis."""
    space = family.space(config)
    found = {name: space.parts(name, space.full) for name, dims in space.tensors.items() if dims}
    return {name: parts for name, parts in found.items() if max(map(len, parts)) > 1}
