"""Which environment a job gets: what was asked for, what is found, and what is refused before anything is sent."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import EnvironmentSpec
from himl_cli.services.submission.environment import DEFAULT_IMAGE, choose_environment
from himl_cli.services.submission.request import SubmitRequest
from tests.support.running import write_files

PLAIN = "channels: [conda-forge]\ndependencies: [python=3.11, pip, pip: [torch]]\n"
INDEX = "https://me:hunter2@index.example/simple"


def chosen(
    project: Path, script_folder: Path | None = None, notices: list[str] | None = None, env: dict[str, str] | None = None, **asked: Any
) -> EnvironmentSpec:
    spec, remarks = choose_environment(SubmitRequest(cwd=project, **asked), script_folder or project, project, env or {})
    if notices is not None:
        notices += remarks
    return spec


def conda(spec: EnvironmentSpec) -> Any:
    return yaml.safe_load(spec.conda)


def refused(project: Path, **asked: Any) -> tuple[str, str]:
    with pytest.raises(BadUsage) as caught:
        chosen(project, **asked)
    assert "\n" not in f"{caught.value}{caught.value.hint}"
    return str(caught.value), caught.value.hint


def wheel(project: Path, name: str = "mine-1.0-py3-none-any.whl") -> str:
    with zipfile.ZipFile(project / name, "w") as archive:
        archive.writestr("mine/__init__.py", "")
    return name


@pytest.mark.parametrize("name", ["environment.yml", "environment.yaml"])
def test_nearest_conda_file_is_chosen_and_reported(project: Path, name: str) -> None:
    write_files(project, {name: PLAIN, "a/b/train.py": "", "../environment.yml": "dependencies: [wrong]"})
    notices: list[str] = []
    spec = chosen(project, project / "a" / "b", notices)
    assert conda(spec)["dependencies"] == ["pip", "python=3.11", {"pip": ["torch"]}]
    assert (spec.image, spec.name, spec.wheels) == (DEFAULT_IMAGE, "", ())
    assert notices == [f"Environment of the job: '{project / name}'."]


def test_a_conda_file_nearer_to_the_script_wins(project: Path) -> None:
    write_files(project, {"environment.yml": PLAIN, "a/environment.yml": "dependencies: [python=3.12]"})
    assert conda(chosen(project, project / "a"))["dependencies"] == ["python=3.12"]


def test_what_lies_above_the_snapshot_root_is_not_taken(project: Path) -> None:
    write_files(project, {"environment.yml": PLAIN, "sub/train.py": ""})
    with pytest.raises(BadUsage, match=r"no environment\.yml"):
        choose_environment(SubmitRequest(cwd=project / "sub"), project / "sub", project / "sub", {})


def test_nothing_found_names_the_options_and_what_lies_there(project: Path) -> None:
    message, hint = refused(project)
    assert str(project) in message
    assert all(option in hint for option in ("--conda_env", "--requirements", "--environment", "--docker_image"))
    write_files(project, {"conda.yml": PLAIN, "sub/requirements.txt": "torch"})
    assert "name: --conda_env conda.yml. Else --conda_env FILE" in refused(project)[1]
    with pytest.raises(BadUsage) as caught:
        chosen(project, project / "sub")
    assert f"--requirements {Path('sub') / 'requirements.txt'}" in caught.value.hint


@pytest.mark.parametrize(("text", "name", "version"), [("env", "env", None), ("env:3", "env", "3"), ("azureml:env:3", "env", "3"), ("env@latest", "env", None)])
def test_a_registered_environment(project: Path, text: str, name: str, version: str | None) -> None:
    assert chosen(project, environment=text) == EnvironmentSpec(name=name, version=version)


@pytest.mark.parametrize(
    "text",
    [
        "azureml://registries/azureml/environments/x/versions/3",
        "azureml://registries/azureml/environments/x/labels/latest",
        "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w/environments/x/versions/3",
    ],
)
def test_an_environment_of_a_registry_or_by_its_id(project: Path, text: str) -> None:
    assert chosen(project, environment=text) == chosen(project, environment=f"azureml:{text}") == EnvironmentSpec(name=text)


@pytest.mark.parametrize(
    "text",
    ["", "a b", "env:", "azureml://registries/azureml/environments/x", "azureml://registries/azureml/environments/x/versions/", "azureml://elsewhere/x", "a/b"],
)
def test_what_is_no_name_of_a_registered_environment(project: Path, text: str) -> None:
    assert f"'{text}'" in refused(project, environment=text)[0]


def test_an_image_alone_is_used_as_it_is(project: Path) -> None:
    assert chosen(project, docker_image="ghcr.io/me/train:1") == EnvironmentSpec(image="ghcr.io/me/train:1")


def test_an_image_with_a_conda_file_holds_both(project: Path) -> None:
    write_files(project, {"environment.yml": PLAIN})
    spec = chosen(project, docker_image="docker.io/me/train@sha256:" + "0" * 64)
    assert (spec.image[:18], conda(spec)["channels"]) == ("docker.io/me/train", ["conda-forge"])


@pytest.mark.parametrize("image", ["two words", "https://example.org/x", "-x", ""])
def test_what_is_no_image(project: Path, image: str) -> None:
    write_files(project, {"environment.yml": PLAIN})
    assert "--docker_image" in refused(project, docker_image=image)[0]


@pytest.mark.parametrize(
    ("asked", "both"),
    [
        ({"environment": "e", "conda_env": ["c.yml"]}, ["--environment", "--conda_env"]),
        ({"environment": "e", "docker_image": "i"}, ["--environment", "--docker_image"]),
        ({"environment": "e", "private_wheel": "w.whl"}, ["--environment", "--private_wheel"]),
        ({"requirements": "r.txt", "conda_env": ["c.yml"]}, ["--requirements", "--conda_env"]),
        ({"docker_image": "i", "private_wheel": "w.whl"}, ["--docker_image", "--private_wheel"]),
        ({"docker_image": "i", "pip_extra_index_url": INDEX}, ["--docker_image", "--pip_extra_index_url"]),
    ],
)
def test_options_that_contradict_each_other(project: Path, asked: dict[str, Any], both: Sequence[str]) -> None:
    assert all(option in refused(project, **asked)[0] for option in both)


def test_an_extra_index_goes_into_the_pip_section(project: Path) -> None:
    write_files(project, {"environment.yml": PLAIN})
    assert conda(chosen(project, pip_extra_index_url=INDEX))["dependencies"][-1] == {"pip": [f"--extra-index-url {INDEX}", "torch"]}


def test_a_bad_index_is_refused_without_its_password(project: Path) -> None:
    write_files(project, {"environment.yml": PLAIN})
    message, hint = refused(project, pip_extra_index_url=f"{INDEX} and more")
    assert "hunter2" not in message + hint


def test_a_private_wheel_is_listed_by_its_file_name(project: Path) -> None:
    write_files(project, {"environment.yml": "dependencies: [python=3.11]"})
    spec = chosen(project, private_wheel=wheel(project))
    assert conda(spec)["dependencies"] == ["pip", "python=3.11", {"pip": ["mine-1.0-py3-none-any.whl"]}]
    assert spec.wheels == (project / "mine-1.0-py3-none-any.whl",)


def test_wheels_that_cannot_be_installed(project: Path) -> None:
    write_files(project, {"environment.yml": PLAIN, "broken-1-py3-none-any.whl": "no zip", "mine.tar.gz": ""})
    wheel(project, "mine.whl")
    wheel(project, "mine-1.0-cp311-cp311-win_amd64.whl")
    for name, complaint in {
        "absent-1-py3-none-any.whl": "there is no file",
        "mine.tar.gz": "no wheel",
        "mine.whl": "no wheel",
        "mine-1.0-cp311-cp311-win_amd64.whl": "another system (win_amd64)",
        "broken-1-py3-none-any.whl": "no wheel",
    }.items():
        assert complaint in refused(project, private_wheel=name)[0]


def test_files_named_twice_count_once(project: Path) -> None:
    write_files(project, {"c.yml": PLAIN})
    assert chosen(project, conda_env=["c.yml", "c.yml"]) == chosen(project, conda_env=["c.yml"])
