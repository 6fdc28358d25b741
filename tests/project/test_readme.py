"""The README and the guides say what is so: commands, options, links, figures, exit codes, variables and fields."""

from __future__ import annotations

import ast
import json
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import typer.main

from himl_cli.app import app
from himl_cli.commands.completion import app_shape
from himl_cli.core.command_shape import CommandShape
from tests.support.running import Himl
from tests.support.runs import RecordedRuns

ROOT = Path(__file__).parents[2]
GUIDES = ("azure", "submit", "many-runs", "pipelines", "preemption", "checkpoints", "tensorboard", "montage")
OURS = ("README.md", "docs/tutorial.md", "docs/scripts.md")
"""Pages of which every command is looked at, those in their sentences too; of the guides, those in blocks and tables."""
OWN_VARIABLES = {"HIML_RUN_FOLDER", "HIML_BROUGHT_DATASETS", "HIML_DONE_BEFORE_RANKS"}
"""With which parts of himl tell each other something: not for users."""
SCREEN = 44
"""Lines of the README's first screen."""


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def shapes() -> dict[str, CommandShape]:
    """Every command and group by its words."""
    return {shape.words: shape for shape in app_shape(typer.main.get_command(app)).walk()}


def spelled_out(text: str) -> str:
    """*text* with the whole commands where a table's first column has `himl runs list`, `show`, `logs`."""
    return re.sub(r"^\| `(himl (?:\w+ )?)\w+`((?:, `\w+`)+) \|", lambda found: re.sub(r"(?<=, )`", f"`{found[1]}", found[0]), text, flags=re.MULTILINE)


def shown_in(text: str, *, with_sentences: bool) -> set[str]:
    """Every `himl …` of a block, a table's first column or, *with_sentences*, anywhere; arguments of scripts and what a pipe goes to are cut off."""
    blocks = "\n".join(re.findall(r"```\w+\n(.*?)```", text, flags=re.DOTALL)).replace("\\\n", " ")
    shown = re.findall(r"(?:^|\$ |&& |\$\()(himl (?:'[^'\n]*'|[^\n#)'])*)", blocks, flags=re.MULTILINE)
    listed = re.findall(r"`(himl\s[^`]*)`" if with_sentences else r"^\| `(himl [^`]*)`", spelled_out(text), flags=re.MULTILINE)
    return {re.split(r" -- | --$| \| | > ", " ".join(command.split()))[0] for command in (*shown, *listed)}


def commands() -> list[str]:
    found = set().union(*(shown_in(text_of(name), with_sentences=True) for name in OURS))
    found |= set().union(*(shown_in(text_of(f"docs/{name}.md"), with_sentences=False) for name in GUIDES))
    return sorted(found - {"himl COMMAND --help"})


def shape_of(command: str) -> CommandShape:
    """The longest command that the words of *command* begin with."""
    words = shlex.split(command.replace("[", "").replace("]", ""))
    return next(shapes()[" ".join(words[:count])] for count in (3, 2, 1) if " ".join(words[:count]) in shapes())


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_pages_exists_with_its_options(command: str) -> None:
    shape = shape_of(command)
    words = shlex.split(command.replace("[", "").replace("]", ""))
    assert not shape.children or words == list(shape.path) or words[len(shape.path)].startswith("-"), f"no such command below '{shape.words}'"
    known = {"--help", "--version", *(name for option in shape.options for name in (*option.names, *option.off_names))}
    assert [word for word in words if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known] == []


def test_the_readme_s_table_names_every_command() -> None:
    table = "\n".join(line for line in text_of("README.md").splitlines() if line.startswith("| `himl "))
    named = {shape_of(command).words for command in shown_in(table, with_sentences=True)}
    assert named >= {words for words, shape in shapes().items() if not shape.children}


def test_readme_is_short_and_first_screen_has_key_parts_in_order() -> None:
    lines = text_of("README.md").splitlines()
    assert len(lines) <= 125
    assert all(len(line) <= 80 for line in lines if not line.startswith(("|", "  <")))
    first = lines[: lines.index("## Install")]
    assert len(first) <= SCREEN
    story = (
        "himl submit train.py  ",
        "himl submit train.py --cluster gpu  ",
        "terminal-dark.svg",
        "terminal-light.svg",
        "| `himl submit SCRIPT` |",
        "#where-azure",
        "#install",
    )
    at = ["\n".join(first).find(part) for part in story]
    assert -1 not in at
    assert at == sorted(at)


def section(name: str, heading: str) -> str:
    return text_of(name).partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def test_first_readme_job_needs_only_the_checkout() -> None:
    install = section("README.md", "Install")
    (script,) = re.findall(r"^himl submit (\S+)", install, flags=re.MULTILINE)
    (requirements,) = re.findall(r"^pip install \. -r (\S+)", install, flags=re.MULTILINE)
    assert (ROOT / script).is_file()
    assert script in (ROOT / requirements).read_text(encoding="utf-8").splitlines()[0]
    assert install.index("-m venv") < install.index("pip install . ") < install.index("himl submit")


def test_a_job_on_a_cluster_says_its_packages() -> None:
    """The README's project has no environment.yml, nor has that of the page of the set up."""
    for name, heading in (("README.md", "Where Azure comes in"), ("docs/azure-set-up.md", "Telling himl")):
        submitted = re.findall(r"^himl submit .*--cluster .*", section(name, heading), flags=re.MULTILINE)
        assert submitted
        assert [line for line in submitted if "--requirements " not in line] == []
        assert [word for word in ("environment.yml", "--requirements FILE", "azureml-mlflow") if f"`{word}`" not in section(name, heading)] == []


def test_the_readme_says_where_the_web_pages_are() -> None:
    folder = re.findall(r"sphinx .* docs (\S+)$", text_of("scripts/docs"), flags=re.MULTILINE)
    assert re.findall(r"`scripts/docs` builds them, and `([\w/]+)/index.html`", text_of("README.md")) == folder


def slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()).replace(" ", "-")


def links(name: str) -> list[str]:
    text = re.sub(r"```.*?```", "", text_of(name), flags=re.DOTALL)
    found = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|srcset)=\"([^\"]+)\"", text)
    return [link for link in found if "://" not in link]


@pytest.mark.parametrize("name", OURS)
def test_links_lead_somewhere(name: str) -> None:
    assert links(name)
    for link in links(name):
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.is_file(), f"{name}: '{link}' is not there"
        if anchor:
            assert anchor in {slug(heading) for heading in re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE)}, link


def test_the_readme_promises_the_size_that_is_checked() -> None:
    limit = re.search(r"^MAX_MEGABYTES=(\d+)", text_of(".ci/wheel"), flags=re.MULTILINE)
    assert limit is not None
    assert re.findall(r"(\d+) MB", text_of("README.md")) == [limit[1]]


def test_pages_name_the_pythons_that_the_package_is_for() -> None:
    project = text_of("pyproject.toml")
    least = re.search(r'requires-python = ">=([\d.]+)"', project)
    assert least is not None
    for name in ("README.md", "docs/tutorial.md"):
        (first, last) = re.findall(r"Python (3\.\d+)\s+to\s+(3\.\d+)", text_of(name))[0]
        assert first == least[1]
        assert f"Python :: {last}" in project


def test_the_readme_names_every_extra() -> None:
    section = text_of("pyproject.toml").partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    extras = re.findall(r"^(\w+) = \[", section, flags=re.MULTILINE)
    assert len(extras) > 3
    assert [extra for extra in extras if f"`{extra}`" not in text_of("README.md")] == []


@cache
def sources() -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted((ROOT / "himl_cli").rglob("*.py"))]


def kinds_of_errors() -> dict[str, int]:
    """The `code` of every kind of HimlError with its exit code, as their classes say it."""
    modules = [ast.parse(source) for source in sources() if re.search(r'^    code = "', source, flags=re.MULTILINE)]
    classes = {node.name: node for module in modules for node in module.body if isinstance(node, ast.ClassDef)}
    found: dict[str, int] = {}
    for name, node in classes.items():
        line = [name]
        while (base := next((base.id for base in classes[line[-1]].bases if isinstance(base, ast.Name) and base.id in classes), None)) is not None:
            line.append(base)
        if line[-1] == "HimlError" and isinstance(code := _own(node, "code"), str):
            found[code] = next(value for each in line if isinstance(value := _own(classes[each], "exit_code"), int))
    return found


def _own(node: ast.ClassDef, name: str) -> object:
    """The constant that the class body binds to *name*; None where it does not."""
    for statement in node.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name) and statement.targets[0].id == name:
            assert isinstance(statement.value, ast.Constant)
            return statement.value.value
    return None


def test_the_table_of_exit_codes_is_that_of_the_errors() -> None:
    rows = re.findall(r"^\| (\d+) \|[^|]*\|([^|]*)\|$", text_of("docs/scripts.md"), flags=re.MULTILINE)
    documented = {code: int(number) for number, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    assert len(documented) > 10
    assert documented == kinds_of_errors()
    assert {int(number) for number, _ in rows} == {0, *kinds_of_errors().values()}


def test_every_variable_is_documented_and_read() -> None:
    texts = set(re.findall(r'"([A-Z_]+)"', "\n".join(sources())))
    section = text_of("docs/scripts.md").partition("## Environment variables")[2].partition("\n## ")[0]
    documented = {name for row in re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE) for name in re.findall(r"`([A-Z_]+)", row)}
    read = {text for text in texts if text.startswith("HIML_") and not text.endswith("_")} - OWN_VARIABLES - {"HIML_SUBMIT_EXPERIMENT"}
    assert read - documented == set()
    families = {"HIML_SUBMIT_OPTION", "AZURE_ML_INPUT_KEY", "AZURE_ML_OUTPUT_KEY", "AZUREML_SWEEP_NAME"}
    named = {name.rpartition("_")[0] + "_" if name in families else name for name in documented}
    by_others = {"HTTPS_PROXY"}  # libcurl reads it
    assert named - by_others - texts == set()


def test_the_fields_of_a_run_and_an_error_are_those_of_the_page(himl: Himl, project: Path) -> None:
    RecordedRuns(project).add("train_1_aa")
    page = text_of("docs/scripts.md")
    sentences = page.partition("A run has ")[2].partition(".\n\n")[0]
    fields, more = (re.findall(r"`([a-z_]+)`", part) for part in sentences.split("`himl runs show` adds"))
    listed = himl.ok("runs", "list", "--json").json()[0]
    assert list(listed) == fields
    shown = set(himl.ok("runs", "show", "train_1_aa", "--json").json())
    assert shown - set(listed) == set(more) - {"name", "value", "step", "count", "status"}
    (block,) = re.findall(r"```json\n(.*?)```", page, flags=re.DOTALL)
    failed = himl("runs", "show", "abc", "--json")
    assert (failed.code, failed.stdout, failed.error_json()) == (3, "", json.loads(block)["error"])
