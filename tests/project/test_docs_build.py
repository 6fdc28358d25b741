"""The documentation as Sphinx builds it: where its links lead, that nothing is fetched, what fails."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import lacking

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A checkout with the project's own settings for Sphinx, two pages, and files that they link to."""
    if any(find_spec(name) is None for name in ("sphinx", "myst_parser", "furo")):
        lacking("the packages of the group docs, which scripts/docs installs")
    files = {
        "docs/index.md": '# First\n\n"--" [x](reading.md#a-part)\n\n```{toctree}\nreading\nexamples/one\n```\n',
        "docs/reading.md": (
            "# Reading\n\n## A part\n\n[page](../examples/one/README.md) [part](../examples/one/README.md#one)\n"
            "[raw](../raw.jsonl) [text](../CONTRIBUTING.md)\n\n"
            "```{include} ../bench/README.md\n:relative-docs: ../docs/\n```\n"
        ),
        "docs/examples/one.md": "# One\n\n[back](../reading.md) [twice](../../examples/one/README.md)\n",
        "examples/one/README.md": "# One\n",
        "bench/README.md": "See [here](../docs/index.md), [beside](beside.py).\n",
        "bench/beside.py": "",
        "raw.jsonl": "{}",
        "CONTRIBUTING.md": "# Contributing\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    shutil.copyfile(DOCS / "conf.py", tmp_path / "docs" / "conf.py")
    shutil.copytree(DOCS / "_static", tmp_path / "docs" / "_static")
    return tmp_path


def build(checkout: Path) -> subprocess.CompletedProcess[str]:
    """Sphinx as scripts/docs calls it, without the network."""
    blocked = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", "html"]
    return subprocess.run(command, cwd=checkout, env={**_environment(), **blocked}, capture_output=True, text=True, timeout=100)


def test_links_lead_to_pages_or_downloads_and_nothing_is_fetched(small: Path) -> None:
    done = build(small)
    assert (done.returncode, done.stderr) == (0, "")
    reading = (small / "html" / "reading.html").read_text(encoding="utf-8")
    links = {text: target for target, text in re.findall(r'<a class="reference[^>]* href="([^"]*)"[^>]*>(?:<[^>]*>)*(\w+)<', reading)}
    assert (links["page"], links["part"], links["here"]) == ("examples/one.html", "examples/one.html#one", "index.html")
    assert re.fullmatch(r"_downloads/\w+/raw\.jsonl", links["raw"])
    assert not {"text", "beside"} & set(links)
    assert "text" in reading
    assert "beside" in reading
    asked = [found for page in (small / "html").rglob("*.html") for found in _outside(page.read_text(encoding="utf-8"))]
    styles = [path.read_text(encoding="utf-8") for path in (small / "html").rglob("*.css")]
    asked += [found for style in styles for found in re.findall(r"url\(\s*[\"']?(?:https?:)?//[^)]*|@import[^;]*//[^;]*", style)]
    assert asked == []


def test_a_link_to_what_is_not_there_fails_the_build(small: Path) -> None:
    (small / "docs" / "reading.md").write_text("# Reading\n\n## A part\n\n[x](../examples/two/README.md)\n", encoding="utf-8")
    done = build(small)
    assert done.returncode != 0
    assert "examples/two/README" in done.stderr


def _outside(page: str) -> list[str]:
    """What a browser would fetch from elsewhere to show *page*."""
    return re.findall(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"(?:https?:)?//[^\"]*|<link[^>]*\shref=\"(?:https?:)?//[^\"]*", page)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
