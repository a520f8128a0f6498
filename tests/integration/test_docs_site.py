"""The site of `make docs`: it builds without a warning, and every public name and guide is on it."""

import html
import importlib
import json
import re
import subprocess
import sys

import pytest
from documents import DOCS, ROOT

ROOMS = ("data", "evaluation", "hub", "hypernetworks", "preparation", "targets", "tasks", "training")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages that one strict build writes; a warning fails it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    build = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert build.returncode == 0, build.stderr
    return folder


@pytest.mark.parametrize("package", ["neumeta_hf", *(f"neumeta_hf.{room}" for room in ROOMS)])
def test_the_reference_describes_every_public_name(site, package):
    pages = "".join((site / "reference" / f"{name}.html").read_text() for name in ("neumeta_hf", package))
    described = set(re.findall(r'<h2 id="(neumeta_hf[\w.]*)"', pages))
    names = importlib.import_module(package).__all__
    assert {name for name in names if not {f"{package}.{name}", f"neumeta_hf.{name}"} & described} == set()


def test_every_guide_and_result_has_its_page(site):
    assert {name for name in DOCS if not (site / f"{name}.html").is_file()} == set()
    page = html.unescape((site / "results.html").read_text())
    for path in (ROOT / "docs" / "results").glob("*.json"):
        facts = json.loads(path.read_text())["facts"]
        section = page.partition(f'<h2 id="{path.stem}"')[2].partition("<h2 ")[0]
        assert facts["date"] in section, path
        assert facts["versions"]["torch"] in section
        assert "<table>" in section


def test_nothing_on_the_site_is_fetched_from_elsewhere(site):
    loaded = re.compile(
        r'<(?:script|img|iframe)[^>]*\ssrc="(?:https?:)?//|<link[^>]*rel="stylesheet"[^>]*href="(?:https?:)?//'
    )
    assert [page for page in site.rglob("*.html") if loaded.search(page.read_text())] == []
