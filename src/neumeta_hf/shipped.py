"""What comes with the package beside its code: recipes, guides, the page and trained families, as in a checkout."""

import difflib
import importlib.metadata
import importlib.resources
import itertools
from pathlib import Path

from neumeta_hf.errors import RecipeError

_CHECKOUT = Path(__file__).parents[2]
"""Where an editable install reads them; a wheel puts copies under `share` of the environment."""

_GUIDES = (
    "explanation",
    "glossary",
    "guide_deploy",
    "guide_engines",
    "guide_engines_text",
    "guide_hypernetworks",
    "guide_own_network",
    "guide_results",
    "guide_scaling",
    "guide_sizes",
    "guide_space",
    "guide_training",
    "hub",
    "layout",
    "new_hypernetwork",
    "new_target",
    "new_task",
    "security",
)


def recipes() -> dict[str, Path]:
    """List the recipes that come with the package.

    Returns:
        Name to file, in alphabetical order.
    """
    return {path.stem: path for path in _files("recipes", "examples/recipes", ".yaml")}


def guides() -> dict[str, Path]:
    """List the guides that come with the package.

    Returns:
        Name to file, in alphabetical order.
    """
    found = {path.stem: path for path in _files("guides", "docs", ".md")}
    return {name: found[name] for name in _GUIDES if name in found}


def space_files() -> list[Path]:
    """The files of the page of a family, which come with the package.

    Returns:
        Files of one folder; none in a copy of the code alone.
    """
    return [
        path for suffix in (".py", ".css", ".js", ".md", ".txt") for path in _files("space", "examples/space", suffix)
    ]


def examples() -> dict[str, Path]:
    """List the trained families that come with the package.

    Returns:
        Name to folder, in alphabetical order.
    """
    folder = Path(str(importlib.resources.files("neumeta_hf") / "example_families"))
    return {path.name: path for path in sorted(folder.glob("*/")) if (path / "config.json").is_file()}


def example(name: str) -> Path:
    """Find a small trained family that comes with the package, to start from without training.

    `NeuMetaModel.from_pretrained(neumeta_hf.example("digits-lenet"))` loads one, without a network.

    Args:
        name: Such as "digits-lenet": LeNets for scikit-learn's 8x8 digits.

    Returns:
        Its folder.

    Raises:
        RecipeError: There is none of this name; the message lists what there is.
    """
    return find_shipped("example", name, examples())


def find_shipped(kind: str, name: str, known: dict[str, Path]) -> Path:
    """Find one of them by its name.

    Args:
        kind: Such as "recipe", for the error.
        name: As `known` has it; its suffix may stand behind it.
        known: Name to file.

    Returns:
        The file.

    Raises:
        RecipeError: There is none of this name.
    """
    found = {key: path for key, path in known.items() if name in (key, path.name)}
    if not found:
        raise RecipeError(f"there is no {kind} {name!r}: choose one of {', '.join(known) or 'none, as none is here'}.")
    return next(iter(found.values()))


def find_recipe(name: str) -> Path:
    """Find the file of a recipe; where there is no such file, the recipe of that name that comes with the package.

    Args:
        name: A path, or one of `recipes()`.

    Returns:
        The path.

    Raises:
        RecipeError: There is neither; the message names the nearest recipe of the package.
    """
    if Path(name).is_file():
        return Path(name)
    known = recipes()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        advice = f"did you mean {close[0]}? " if close else ""
        raise RecipeError(
            f"{name} is neither a file nor a recipe of the package: {advice}`neumeta recipes` lists them."
        )
    return known[name]


def title_of(path: Path) -> str:
    """Read the first sentence of a recipe's header, or the title of a guide.

    Args:
        path: One of `recipes()` or `guides()`.

    Returns:
        One line.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    header = " ".join(line.lstrip("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), lines))
    return header.partition(". ")[0].rstrip(".")


def _files(shipped: str, in_checkout: str, suffix: str) -> list[Path]:
    if (_CHECKOUT / "pyproject.toml").is_file():
        return sorted((_CHECKOUT / in_checkout).glob(f"*{suffix}"))
    try:
        files = importlib.metadata.files("neumeta_hf") or []
    except importlib.metadata.PackageNotFoundError:  # code that somebody copied
        return []
    ours = [file for file in files if file.suffix == suffix and file.parts[-4:-1] == ("share", "neumeta_hf", shipped)]
    return sorted(path for file in ours if (path := Path(str(file.locate()))).is_file())
