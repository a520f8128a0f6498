"""What comes with the package beside its code: recipes and guides, of a checkout or of an installed package."""

import itertools
from pathlib import Path

from neumeta_hf.errors import RecipeError

_PACKAGE = Path(__file__).parent
_CHECKOUT = _PACKAGE.parents[1]
"""Where an editable install has them; a wheel has copies beside the code (setup.py)."""

_GUIDES = ("hub", "new_hypernetwork", "new_target", "new_task", "security")


def recipes() -> dict[str, Path]:
    """The recipes that come with the package.

    Returns:
        Name to file, in alphabetical order.
    """
    return {path.stem: path for path in sorted(_folder("recipes", "examples/recipes").glob("*.yaml"))}


def guides() -> dict[str, Path]:
    """The guides that come with the package.

    Returns:
        Name to file, in alphabetical order.
    """
    folder = _folder("guides", "docs")
    return {name: path for name in _GUIDES if (path := folder / f"{name}.md").is_file()}


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
    """The file of a recipe, or the recipe of that name that comes with the package where there is no such file.

    Args:
        name: A path, or one of `recipes()`.

    Returns:
        The path; the one given where neither is there.
    """
    known = recipes()
    return Path(name) if Path(name).is_file() or name not in known else known[name]


def title_of(path: Path) -> str:
    """The first sentence of a recipe's header, or the title of a guide.

    Args:
        path: One of `recipes()` or `guides()`.

    Returns:
        One line.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    header = " ".join(line.lstrip("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), lines))
    return header.partition(". ")[0].rstrip(".")


def _folder(packaged: str, in_checkout: str) -> Path:
    folder = _PACKAGE / packaged
    return folder if folder.is_dir() else _CHECKOUT / in_checkout
