"""Put README and the examples on the site, and let links that leave docs/ lead to their pages.

In the repository, README links to `docs/...`, and guides link to `../examples/...`. On the site README is the first
page, and each example is a page that shows its code.
"""

import ast
import posixpath
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
LANGUAGES = {".py": "python", ".yaml": "yaml"}
_CODE = re.compile(r"(^```.*?^```)", flags=re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add README, the examples and a list of them."""
    files.append(File.generated(config, "index.md", content=(ROOT / "README.md").read_text(encoding="utf-8")))
    paths = sorted(path for path in EXAMPLES.rglob("*") if path.suffix in LANGUAGES)
    for path in paths:
        files.append(File.generated(config, page_of(path), content=_show(path)))
    for folder in sorted({parent for path in paths for parent in path.parents if parent.is_relative_to(EXAMPLES)}):
        inside = [path for path in paths if path.is_relative_to(folder)]
        files.append(File.generated(config, page_of(folder), content=_list(folder, inside)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links to their pages; code is left alone."""
    source = PurePosixPath("README.md" if page.file.src_uri == "index.md" else f"docs/{page.file.src_uri}")
    parts = _CODE.split(markdown)
    parts[::2] = [
        _LINK.sub(lambda found: f"{found[1]}{_rewrite(found[2], source, page)}{found[3]}", part) for part in parts[::2]
    ]
    return "".join(parts)


def page_of(path: Path) -> str:
    """The page that shows a file or lists a folder of the repository."""
    name = path.relative_to(ROOT).as_posix()
    return f"{name}/index.md" if path.is_dir() else f"{name}.md"


def _rewrite(link: str, source: PurePosixPath, page: Page) -> str:
    target = ROOT / posixpath.normpath((source.parent / link).as_posix())
    if ":" in link or not target.exists():
        return link
    inside = target.is_relative_to(ROOT / "docs")
    name = target.relative_to(ROOT / "docs").as_posix() if inside else page_of(target)
    return posixpath.relpath(name, posixpath.dirname(page.file.src_uri) or ".")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _show(path: Path) -> str:
    code = f"```{LANGUAGES[path.suffix]}\n{path.read_text(encoding='utf-8')}```\n"
    return f"---\nsearch: {{exclude: true}}\n---\n\n# {_name(path)}\n\n{code}"


def _list(folder: Path, paths: list[Path]) -> str:
    lines = [f"# {_name(folder)}", "", "| file | what it is |", "|---|---|"]
    for path in paths:
        link = posixpath.relpath(page_of(path), posixpath.dirname(page_of(folder)))
        lines.append(f"| [{path.relative_to(folder).as_posix()}]({link}) | {_first_sentence(path)} |")
    return "\n".join([*lines, ""])


def _first_sentence(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        header = ast.get_docstring(ast.parse(text)) or ""
    else:
        header = re.sub("^# ?", "", re.match(r"(?:#.*\n)*", text)[0], flags=re.MULTILINE)
    sentence = re.split(r"\n\n|:\n {4}|\. ", header.replace(".\n", ". "))[0]
    return " ".join(sentence.split()).rstrip(".:").replace("|", "\\|")
