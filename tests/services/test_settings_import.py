"""Taking over settings of other tools: what each file says, what is left out, and what is no such file."""

from __future__ import annotations

from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage
from himl_cli.core.text import parse_dotenv
from himl_cli.services.project_setup import TakenSettings, read_settings
from tests.support.running import write_files


def taken(project: Path, files: dict[str, str], name: str = "settings.yml") -> TakenSettings:
    write_files(project, files)
    return read_settings(project / name, project, lambda path: {"workspace_name": path.name})


def innereye(**values: object) -> str:
    return "variables:\n" + "".join(f"  {key}: {value!r}\n" for key, value in values.items())


def test_innereye_s_names_and_himl_s_options(project: Path) -> None:
    values = {"cluster": "gpu", "azureml_datastore": "data", "max_run_duration": "3.5h", "node_count": 3, "experiment_name": "lungs"}
    assert taken(project, {"settings.yml": innereye(**values)}).public == {
        "submit": {"cluster": "gpu", "default_datastore": "data", "max_run_duration": "3.5h", "num_nodes": 3, "experiment": "lungs"}
    }


def test_import_skips_empty_default_and_placeholder_values(project: Path) -> None:
    got = taken(project, {"settings.yml": innereye(cluster="", node_count=1, tenant_id="$(tenant)", resource_group=" rg ") + "  wait_for_completion: false\n"})
    assert (got.public, got.private, got.workspace, got.left_out) == ({}, {}, {"resource_group": "rg"}, [])


def test_an_index_with_a_password_is_private(project: Path) -> None:
    got = taken(project, {"settings.yml": innereye(cluster="gpu", pip_extra_index_url="https://me:hunter2@index.example/simple")})
    assert got.public == {"submit": {"cluster": "gpu"}}
    assert got.private == {"submit": {"pip_extra_index_url": "https://me:hunter2@index.example/simple"}}


def test_an_index_with_a_query_is_private_as_submit_wants_it(project: Path) -> None:
    got = taken(project, {"settings.yml": innereye(cluster="gpu", pip_extra_index_url="https://index.example/simple?x=1")})
    assert got.public == {"submit": {"cluster": "gpu"}}
    assert got.private == {"submit": {"pip_extra_index_url": "https://index.example/simple?x=1"}}


def test_lists_tables_and_dates_are_named_too(project: Path) -> None:
    got = taken(project, {"settings.yml": innereye(cluster=["a"], tag=["a", "b"], extra={"a": 1}, none=[], nothing={}) + "  day: 2020-01-01\n  null_: null\n"})
    assert {each.name: each.why for each in got.left_out} == {
        "cluster": "it is no single value",
        "tag": "it belongs to one run: --tag KEY=VALUE",
        "extra": "himl has no such setting",
        "day": "himl has no such setting",
    }
    assert got.public == {}


@pytest.mark.parametrize(
    ("values", "left"),
    [
        ({"tenant_id": "t", "application_id": "a"}, ["application_id"]),
        ({"tenant_id": "t", "application_key": "k"}, ["application_key"]),
        ({"application_id": "a", "application_key": "k"}, ["application_id", "application_key"]),
        ({"tenant_id": "t", "application_id": "a", "APPLICATION_KEY": "k"}, []),
    ],
)
def test_half_a_service_principal_is_left_out(project: Path, values: dict[str, str], left: list[str]) -> None:
    got = taken(project, {"settings.yml": innereye(cluster="gpu", **values)})
    assert [each.name for each in got.left_out] == left
    assert ("service_principal_id" in got.private.get("azure", {})) is (not left)


@pytest.mark.parametrize("name", ["InnerEyePrivateSettings.yml", "settings_private.yml", "InnerEyeTestVariables.txt"])
def test_private_files_beside_it_or_in_the_current_folder_win(project: Path, name: str) -> None:
    files = {"a/settings.yml": innereye(cluster="gpu", resource_group="rg"), name: innereye(cluster="mine")}
    got = taken(project, files, "a/settings.yml")
    assert (got.public, got.workspace) == ({"submit": {"cluster": "mine"}}, {"resource_group": "rg"})
    assert got.read == [project / "a" / "settings.yml", project / name]
    write_files(project, {f"a/{name}": innereye(cluster="beside")})
    assert taken(project, {}, "a/settings.yml").public == {"submit": {"cluster": "beside"}}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("a: 1\n", "no 'variables:'"),
        ("variables: [a]\n", "no 'variables:'"),
        ("variables:\n  a: 'x\n", "line"),
        ("variables:\n  node_count: many\n", "'node_count'"),
        ("variables:\n  node_count: 70000\n", "65,000 at most"),
        ("variables:\n  max_run_duration: soon\n", "'max_run_duration' of InnerEye's settings 'soon' is no duration"),
        ("variables:\n  docker_shm_size: much\n", "'docker_shm_size' of InnerEye's settings 'much' is no size"),
        ("variables:\n  wait_for_completion: maybe\n", "'wait_for_completion'"),
    ],
)
def test_what_is_no_such_file(project: Path, content: str, complaint: str) -> None:
    with pytest.raises(BadUsage) as caught:
        taken(project, {"settings.yml": content})
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_value_that_is_not_taken_is_named_with_a_reason(project: Path) -> None:
    got = taken(project, {"settings.yml": innereye(cluster="c", build_branch="b", model="M", mystery=1, use_dataset_mount=True, datasets_container="d")})
    assert {each.name: each.why.split(":")[0] for each in got.left_out} == {
        "build_branch": "it belongs to one run",
        "model": "arguments of a script stand after '--'",
        "mystery": "himl has no such setting",
        "use_dataset_mount": "say it for each input",
        "datasets_container": "register the storage account as a datastore in Azure ML, which then gives access to it; name that with --default_datastore",
    }


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b", "b"),
        ("export A = b", "b"),
        ("A='b # c' # d", "b # c"),
        ('A="b"', "b"),
        ("A=b # c", "b"),
        ("A=b#c", "b#c"),
        ("A=", ""),
        ("A=b=c==", "b=c=="),
        ("A=# c", ""),
    ],
)
def test_lines_of_a_dotenv_file(line: str, value: str) -> None:
    assert parse_dotenv(f"# comment\n\n{line}\n", Path(".env")) == {"A": value}


def test_a_bad_line_is_named_without_what_it_says() -> None:
    with pytest.raises(BadUsage, match="line 2: no NAME=value") as caught:
        parse_dotenv("A=b\nhunter2\n", Path(".env"))
    assert "hunter2" not in f"{caught.value}{caught.value.hint}"


def test_what_a_dotenv_file_leaves_out(project: Path) -> None:
    got = taken(project, {"prod.env": "RESOURCE_GROUP=rg\nBLOB_SUB_ID=s\nHIML_TENANT_ID=t\nOTHER=1\nEMPTY=\n"}, "prod.env")
    assert got.workspace == {"resource_group": "rg"}
    assert [each.name for each in got.left_out] == ["BLOB_SUB_ID", "HIML_TENANT_ID", "OTHER"]


def test_a_json_file_is_read_by_those_who_know_it(project: Path) -> None:
    assert taken(project, {"config.json": "{}"}, "config.json").workspace == {"workspace_name": "config.json"}


@pytest.mark.parametrize("name", [".env.example", "prod.env.sample"])
def test_dotenv_sample_file_is_not_imported_as_settings(project: Path, name: str) -> None:
    """Samples are sent with jobs, so they must not hold settings."""
    with pytest.raises(BadUsage, match="does not know this kind of file"):
        taken(project, {name: "SUBSCRIPTION_ID=s\n"}, name)
