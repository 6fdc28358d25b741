"""docs/migration.md names all features of hi-ml, InnerEye and DeepSeismic, and its statements on each are true."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from pkgutil import resolve_name

import pytest

import himl_cli
import himl_cli.job
from himl_cli.api.recording import OfflineRun
from himl_cli.api.submit_if_needed import AZUREML_FLAG
from himl_cli.api.workspace import Experiment
from himl_cli.commands.groups import HIML_OLD_NAMES
from himl_cli.core.settings import find_settings
from himl_cli.services.submission.data import parse_data
from tests.api.scripts import CONDA, run_script
from tests.azureml_double.seeding import StagedWorkspace
from tests.support.clients import AZUREML_CORE, packages_of
from tests.support.documents import (
    COMMANDS,
    CONTAINER,
    DEEPSEISMIC_SETTINGS,
    HEALTH_ML,
    INNEREYE_FUNCTIONS,
    INNEREYE_SETTINGS,
    ONLY_LINKED,
    OPTIONS,
    SUBMIT,
    Row,
    accepts,
    blocks,
    page,
    rows,
    shapes,
    without_blocks,
)
from tests.support.hi_ml_wheel import (
    NO_DEFAULT,
    exported,
    methods_in,
    public_names,
    required,
    script,
    signature,
    signature_in,
)
from tests.support.running import Himl, write_files

PAGE = page("migration.md")


def all_names(heading: str) -> list[str]:
    return [name for row in rows(PAGE, heading) for name in row.names]


def each(heading: str) -> list[tuple[str, Row]]:
    """Each name in the tables below *heading*, with its row."""
    found = [(name, row) for row in rows(PAGE, heading) for name in row.names]
    assert found, f"no table below '{heading}'"
    return found


def options_in(said: str) -> list[str]:
    """The options that a cell names, except the one that trials receive as an argument."""
    return [option for option in re.findall(r"`(--\w+)", said) if option != "--crossval_index"]


def test_programs_and_options_of_before_are_named() -> None:
    first = " ".join(all_names("## Commands"))
    assert [name for name in COMMANDS if not re.search(rf"(?<![\w-]){re.escape(name)}(?!\w)", first)] == []
    assert AZUREML_FLAG in first
    words = {word for shape in shapes().values() for word in shape.path}
    for row in rows(PAGE, "## Commands"):
        program = row.names[0].removeprefix("python ").split()[0]
        assert not row.is_absent or (set(re.split(r"\W|_", program)) - {"py", "himl"}) & words == set(), program
    table = {name.lstrip("-"): row.said.strip("`-") for name, row in each("### Old names of options")}
    assert table == HIML_OLD_NAMES
    for linked, given in ONLY_LINKED.items():
        assert [name for name in given.split() if not accepts(linked, f"--{name}")] == []
    # Either the option has the same name, or its row names the replacement.
    for heading, (command, names) in OPTIONS.items():
        assert sorted(all_names(heading)) == sorted(f"--{name}" for name in names.split())
        for option, row in each(heading):
            assert accepts(command, option) is row.is_same or (not row.is_same and f"`{option}`" in row.said), option
            assert [name for name in options_in(row.said) if not accepts(command, name)] == []


def test_names_and_arguments_of_health_azure_exist_as_said() -> None:
    table = dict(each("## health_azure"))
    assert set(table) >= set(exported())
    for name, row in table.items():
        assert row.is_same is not row.is_absent
        assert (name in himl_cli.__all__) is row.is_same
    others = dict(each("### Other names of the package"))
    assert [name for name in others if name in himl_cli.__all__] == []
    assert all(row.is_absent for row in others.values())
    assert {*public_names()} - {*all_names("## health_azure")} - {*himl_cli.__all__} == {*others}
    heading = "### submit_to_azure_if_needed"
    assert sorted(all_names(heading)) == sorted(inspect.signature(himl_cli.submit_to_azure_if_needed).parameters)
    for name, row in each(heading):
        options = re.findall(r"`(--\w+|-\w)(?= |`)", row.said)
        assert options or row.is_absent or row.said == "after `--`", name
        assert [option for option in options if not accepts(SUBMIT, option)] == []
    fields_of = dict(each("### DatasetConfig"))
    assert {name for name, row in fields_of.items() if not row.is_absent} == {
        field.name for field in fields(himl_cli.DatasetConfig)
    }
    for name, row in fields_of.items():
        assert hasattr(himl_cli.DatasetConfig, name.rstrip("()")) or not row.is_absent
        for spec in re.findall(r"`(NAME[^`]*)`", row.said):
            parse_data("output" if "overwrite" in spec else "input", [spec.replace("VERSION", "3")])


def test_packages_that_vanish_have_their_lines() -> None:
    project = Path(himl_cli.__file__).parents[1] / "pyproject.toml"
    ours = set(
        re.findall(
            r'^    "([a-z-]+)[^"]*",',
            project.read_text(encoding="utf-8").partition("\ndependencies = [")[2].partition("\n]")[0],
            re.MULTILINE,
        )
    )
    lines = [
        line for row in rows(PAGE, "### Packages that vanish") for line in re.findall(r"`- ([a-z0-9.-]+)", row.said)
    ]
    (kept,) = re.findall(r"^(`azure.ai.ml`.*) come with `himl-cli`", PAGE, re.MULTILINE)
    remaining = {name.replace(".", "-") for name in re.findall(r"`([a-z.]+)`", kept)}
    assert remaining <= ours
    assert sorted(lines) == sorted((required() | required("health_ml")) - remaining - {"hi-ml-azure"})


@pytest.mark.skipif(sys.platform == "win32", reason="needs sed")
def test_script_of_hi_ml_azure_runs_after_the_command(azure_environment: StagedWorkspace, project: Path) -> None:
    azure_environment.add_compute("lite-testing-ds2")
    azure_environment.write_config(project)
    write_files(project, {"environment.yml": CONDA, "elevate_this.py": script("examples/elevate_this")})
    (command,) = re.findall(r"^grep .*?(?=^python )", PAGE, flags=re.MULTILINE | re.DOTALL)
    subprocess.run(["bash", "-euc", command], cwd=project, check=True)
    assert run_script(project / "elevate_this.py", "-m", "Hello").stdout == "The message was: Hello\n"
    with azure_environment.run_jobs():
        done = run_script(project / "elevate_this.py", "-m", "Hello", "--azureml")
    assert (done.returncode, "The message was: Hello" in done.stdout) == (0, True), done.stderr
    (run,) = azure_environment.state.runs.values()
    assert (run.job or {})["command"] == "python elevate_this.py -m Hello"


OTHER_DEFAULTS = {"is_running_in_azure_ml": {"aml_run"}, "log_on_epoch": {"reduce_fx"}}
"""Arguments whose defaults mean the same: the run of the process, and the mean."""


def differences(name: str, ours: Mapping[str, object], released: Mapping[str, object]) -> list[str]:
    """The arguments of hi-ml's release that *ours* lacks, or has at another position or with another default."""
    places = [] if [*ours][: len(released)] == [*released] else [f"{name}: {[*ours]} instead of {[*released]}"]
    others = {key for key, default in released.items() if default is not NO_DEFAULT and ours.get(key) != default}
    return places + [f"{name}: default of {key}" for key in others - OTHER_DEFAULTS.get(name, set())]


def test_signatures_are_those_of_the_wheels() -> None:
    functions = [
        name
        for name in public_names()
        if name in himl_cli.__all__ and callable(getattr(himl_cli, name)) and name != "RUN_CONTEXT"
    ]
    assert len(functions) > 30
    assert {*exported()} - {"RUN_CONTEXT"} <= {*functions}
    found: list[str] = []
    for name in functions:
        ours = {
            key: NO_DEFAULT if each.default is each.empty else each.default
            for key, each in inspect.signature(getattr(himl_cli, name)).parameters.items()
        }
        found += differences(name, ours, signature(name))
    module = ast.parse(Path(himl_cli.__file__).with_name("lightning.py").read_text(encoding="utf-8"))
    of_lightning = [
        name
        for name in exported("health_ml", "utils/__init__")
        if re.search(rf"^\| `{name}` \| `himl_cli.lightning.", PAGE, re.MULTILINE)
    ]
    assert len(of_lightning) == 5
    for name in of_lightning:
        found += differences(name, signature_in(module, name), signature(name, "health_ml"))
    assert {*exported("health_ml", "utils/__init__")} <= {*all_names("## health_ml")}
    assert found + differences("CheckpointParser", {"checkpoint": ""}, signature("CheckpointParser", "health_ml")) == []


@pytest.mark.timeout(1800)
def test_methods_take_the_positions_of_azureml_core() -> None:
    """A position is the same argument, or an error. Other arguments are keywords."""
    vendor = Path(packages_of(AZUREML_CORE)) / "azureml"
    places = {
        "Run": "core/run.py",
        "Workspace": "core/workspace.py",
        "Experiment": "core/experiment.py",
        "AzureBlobDatastore": "data/azure_storage_datastore.py",
    }
    kinds: dict[str, list[type]] = {
        "Run": [himl_cli.Run, OfflineRun],
        "Workspace": [himl_cli.Workspace],
        "Experiment": [Experiment],
        "AzureBlobDatastore": [himl_cli.Datastore],
    }
    found, compared = [], 0
    for name, place in places.items():
        for method, positions in methods_in(ast.parse((vendor / place).read_text(encoding="utf-8")), name).items():
            for ours in (kind for kind in kinds[name] if hasattr(kind, method)):
                parameters = [*inspect.signature(getattr(ours, method)).parameters.values()]
                own = [
                    each.name
                    for each in parameters
                    if each.name != "self" and each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
                ]
                compared += 1
                found += (
                    [] if own == positions[: len(own)] else [f"{ours.__name__}.{method}: {own} instead of {positions}"]
                )
    assert compared > 50
    assert found == []


def test_names_of_health_ml_and_innereye_exist_as_said() -> None:
    table = dict(each("## health_ml"))
    assert sorted(table) == sorted(HEALTH_ML)
    for name, row in table.items():
        assert row.is_absent is not bool(re.match(r"`himl_cli\.", row.said)), name
        assert not row.is_absent or not (name in himl_cli.__all__ or hasattr(himl_cli.job, name))
    functions, containers = dict(each("### Functions")), dict(each("### Containers"))
    assert sorted(functions) == sorted(INNEREYE_FUNCTIONS.split())
    assert sorted(name.rstrip("()") for name in containers) == sorted(CONTAINER.split())
    for name, row in functions.items():
        assert (name in himl_cli.__all__) is not row.is_absent
        assert row.is_absent or row.said == f"`himl_cli.{name}`"
    said = [row.said for row in (*functions.values(), *containers.values())]
    assert [option for text in said for option in options_in(text) if not accepts(SUBMIT, option)] == []
    dotted_names = set(re.findall(r"`(himl_cli(?:\.\w+)+)", without_blocks(PAGE)))
    assert len(dotted_names) > 8
    of_lightning = re.findall(
        r"^(?:class|def) (\w+)",
        Path(himl_cli.__file__).with_name("lightning.py").read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    # himl_cli.lightning imports Lightning, so its names are only searched for in its source.
    for dotted in dotted_names:
        assert (
            dotted.removeprefix("himl_cli.lightning").lstrip(".") in ("", *of_lightning)
            or resolve_name(dotted) is not None
        )


def taken_over(himl: Himl, file: str, text: str) -> tuple[Callable[[str], object], set[str]]:
    """Run `himl init --from` with a file of *text*. Return a function for the values of the created files, by
    `config.json: KEY` or `FILE: SECTION.KEY`, and the names that were left out.
    """
    write_files(himl.folder, {file: text})
    left = {each["name"] for each in himl.ok("init", "--from", file, "--json").json()["left_out"]}
    config = json.loads((himl.folder / "config.json").read_text())
    settings = {found.path.name: found.content for found in find_settings(himl.folder)}

    def value(place: str) -> object:
        name, _, key = place.partition(": ")
        section, _, last = key.rpartition(".")
        return settings[name][section][last] if section else config[key]

    return value, left


def check_taken(
    table: list[tuple[str, Row]], values: Mapping[str, object], value: Callable[[str], object], left: set[str]
) -> None:
    """Check that each key is in the place that its row names, or was left out if its row says so."""
    assert sorted(name for name, _ in table) == sorted(values)
    for name, row in table:
        assert (name in left) is row.is_absent, name
        if not row.is_absent:
            file, _, key = row.said.replace("`", "").partition(";")[0].partition(": ")
            assert value(f"{file}: {key or name.lower()}") == values[name], name
        assert [option for option in options_in(row.said) if not accepts(SUBMIT, option)] == []


def test_settings_of_innereye_go_where_the_table_says(himl: Himl) -> None:
    text = "variables:\n" + "".join(f"  {name}: {json.dumps(value)}\n" for name, value in INNEREYE_SETTINGS.items())
    check_taken(each("### settings.yml"), INNEREYE_SETTINGS, *taken_over(himl, "settings.yml", text))
    left = himl.ok("init", "--from", "settings.yml", "--json", "--yes").json()["left_out"]
    assert len(left) > 20
    assert [each["name"] for each in left if each["why"] == "himl has no such setting"] == []


def test_settings_of_deepseismic_go_where_the_table_says(himl: Himl) -> None:
    text = "".join(f"{name}={value}\n" for name, value in DEEPSEISMIC_SETTINGS.items())
    check_taken(each("## DeepSeismic"), DEEPSEISMIC_SETTINGS, *taken_over(himl, ".env", text))


def test_example_of_settings_is_taken_over(himl: Himl) -> None:
    (settings,) = blocks(PAGE, "yaml")
    value, left = taken_over(himl, "settings.yml", settings)
    assert (value("himl.toml: submit.cluster"), value("config.json: workspace_name"), left) == ("gpu", "lab", set())
    assert "himl.toml" in himl.ok("submit", "--show_settings").stdout


@pytest.mark.skipif(sys.platform == "win32", reason="needs sed")
def test_import_rename_command_changes_whole_project(tmp_path: Path) -> None:
    (command,) = re.findall(r"^grep .*?(?=^python )", PAGE, flags=re.MULTILINE | re.DOTALL)
    (before,) = (block for block in blocks(PAGE, "python") if "health_azure" in block)
    ours, others = ("train.py", "a folder/lungs.py"), (".venv/lib/theirs.py", "notes.md", "net.py")
    write_files(tmp_path, {**dict.fromkeys((*ours, *others), before), "net.py": "import torch\n"})
    subprocess.run(["bash", "-euc", command], cwd=tmp_path, check=True)
    for name in ours:
        assert (tmp_path / f"{name}.bak").read_text() == before
        subprocess.run([sys.executable, "-W", "error", name], cwd=tmp_path, check=True, timeout=100)
    assert [name for name in others if (tmp_path / f"{name}.bak").exists()] == []
