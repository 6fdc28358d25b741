"""docs/migration.md names all that hi-ml, InnerEye and DeepSeismic have, and what it says of each is so."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

import himl_cli
import himl_cli.job
from himl_cli.api.submit_if_needed import AZUREML_FLAG
from himl_cli.commands.groups import HIML_OLD_NAMES
from himl_cli.core.settings import find_settings
from himl_cli.services.submission.data import parse_data
from himl_cli.workspaces.azure.config import find_config
from tests.support.documents import (
    COMMANDS,
    CONTAINER,
    DEEPSEISMIC_SETTINGS,
    FUNCTIONS,
    FUNCTIONS_GONE,
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
from tests.support.hi_ml_wheel import public_names
from tests.support.running import Himl, write_files

PAGE = page("migration.md")


def all_names(heading: str) -> list[str]:
    return [name for row in rows(PAGE, heading) for name in row.names]


def each(heading: str) -> list[tuple[str, Row]]:
    """Each name of the tables below *heading*, with its row."""
    found = [(name, row) for row in rows(PAGE, heading) for name in row.names]
    assert found, f"no table below '{heading}'"
    return found


def options_in(said: str) -> list[str]:
    """The options that a cell names, without the one that trials get as an argument."""
    return [option for option in re.findall(r"`(--\w+)", said) if option != "--crossval_index"]


def found_in_himl(dotted: str) -> object:
    """What `himl_cli.NAME` or `himl_cli.job.NAME` is. Raises AttributeError where there is no such thing."""
    parts = dotted.split(".")
    deep = parts[1] in ("job", "cli")
    found: object = import_module(".".join(parts[: 2 if deep else 1]))
    for part in parts[2 if deep else 1 :]:
        found = getattr(found, part)
    return found


def check_option(option: str, row: Row, command: str) -> None:
    """An option of before is there where the row says `the same`; else it is not, unless the row says what it means here."""
    if row.is_same:
        assert accepts(command, option), f"'{command}' has no {option}"
    else:
        assert not accepts(command, option) or f"`{option}`" in row.said, f"'{command}' has {option}, and the row does not say so"


def test_every_program_of_before_is_named() -> None:
    first = " ".join(all_names("## Commands"))
    assert [name for name in COMMANDS if not re.search(rf"(?<![\w-]){re.escape(name)}(?!\w)", first)] == []
    assert AZUREML_FLAG in first


@pytest.mark.parametrize("row", [row for row in rows(PAGE, "## Commands") if row.is_absent], ids=lambda row: row.names[0].split()[0])
def test_a_program_that_has_no_counterpart_is_no_command(row: Row) -> None:
    program = row.names[0].removeprefix("python ").split()[0]
    words = set(re.split(r"\W|_", program)) - {"py", "himl"}
    assert words & {word for shape in shapes().values() for word in shape.path} == set()


def test_documented_old_option_names_equal_known_ones() -> None:
    table = {name.lstrip("-"): row.said.strip("`-") for name, row in each("### Old names of options")}
    assert table == HIML_OLD_NAMES


@pytest.mark.parametrize("heading", OPTIONS)
def test_every_option_of_before_is_there_or_said_to_be_another(heading: str) -> None:
    command, names = OPTIONS[heading]
    assert sorted(all_names(heading)) == sorted(f"--{name}" for name in names.split())
    for option, row in each(heading):
        check_option(option, row, command)
        assert [name for name in options_in(row.said) if not accepts(command, name)] == []


@pytest.mark.parametrize("command", ONLY_LINKED)
def test_linked_programs_accept_all_old_options(command: str) -> None:
    assert [name for name in ONLY_LINKED[command].split() if not accepts(command, f"--{name}")] == []


def test_every_function_of_health_azure_is_in_the_tables() -> None:
    assert {*all_names("## health_azure")} >= {*FUNCTIONS, *FUNCTIONS_GONE}


@pytest.mark.parametrize(("name", "row"), each("## health_azure"), ids=lambda value: value if isinstance(value, str) else "")
def test_health_azure_name_has_old_arguments_or_is_absent(name: str, row: Row) -> None:
    assert row.is_same is not row.is_absent
    assert (name in himl_cli.__all__) is row.is_same
    if name in FUNCTIONS:
        old = FUNCTIONS[name].split()
        assert list(inspect.signature(getattr(himl_cli, name)).parameters)[: len(old)] == old


def test_released_public_names_exist_or_are_listed_as_absent() -> None:
    others = dict(each("### Other names of the package"))
    assert [name for name in others if name in himl_cli.__all__] == []
    assert all(row.is_absent for row in others.values())
    assert {*public_names()} - {*all_names("## health_azure")} - {*himl_cli.__all__} == {*others}


def test_every_argument_of_the_submission_has_its_option() -> None:
    heading = "### submit_to_azure_if_needed"
    assert sorted(all_names(heading)) == sorted(inspect.signature(himl_cli.submit_to_azure_if_needed).parameters)
    for name, row in each(heading):
        options = re.findall(r"`(--\w+|-\w)(?= |`)", row.said)
        assert options or row.is_absent or row.said == "after `--`", name
        assert [option for option in options if not accepts(SUBMIT, option)] == []


def test_every_field_of_a_dataset_has_its_words() -> None:
    table = dict(each("### DatasetConfig"))
    assert {name for name, row in table.items() if not row.is_absent} == {field.name for field in fields(himl_cli.DatasetConfig)}
    for name, row in table.items():
        if row.is_absent:
            assert not hasattr(himl_cli.DatasetConfig, name.rstrip("()"))
        for spec in re.findall(r"`(NAME[^`]*)`", row.said):
            parse_data("output" if "overwrite" in spec else "input", [spec.replace("VERSION", "3")])


def test_every_name_of_health_ml_is_there_or_not() -> None:
    table = dict(each("## health_ml"))
    assert sorted(table) == sorted(HEALTH_ML)
    for name, row in table.items():
        assert row.is_absent is not bool(re.match(r"`himl_cli\.", row.said)), name
        assert not row.is_absent or not (name in himl_cli.__all__ or hasattr(himl_cli.job, name))


def test_what_a_container_said_has_its_place_in_a_script() -> None:
    table = dict(each("### Containers"))
    assert sorted(name.rstrip("()") for name in table) == sorted(CONTAINER.split())
    assert [option for row in table.values() for option in options_in(row.said) if not accepts(SUBMIT, option)] == []


def test_what_is_said_to_be_in_the_package_is_there() -> None:
    said = set(re.findall(r"`(himl_cli(?:\.\w+)+)", without_blocks(PAGE)))
    assert len(said) > 8
    for dotted in said:
        assert found_in_himl(dotted) is not None


@pytest.mark.parametrize(("name", "row"), each("### Functions"), ids=lambda value: value if isinstance(value, str) else "")
def test_innereye_function_has_documented_counterpart(name: str, row: Row) -> None:
    assert (name in himl_cli.__all__) is not row.is_absent
    assert row.is_absent or row.said == f"`himl_cli.{name}`"
    assert [option for option in options_in(row.said) if not accepts(SUBMIT, option)] == []


def test_every_function_of_innereye_s_is_in_the_table() -> None:
    assert sorted(all_names("### Functions")) == sorted(INNEREYE_FUNCTIONS.split())


def taken_over(himl: Himl, file: str, text: str) -> tuple[Callable[[str], object], set[str]]:
    """`himl init --from` a file of *text*: what the files that it made say of `config.json: KEY` or `FILE: SECTION.KEY`, and what was left out."""
    write_files(himl.folder, {file: text})
    left = {each["name"] for each in himl.ok("init", "--from", file, "--json").json()["left_out"]}
    config = json.loads((himl.folder / "config.json").read_text())
    settings = {found.path.name: found.content for found in find_settings(himl.folder)}

    def value(place: str) -> object:
        name, _, key = place.partition(": ")
        section, _, last = key.rpartition(".")
        return settings[name][section][last] if section else config[key]

    return value, left


def check_taken(table: list[tuple[str, Row]], values: Mapping[str, object], value: Callable[[str], object], left: set[str]) -> None:
    """Each key lies where its row says, or was left out where the row says so."""
    assert sorted(name for name, _ in table) == sorted(values)
    for name, row in table:
        assert (name in left) is row.is_absent, name
        if not row.is_absent:
            file, _, key = row.said.replace("`", "").partition(";")[0].partition(": ")
            assert value(f"{file}: {key or name.lower()}") == values[name], name
        assert [option for option in options_in(row.said) if not accepts(SUBMIT, option)] == []


def test_innereye_s_settings_go_where_the_table_says(himl: Himl) -> None:
    text = "variables:\n" + "".join(f"  {name}: {json.dumps(value)}\n" for name, value in INNEREYE_SETTINGS.items())
    check_taken(each("### settings.yml"), INNEREYE_SETTINGS, *taken_over(himl, "settings.yml", text))


def test_init_gives_reasons_for_unsupported_innereye_settings(himl: Himl) -> None:
    write_files(himl.folder, {"settings.yml": "variables:\n" + "".join(f"  {name}: {json.dumps(value)}\n" for name, value in INNEREYE_SETTINGS.items())})
    left = himl.ok("init", "--from", "settings.yml", "--json").json()["left_out"]
    assert len(left) > 20
    assert [each["name"] for each in left if each["why"] == "himl has no such setting"] == []


def test_deepseismic_s_settings_go_where_the_table_says(himl: Himl) -> None:
    text = "".join(f"{name}={value}\n" for name, value in DEEPSEISMIC_SETTINGS.items())
    check_taken(each("## DeepSeismic"), DEEPSEISMIC_SETTINGS, *taken_over(himl, ".env", text))


def test_the_example_of_settings_is_taken_over(himl: Himl) -> None:
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


def test_settings_and_files_that_are_the_same_are_heeded(himl: Himl, project: Path) -> None:
    ids = {"subscription_id": INNEREYE_SETTINGS["subscription_id"], "resource_group": "team", "workspace_name": "lab"}
    write_files(project, {"train.py": "import os\nprint(sorted(os.listdir()))\n", ".amlignore": "skipped.txt\n", "skipped.txt": ""})
    write_files(project, {"environment.yml": "dependencies: [numpy==1.2.3]\n", "inner/.azureml/config.json": json.dumps(ids)})
    ran = himl.ok("submit", "train.py", env={"HIML_EXPERIMENT_NAME": "lungs"})
    assert "skipped.txt" not in ran.stdout
    assert "environment.yml" in ran.stdout
    assert (project / "most_recent_run.txt").read_text().startswith("lungs:")
    assert "numpy==1.2.3" in himl.ok("submit", "train.py", "--cluster", "gpu", "--dry_run").stdout
    assert find_config(project / "inner" / "deep") == project / "inner" / ".azureml" / "config.json"
    for kind, names in {"workspace": (), "azure": ("TENANT_ID", "SERVICE_PRINCIPAL_ID", "SERVICE_PRINCIPAL_PASSWORD")}.items():
        shown = himl.ok("submit", "--show_settings", env={f"HIML_{name}": "x" for name in names} | {f"HIML_{key.upper()}": str(ids[key]) for key in ids}).stdout
        assert [name for name in names if f"HIML_{name}" not in shown] == [], kind
    assert all(row.is_same for _, row in each("## Settings and files"))
