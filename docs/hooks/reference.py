"""Write the API reference: a page for the package and for each of its rooms that users import from.

The names are those of each `__all__`, so none is listed by hand. A name of the package itself is described on its page
alone; the pages of rooms link to it.
"""

import ast
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = "neumeta_hf"
SOURCE = Path(__file__).parents[2] / "src" / PACKAGE
INTERNAL = ("checkpoints", "cli")
"""Rooms whose names other rooms use, and no user."""


def public_names() -> dict[str, list[str]]:
    """The public names of the package and of its rooms.

    Returns:
        Dotted name of the package or room to its names, the package first.
    """
    rooms = sorted(path.parent for path in SOURCE.glob("*/__init__.py") if path.parent.name not in INTERNAL)
    found = {PACKAGE: _all_of(SOURCE)} | {f"{PACKAGE}.{room.name}": _all_of(room) for room in rooms}
    return {name: names for name, names in found.items() if names}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages into the navigation."""
    assert config.nav is not None
    config.nav[-1] = {"Reference": [{name: _page(name)} for name in public_names()]}
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Write the pages; mkdocstrings fills them."""
    known = public_names()
    module = griffe.load(PACKAGE, search_paths=[SOURCE.parent]).modules_collection
    public = {module[f"{package}.{name}"].canonical_path for package, names in known.items() for name in names}
    for package, names in known.items():
        elsewhere = [name for name in names if package != PACKAGE and name in known[PACKAGE]]
        lines = [f"# {package}", "", _docstring(package), ""]
        if elsewhere:
            links = ", ".join(f"[`{name}`][{PACKAGE}.{name}]" for name in elsewhere)
            lines += [f"Described with the package: {links}.", ""]
        for name in names:
            if name not in elsewhere:
                own = _extends_a_public_class(module[f"{package}.{name}"], public)
                lines += [f"::: {package}.{name}", f"    options: {{inherited_members: {str(not own).lower()}}}", ""]
        files.append(File.generated(config, _page(package), content="\n".join(lines)))
    return files


def _extends_a_public_class(described: griffe.Object | griffe.Alias, public: set[str]) -> bool:
    """Whether a base has its own place in the reference, so that what is inherited need not be told again."""
    return described.is_class and any(base.canonical_path in public for base in described.mro())


def _page(package: str) -> str:
    return f"reference/{package}.md"


def _module(folder: Path) -> ast.Module:
    return ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))


def _docstring(package: str) -> str:
    return ast.get_docstring(_module(SOURCE.parent.joinpath(*package.split(".")))) or ""


def _all_of(folder: Path) -> list[str]:
    for statement in _module(folder).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return ast.literal_eval(statement.value)
    return []
