"""What `make test-lowest` installs is what pyproject.toml promises to work with."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def bounds(requirements, operator):
    """Name to version, of requirements with one bound of a kind."""
    found = {}
    for requirement in map(Requirement, requirements):
        versions = [Version(part.version) for part in requirement.specifier if part.operator == operator]
        if versions:
            (found[canonicalize_name(requirement.name)],) = versions
    return found


def constraints(name):
    lines = (ROOT / name).read_text().splitlines()
    return bounds([line for line in lines if line and not line.startswith("#")], "==")


def test_each_dependency_is_constrained_to_its_lower_bound():
    lowest, pinned = bounds(PROJECT["dependencies"], ">="), constraints("constraints.txt")
    assert len(lowest) == len(PROJECT["dependencies"]), "each dependency has a lower bound"
    testing = bounds(PROJECT["optional-dependencies"]["dev"], "==")
    expected = {**lowest, **pinned, **{name: testing[name] for name in ("pytest", "pytest-xdist")}}
    assert constraints("constraints-lowest.txt") == expected
    assert all(pinned[name] >= lowest[name] for name in pinned)
