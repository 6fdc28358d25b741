"""The pages for whoever changes himl name what there is: files, modules, abilities, folders of tests, calls."""

from __future__ import annotations

import inspect
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from himl_cli.workspaces import base
from tests.support.documents import DOCS, torn_rows
from tests.support.folders import files_below

ROOT = DOCS.parent
HIML = ROOT / "himl_cli"
HOWTOS = [ROOT / "CONTRIBUTING.md", *sorted((DOCS / "contributing").glob("*.md"))]
DESIGN = [DOCS / "design.md", *sorted((DOCS / "design").glob("*.md"))]
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *sorted(DOCS.rglob("*.md"))]
OUR_ENDINGS = (".py", ".sh", ".lock", ".in", "/")
BASES = [ROOT, DOCS, *(folder for folder in (HIML, *HIML.rglob("*")) if folder.is_dir() and folder.name != "__pycache__")]
"""Folders from which the pages name files: `base.py` is there once, whoever names it."""
IN_JOBS = "himl|cache|venv|build|dist|outputs|logs|user_logs|system_logs|artifacts|runs|code|steps|datastores|recordings|azureml"
NOT_OURS = re.compile(rf"[<>{{}}$*…%: ]|NAME|ID|RUN|KEY|DIGEST|VERSION|^\.?({IN_JOBS})\b")
"""Paths in a workspace, a job or an environment, what a build leaves, and those with a placeholder."""


def named(page: Path) -> list[str]:
    """What the page names in backticks that looks like a file or folder of the checkout."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    words = re.findall(r"`([^`\n]+)`", text)
    return sorted({word for word in words if word.endswith(OUR_ENDINGS) and not NOT_OURS.search(word) and not word.startswith("/")})


def is_there(name: str) -> bool:
    return any((base / name).exists() for base in BASES)


@pytest.mark.parametrize("page", [*HOWTOS, *DESIGN], ids=lambda page: page.name)
def test_files_and_folders_that_a_page_names_are_there(page: Path) -> None:
    assert [name for name in named(page) if not is_there(name)] == []


def test_enough_is_looked_at() -> None:
    found = {name for page in (*HOWTOS, *DESIGN) for name in named(page)}
    assert {"himl_cli/workspaces/base.py", "tests/contract/test_workspace.py", "commands/", "local/controller.py"} <= found
    assert not is_there("workspaces/bases.py")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_row_of_a_table_has_as_many_cells_as_its_head(page: Path) -> None:
    assert torn_rows(page.read_text(encoding="utf-8")) == []


def test_a_torn_row_is_found() -> None:
    head = "| a | b |\n|---|:--|\n"
    assert torn_rows(f"text\n\n{head}| `x\\|y` | z |\n| | |\n\n```text\n| x |\n```\n") == []
    for row in ("| x |", "| x | y | z |", "| `x|y` | z |", "| x | | |"):
        assert torn_rows(f"{head}| x | y |\n{row}\n| v | w |\n") == [row]
    assert torn_rows("| a | b |\n| x | y |\n") == ["| a | b |"]
    assert torn_rows(head.replace("|:--", "")) == ["|---|"]


def test_the_plan_of_the_house_names_every_room() -> None:
    plan = (DOCS / "design.md").read_text(encoding="utf-8").partition("```text\n")[2].partition("```")[0]
    inside, outside = plan.partition("\ntests/")[0], plan.partition("\ntests/")[2]
    rooms = re.findall(r"^  ([\w.]+/?) ", inside, flags=re.MULTILINE)
    there = [f"{path.name}/" if path.is_dir() else path.name for path in HIML.iterdir() if path.name[0] not in "." and path.suffix not in (".pyi", ".typed")]
    assert sorted(rooms) == sorted(set(there) - {"__pycache__/", "__init__.py"})
    files = re.findall(r"\b([\w.]+\.py|\w+/(?:\w+/)?)", inside)
    assert [name for name in files if name != "himl_cli/" and not is_there(name)] == []
    assert [name for name in re.findall(r"^([\w.]+/)", outside, flags=re.MULTILINE) if not (ROOT / name).is_dir()] == []


def module_tables() -> list[tuple[str, Path, list[str]]]:
    """Each table of modules: the page, the folder that its head names, and the names of its first column."""
    found = []
    for page in DESIGN:
        for folder, rows in re.findall(r"^\| module of `([\w/]+)` \|.*\n\|---.*\n((?:\|.*\n)+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
            (place,) = {base / folder for base in BASES if (base / folder).is_dir()}
            names = [name for row in rows.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])]
            found.append((page.name, place, names))
    return found


def test_tables_of_modules_name_modules() -> None:
    assert len(module_tables()) >= 4
    wrong = [(page, name) for page, place, names in module_tables() for name in names if not ((place / f"{name}.py").is_file() or (place / name).is_dir())]
    assert wrong == []


def test_the_levels_are_those_of_the_import_contracts() -> None:
    found = re.search(r"Imports point down these levels only:\n(.*?)\.\n", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert found
    layers = re.search(r'containers = \["himl_cli"\]\nlayers = \[(.*)\]', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert layers
    assert re.findall(r"`([^`]+)`", found[1]) == [re.sub("[()]", "", layer) for layer in re.findall('"([^"]+)"', layers[1])]


def test_backends_page_lists_every_workspace_capability() -> None:
    text = (DOCS / "contributing" / "adding-a-backend.md").read_text(encoding="utf-8").partition("| capability |")[2].partition("\n\n")[0]
    listed = [name for row in text.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    own = [value for value in vars(base).values() if inspect.isclass(value) and value.__module__ == base.__name__]
    assert sorted(listed) == sorted(value.__name__ for value in own if base.Workspace in value.__mro__[1:])


def test_every_folder_of_tests_is_on_the_page_of_testing() -> None:
    text = (DOCS / "contributing" / "testing.md").read_text(encoding="utf-8")
    listed = re.findall(r"`(tests/\w+)`", text.partition("## Where a test goes")[2].partition("\n## ")[0])
    assert sorted(listed) == sorted(f"tests/{path.parent.name}" for path in (ROOT / "tests").glob("*/__init__.py"))


@pytest.mark.parametrize("call", sorted({call for page in HOWTOS for call in re.findall(r"python -m\s+([\w.]+)", page.read_text(encoding="utf-8"))}))
def test_modules_that_are_called_exist(call: str) -> None:
    assert find_spec(call) is not None


def test_scripts_that_are_named_exist_and_contributing_is_short() -> None:
    scripts = {name for page in HOWTOS for name in re.findall(r"(?:scripts|\.ci)/[\w-]+", page.read_text(encoding="utf-8"))}
    assert len(scripts) > 5
    assert [name for name in scripts if not (ROOT / name).is_file()] == []
    lines = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 60
    assert all(len(line) <= 80 for line in lines if not line.startswith("|"))


@cache
def words_of_the_code() -> set[str]:
    folders = ("himl_cli", "tests", "stress", "docs/tools", "scripts", ".ci")
    files = [path for folder in folders for path in files_below(ROOT / folder) if path.suffix in ("", ".py")]
    return {word for path in files if path.name != Path(__file__).name for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("page", HOWTOS, ids=lambda page: page.name)
def test_names_of_code_that_a_page_says_stand_in_the_code(page: Path) -> None:
    said = re.findall(r"`([A-Za-z_]\w*)(?:\(.*?\)|=[^`]*)?`", page.read_text(encoding="utf-8"))
    assert [name for name in said if name not in words_of_the_code() and not find_spec(name)] == []
