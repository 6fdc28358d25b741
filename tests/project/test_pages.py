"""The pages are correct: commands, options, links, files, exit codes, variables, fields, and the checks of doctor."""

from __future__ import annotations

import ast
import inspect
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

import himl_cli
from docs.tools import sizes
from himl_cli import cli, job
from himl_cli.services import doctor
from himl_cli.workspaces.azure.jobs.sdk import load_sdk, silenced
from himl_cli.workspaces.azure.workspace import DOCTOR_CHECKS
from himl_cli.workspaces.local.workspace import CHECK_NAME
from scripts import generate, prose
from stress.plan import PARTS
from tests.support.documents import DOCS, blocks, himl_commands, page, shapes, torn_rows, wrong_with
from tests.support.running import Himl
from tests.support.runs import RecordedRuns

ROOT = DOCS.parent
HIML = ROOT / "himl_cli"
ALL = [
    "README.md",
    "AGENTS.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in DOCS.rglob("*.md")),
]
TOLD_TO_ITSELF = {
    "HIML_SETUP_FAILED",
    "HIML_SETUP_LOG",
    "HIML_SETUP_PYTHON",
    "HIML_RUN_FOLDER",
    "HIML_JOB_FOLDER",
    "HIML_TRACKING_URI",
    "HIML_BROUGHT_DATASETS",
    "HIML_DONE_BEFORE_RANKS",
    "HIML_SUBMIT_EXPERIMENT",
}
"""Internal variables of himl."""
BANNED_TEXTS = [
    "Files that are kept here.",
    "It stands for a run.",
    "A run is told.",
    "Files are brought.",
    "Begin anew.",
    "There is no room.",
    "Nobody reads it.",
    "It prints a row a run.",
    "It is sent as well.",
    "Done. What is missing follows.",
]
FAMILIES = {"HIML_SUBMIT_OPTION", "AZURE_ML_INPUT_KEY", "AZURE_ML_OUTPUT_KEY", "AZUREML_SWEEP_NAME"}
DIRECTIVE = re.compile(r"^\.\. (?:auto(?:function|class|exception)|py:data):: (.*(?:\n {9,}\S.*)*)$", re.MULTILINE)


@cache
def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def modules() -> dict[str, ast.Module]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(HIML.rglob("*.py"))
    }


@cache
def texts() -> set[str]:
    """Every text in himl's sources, including the parts of f-strings."""
    nodes = (node for module in modules().values() for node in ast.walk(module))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def section(text: str, heading: str) -> str:
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize(
    "name", [name for name in ALL if name not in ("CHANGELOG.md", "docs/performance.md", "docs/reliability.md")]
)
def test_commands_and_links_of_a_page_exist(name: str) -> None:
    text = text_of(name)
    commands = {
        command: wrong_with(re.sub(r"[\[\]]", "", command))
        for command in himl_commands(text)
        if not re.search(r"COMMAND|…|^himl --complete", command)
    }
    # The pages of docs/cli are generated.
    assert name.startswith("docs/cli/") or {command: wrong for command, wrong in commands.items() if wrong} == {}
    outside = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    links = [
        link
        for link in re.findall(r"(?<!`)\]\(([^)\s]+)\)", outside) + re.findall(r"(?:src|srcset)=\"([^\"]+)\"", outside)
        if "://" not in link
    ]
    for link in links:
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), f"'{link}' is not there"
        assert not anchor or anchor in anchors(target), link


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub makes from headings."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()).replace(" ", "-")
        for heading in headings
    }


def test_generated_pages_and_lists_of_names_and_pages_are_current() -> None:
    assert wrong_with("himl runs lst") == "there is no command 'himl runs lst'"
    assert wrong_with("himl submit train.py --clustr gpu -- --epochs 5") == "'himl submit' has no --clustr"
    assert torn_rows("| a | b |\n|---|:--|\n| `x\\|y` | z |\n| x |\n| `x|y` | z |\n") == ["| x |", "| `x|y` | z |"]
    assert {name: torn_rows(text_of(name)) for name in ALL if torn_rows(text_of(name))} == {}
    assert generate.stale() == [], generate.AGAIN
    listed = [name.removesuffix("()") for group in DIRECTIVE.findall(page("python-api.md")) for name in group.split()]
    public = [f"himl_cli.{name}" for name in himl_cli.__all__] + [f"himl_cli.cli.{name}" for name in cli.__all__]
    public += [
        f"himl_cli.job.{name}" for name, value in vars(job).items() if not name.startswith("_") and callable(value)
    ]
    assert sorted(listed) == sorted(public)
    named: dict[str, list[str]] = {}
    for path in DOCS.rglob("*.md"):
        parts = re.findall(r"```\{toctree\}\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        names = [line for part in parts for line in part.splitlines() if line and not line.startswith(":")]
        named[path.relative_to(DOCS).as_posix()] = [
            (path.relative_to(DOCS).parent / f"{name}.md").as_posix() for name in names
        ]
    assert sorted(name for names in named.values() for name in names) == sorted(set(named) - {"index.md"})
    assert re.findall(r"(?<!`)\]\(([^)\s#]+)(?:#[^)]*)?\)", page("index.md")) == named["index.md"]
    titles = {name: re.search(r"^# (.*)$", page(name), flags=re.MULTILINE) for name in named["index.md"]}
    assert dict(re.findall(r"^- \[([^]]+)\]\(([^)]+)\)", page("index.md"), flags=re.MULTILINE)) == {
        title[1]: name for name, title in titles.items() if title
    }


@pytest.mark.parametrize("name", ALL)
def test_page_shows_no_directive_of_sphinx_on_a_forge(name: str) -> None:
    shown = re.sub(r"(`+)[^`]+?\1", "", re.sub(r"<!--.*?-->", "", text_of(name), flags=re.DOTALL))
    assert re.findall(r"^\s*(?:`{3,}|:{3,})\{.*|\{\w[\w:-]*\}$", shown, flags=re.MULTILINE) == []


def test_places_of_changes_exist() -> None:
    """Each path in AGENTS.md exists, and each name that it has `NAME` in `PATH` occurs there."""
    text = " ".join(text_of("AGENTS.md").split())
    paths = re.findall(r"`([\w./-]+/[\w./-]*|[\w-]+\.md)`", text)
    assert len(paths) > 30
    assert [path for path in paths if not (ROOT / path).exists()] == []
    named = re.findall(r"`([\w(]+)` (?:\([^)]*\) )?in `([\w./]+\.py)`", text)
    assert len(named) > 20
    assert [(name, path) for name, path in named if not re.search(rf"\b{re.escape(name)}", text_of(path))] == []


def test_each_decision_has_a_number_of_its_own_and_a_date() -> None:
    text = text_of("docs/design/decisions.md")
    numbers = re.findall(r"^\| D-(\d{3}) \| 2\d{3}-\d\d-\d\d (?:\| \S.* ){3}\|$", text, flags=re.MULTILINE)
    assert len(numbers) == text.count("\n| ") - text.count("\n## ")
    assert sorted(map(int, numbers)) == list(range(1, len(numbers) + 1))


def test_readme_is_short_and_names_every_command_and_extra() -> None:
    text = text_of("README.md")
    lines = text.splitlines()
    assert len(lines) <= 146
    assert all(len(line) <= 80 for line in lines if not line.startswith(("|", "  <")))
    first = lines[: lines.index("## Install")]
    assert len(first) <= 44  # one screen
    rows = [re.findall(r"`([^`]+)`", line.split(" | ")[0]) for line in lines if line.startswith("| `himl ")]
    named = {
        command if command.startswith("himl") else f"{row[0].rpartition(' ')[0]} {command}"
        for row in rows
        for command in row
    }
    found = {" ".join(command.split()[:count]) for command in named for count in (2, 3)}
    assert {words for words, shape in shapes().items() if not shape.children} <= found
    extras = re.findall(
        r"^(\w+) = \[",
        text_of("pyproject.toml").partition("[project.optional-dependencies]\n")[2].partition("\n[")[0],
        flags=re.MULTILINE,
    )
    assert [extra for extra in extras if f"`{extra}`" not in text] == []
    assert len(extras) > 3
    limit = re.search(r"^MAX_MEGABYTES=(\d+)", text_of(".ci/wheel"), flags=re.MULTILINE)
    assert limit is not None
    assert re.findall(r"less than (\d+) MB", text) == [limit[1]]
    compared = re.findall(r"([\d.,]+ (?:ms|s|MB))\b", section(text, "How it compares"))
    assert len(compared) == 9
    measured = "".join(section(page("performance.md"), part) for part in ("Start-up", "Moving files", "Montages"))
    assert [figure for figure in compared if f"| {figure} " not in measured] == []


def test_texts_follow_the_standard_for_writing() -> None:
    """The check finds each kind of banned word and passes over code; a page names what is banned."""
    found = [word for text in BANNED_TEXTS for word in prose.banned(text)]
    assert len(found) == len(BANNED_TEXTS), found
    assert [*prose.banned("What is a run? A list is a list, and as well as before `whoever` reads it.")] == [
        "'whoever' (write: a plain noun)"
    ]
    assert list(prose.findings()) == []


def test_first_jobs_and_set_up_name_what_they_need() -> None:
    install = section(text_of("README.md"), "Install")
    (script,) = re.findall(r"^himl submit (\S+)", install, flags=re.MULTILINE)
    (requirements,) = re.findall(r"^pip install \. -r (\S+)", install, flags=re.MULTILINE)
    assert script in text_of(requirements).splitlines()[0]
    assert (ROOT / script).is_file()
    assert install.index("-m venv") < install.index("pip install . ") < install.index("himl submit")
    for name, heading in (("README.md", "With Azure ML"), ("docs/azure-set-up.md", "Configure himl")):
        submitted = re.findall(r"^himl submit .*--cluster .*", section(text_of(name), heading), flags=re.MULTILINE)
        assert submitted
        assert [line for line in submitted if "--requirements " not in line] == []
        assert [
            word
            for word in ("environment.yml", "--requirements FILE", "azureml-mlflow")
            if f"`{word}`" not in section(text_of(name), heading)
        ] == []
    montages = [
        command
        for name in ("montage.md", "cli/montage.md")
        for command in himl_commands(page(name))
        if "himl montage" in command
    ]
    on_clusters = [command for command in montages if "--cluster" in command]
    assert len(on_clusters) > 1
    assert [command for command in on_clusters if "--private_wheel" not in command] == []
    shell = blocks(page("azure-set-up.md"), "sh")
    assigned = dict(re.findall(r"^(\w+)=([\w-]+)", shell[0], flags=re.MULTILINE))
    (datastore,), (mount,) = (
        [yaml.safe_load(block) for block in blocks(page(name), "yaml")] for name in ("azure-set-up.md", "mounting.md")
    )
    assert (datastore["account_name"], datastore["container_name"]) == (assigned["storage"], assigned["container"])
    assert (mount["azstorage"]["account-name"], mount["azstorage"]["container"]) == (
        assigned["storage"],
        assigned["container"],
    )
    assert mount["components"] == ["libfuse", "file_cache", "attr_cache", "azstorage"]
    assert {name for block in shell for name in re.findall(r"\$(\w+)", block)} <= {
        name for block in shell for name in re.findall(r"^(\w+)=", block, re.MULTILINE)
    }


def test_every_variable_and_extra_is_documented() -> None:
    names = {text for text in texts() if re.fullmatch("[A-Z_]+", text)}
    rows = re.findall(
        r"^\| (`.*?) \|",
        page("scripts.md").partition("## Environment variables")[2].partition("\n## ")[0],
        flags=re.MULTILINE,
    )
    documented = {name for row in rows for name in re.findall(r"`([A-Z_]+)", row)}
    assert {
        name for name in names if name.startswith("HIML_") and not name.endswith("_")
    } - TOLD_TO_ITSELF - documented == set()
    named = {name.rpartition("_")[0] + "_" if name in FAMILIES else name for name in documented}
    # libcurl reads HTTPS_PROXY.
    assert named - {"HTTPS_PROXY"} - names == set()
    sized = re.findall(
        r"^\| `himl-cli(?:\[(\w+)\])?` \| ([\d,]+) \| [\d,]* \| [\d,]+ \| [\d,]+ \|$",
        page("sizes.md"),
        flags=re.MULTILINE,
    )
    assert [extra for extra, _ in sized] == ["", *sizes.extras()]
    assert all(int(total.replace(",", "")) > 100 for _, total in sized)


def test_fields_of_a_run_and_an_error_are_those_of_the_page(himl: Himl, project: Path) -> None:
    RecordedRuns(project).add("train_1_aa")
    text = page("scripts.md")
    fields, more = (
        re.findall(r"`([a-z_]+)`", part)
        for part in text.partition("A run has ")[2].partition(".\n\n")[0].split("`himl runs show` adds")
    )
    listed = himl.ok("runs", "list", "--json").json()[0]
    assert list(listed) == fields
    assert set(himl.ok("runs", "show", "train_1_aa", "--json").json()) - set(listed) == set(more) - {
        "name",
        "value",
        "step",
        "count",
        "status",
    }
    (block,) = blocks(text, "json")
    failed = himl("runs", "show", "abc", "--json")
    assert (failed.code, failed.stdout, failed.error_json()) == (3, "", json.loads(block)["error"])


def test_datastore_of_the_set_up_is_one_for_azure_s_own_loader(tmp_path: Path) -> None:
    text = page("azure-set-up.md")
    (block,) = blocks(text, "yaml")
    load_sdk()
    from azure.ai.ml import load_datastore

    for secret in ("account_key", "sas_token"):
        assert f"--set credentials.{secret}=" in text
        (tmp_path / "datastore.yml").write_text(block.replace("account_key:", f"{secret}:"))
        with silenced():
            found: Any = load_datastore(source=tmp_path / "datastore.yml")
        assert (found.type, found.name, found.account_name, found.container_name) == (
            "AzureBlob",
            "datasets",
            "himldata",
            "datasets",
        )
        assert getattr(found.credentials, secret) == "the key"


def test_page_of_doctor_has_every_check_and_quotes_it() -> None:
    """`…` replaces text that varies."""
    headings = re.findall(r"^## (.*)$", page("doctor.md"), flags=re.MULTILINE)
    assert len(headings) > 8
    named = re.findall(r"Check\.\w+\(\s*(?:\"(.+?)\"|([A-Z_]+)),", inspect.getsource(doctor))
    assert set(headings) == {text or getattr(doctor, constant) for text, constant in named} | {
        *DOCTOR_CHECKS,
        CHECK_NAME,
        "slurm",
        "ssh",
    }
    rows = re.findall(r"^\| (`.*?) \| ", page("doctor.md").partition("\n## ")[2], flags=re.MULTILINE)
    quoted = re.findall(r"`([^`]+)`", "\n".join(rows))
    quoted += re.findall(
        r"^\| `([^`]+)` \| [^`|]",
        page("service-principals.md").partition("## Check the sign-in")[2],
        flags=re.MULTILINE,
    )
    assert len(quoted) > 40
    pieces = [piece.strip() for words in quoted for piece in words.split("…") if piece.strip()]
    assert [piece for piece in pieces if not any(piece in text for text in texts())] == []


def test_attacks_name_tests_that_exist_and_all_that_listens() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for path, name in re.findall(r"`([\w/]+\.py)::(\w+)`", text):
        assert f"\ndef {name}(" in (ROOT / "tests" / path).read_text(encoding="utf-8"), f"{path}::{name}"
    named = {name for cell in re.findall(r"stress (`.*?) \|", text) for name in re.findall(r"`(\w+/\w+)`", cell)}
    assert len(named) > 10
    assert named <= {"/".join(case.id.split("/")[:2]) for part in PARTS for case in part.cases()}
    listens = re.compile(r"create_server\(|uvicorn\.run|WerkzeugServer\(|HTTPServer\(|start_server\(")
    sources = {path.relative_to(HIML).as_posix(): path.read_text(encoding="utf-8") for path in HIML.rglob("*.py")}
    found = {name for name, source in sources.items() if listens.search(source)}
    assert found | {"workspaces/remote/agent.py"} == set(re.findall(r"\| `([\w/]+\.py)` \|", text))
