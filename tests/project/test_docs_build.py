"""The Sphinx build of the documentation: its links, its failures, and that pages load nothing from other hosts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from tests.conftest import lacking
from tests.support.running import write_files

ROOT = Path(__file__).parents[2]
PAGES = {
    "docs/index.md": (
        '# First\n\n"--" [x](reading.md#a-part)\n\n## Begin\n\n- [Reading](reading.md): what to\n  read\n\n'
        "<!-- sphinx\n```{toctree}\nreading\nexamples/one\ndesign\n```\n-->\n"
    ),
    "docs/reading.md": (
        "# Reading\n\n## A part\n\n"
        "[page](../examples/one/README.md) [part](../examples/one/README.md#one)\n"
        "[raw](../raw.jsonl) [text](../CONTRIBUTING.md)\n\n"
        "```{include} ../bench/README.md\n:relative-docs: ../docs/\n```\n"
    ),
    "docs/design.md": "# Reasons\n",
    "docs/examples/one.md": "# One\n\n[back](../reading.md) [twice](../../examples/one/README.md)\n",
    "examples/one/README.md": "# One\n",
    "bench/README.md": "See [here](../docs/index.md), [beside](beside.py).\n",
    "bench/beside.py": "",
    "raw.jsonl": "{}",
    "CONTRIBUTING.md": "# Contributing\n",
}
OUTSIDE = r"<(?:script|img|iframe|source)[^>]*\ssrc=\"(?:https?:)?//[^\"]*|<link[^>]*\shref=\"(?:https?:)?//[^\"]*"
"""Resources that a browser would fetch from other hosts to show a page."""


def build(checkout: Path) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
    blocked = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", "html"]
    return subprocess.run(command, cwd=checkout, env={**own, **blocked}, capture_output=True, text=True, timeout=100)


def test_links_lead_to_pages_or_downloads_and_nothing_is_fetched(tmp_path: Path) -> None:
    if any(find_spec(name) is None for name in ("sphinx", "myst_parser", "furo")):
        lacking("the packages of the group docs, which scripts/docs installs")
    write_files(tmp_path, PAGES)
    shutil.copyfile(ROOT / "docs" / "conf.py", tmp_path / "docs" / "conf.py")
    shutil.copytree(ROOT / "docs" / "_static", tmp_path / "docs" / "_static")
    done = build(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    reading = (tmp_path / "html" / "reading.html").read_text(encoding="utf-8")
    links = {
        text: target
        for target, text in re.findall(r'<a class="reference[^>]* href="([^"]*)"[^>]*>(?:<[^>]*>)*(\w+)<', reading)
    }
    assert (links["page"], links["part"], links["here"]) == ("examples/one.html", "examples/one.html#one", "index.html")
    assert re.fullmatch(r"_downloads/\w+/raw\.jsonl", links["raw"])
    assert not {"text", "beside"} & set(links)
    assert "text" in reading
    assert "beside" in reading
    assert [
        found
        for path in (tmp_path / "html").rglob("*.html")
        for found in re.findall(OUTSIDE, path.read_text(encoding="utf-8"))
    ] == []
    styles = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "html").rglob("*.css"))
    assert re.findall(r"url\(\s*[\"']?(?:https?:)?//[^)]*|@import[^;]*//[^;]*", styles) == []
    index = (tmp_path / "html" / "searchindex.js").read_text(encoding="utf-8")
    assert ('"Reading"' in index, '"Reasons"' in index) == (True, False)
    llms = (tmp_path / "html" / "llms.txt").read_text(encoding="utf-8")
    assert llms.startswith("# himl\n\n> Train on this machine")
    assert (
        "\n## Begin\n\n- [Reading](reading.html): what to read\n\n## Command reference\n\n"
        "- [himl submit](cli/submit.html): Run " in llms
    )
    (tmp_path / "docs" / "reading.md").write_text(
        "# Reading\n\n## A part\n\n[x](../examples/two/README.md)\n", encoding="utf-8"
    )
    done = build(tmp_path)
    assert done.returncode != 0
    assert "examples/two/README" in done.stderr
