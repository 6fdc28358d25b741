"""The documentation is whole: pages made from the code are as the code is, every page is found from the first one, links lead somewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import himl_cli
from docs.tools import cli_pages
from himl_cli import cli, job
from tests.conftest import lacking

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
DIRECTIVE = re.compile(r"^\.\. (?:auto(?:function|class|exception)|py:data):: (.*(?:\n {9,}\S.*)*)$", re.MULTILINE)
LINK = re.compile(r"(?<!`)\]\(([^)\s#]+)(?:#[^)]*)?\)")


def toctree(page: str) -> list[str]:
    """The pages that the toctrees of *page* name, as paths below docs/."""
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```\{toctree\}\n(.*?)```", text, flags=re.DOTALL)
    names = [line for block in blocks for line in block.splitlines() if line and not line.startswith(":")]
    return [(Path(page).parent / f"{name}.md").as_posix() for name in names]


def test_the_python_reference_has_every_public_name_once() -> None:
    text = (DOCS / "python-api.md").read_text(encoding="utf-8")
    listed = [name.removesuffix("()") for group in DIRECTIVE.findall(text) for name in group.split()]
    public = [f"himl_cli.{name}" for name in himl_cli.__all__]
    public += [f"himl_cli.job.{name}" for name, value in vars(job).items() if not name.startswith("_") and callable(value)]
    public += [f"himl_cli.cli.{name}" for name in cli.__all__]
    assert sorted(listed) == sorted(public)


def test_every_page_is_in_one_toctree_and_nothing_else_is() -> None:
    named = [page for parent in PAGES for page in toctree(parent)]
    assert sorted(named) == [page for page in PAGES if page != "index.md"]


def test_the_first_page_links_to_what_its_toctrees_name() -> None:
    linked = LINK.findall((DOCS / "index.md").read_text(encoding="utf-8"))
    assert linked == toctree("index.md")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_that_are_there(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    links = [link for link in LINK.findall(text) if "://" not in link]
    assert [link for link in links if not (DOCS / page).parent.joinpath(link).exists()] == []


def test_the_pages_of_commands_are_as_the_commands_are() -> None:
    assert cli_pages.stale(cli_pages.FOLDER) == []


def test_a_page_that_is_changed_missing_or_left_over_is_told_and_mended(tmp_path: Path) -> None:
    folder = tmp_path / "cli"
    cli_pages.write(folder)
    assert cli_pages.stale(folder) == []
    (folder / "tb.md").write_text("changed", encoding="utf-8")
    (folder / "runs-list.md").unlink()
    (folder / "gone.md").write_text("left over", encoding="utf-8")
    assert cli_pages.stale(folder) == ["gone.md", "runs-list.md", "tb.md"]
    cli_pages.write(folder)
    assert cli_pages.stale(folder) == []


@pytest.mark.parametrize(
    ("words", "markdown"),
    [
        ("The last 20, unless --num_runs says otherwise.", "The last 20, unless `--num_runs` says otherwise."),
        ("Files, e.g. '**/*.tiff' (default: all slides).", "Files, e.g. '`**/*.tiff`' (default: all slides)."),
        ("random(seed=7) or bayesian (-q).", "`random(seed=7)` or bayesian (`-q`)."),
        ("[KEY=]NAME[:VERSION][,OPTION=...].\n\nstand after --.", "`[KEY=]NAME[:VERSION][,OPTION=...]`.\n\nstand after `--`."),
    ],
)
def test_words_of_help_that_would_be_markup_are_code(words: str, markdown: str) -> None:
    assert cli_pages.prose(words) == markdown


def test_a_bar_in_a_cell_ends_no_cell() -> None:
    assert cli_pages.table(("a",), [("x|y",)]) == "| a |\n| --- |\n| x\\|y |"


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


def test_links_out_of_docs_lead_to_pages_and_downloads_and_nothing_is_fetched(small: Path) -> None:
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
