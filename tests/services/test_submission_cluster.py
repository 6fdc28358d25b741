"""From options to a job for a cluster, without sending it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.errors import BadUsage
from himl_cli.services.submission.prepare import prepare_job
from himl_cli.services.submission.request import SubmitRequest, check_size
from tests.support.running import write_files


@pytest.fixture
def there(project: Path) -> SubmitRequest:
    """A job for a cluster, in a registered environment."""
    write_files(project, {"pyproject.toml": "", "train.py": "", "lab/__init__.py": "", "lab/fit.py": "", "environment.yml": "dependencies: [python=3.11]\n"})
    return SubmitRequest(cwd=project, target="train.py", cluster="gpu", environment="lab:3")


@pytest.mark.parametrize(
    ("options", "distribution", "processes"),
    [
        ({}, "mpi", 1),
        ({"no_mpi_single_node": True}, "", None),
        ({"processes_per_node": 1}, "mpi", 1),
        ({"processes_per_node": 1, "no_mpi_single_node": True}, "", None),
        ({"processes_per_node": 4}, "pytorch", 4),
        ({"num_nodes": 2}, "mpi", 1),
        ({"num_nodes": 2, "no_mpi_single_node": True}, "mpi", 1),
        ({"num_nodes": 2, "processes_per_node": 1}, "pytorch", 1),
        ({"num_nodes": 2, "processes_per_node": 4}, "pytorch", 4),
        ({"num_nodes": 2, "processes_per_node": 4, "distribution": "mpi"}, "mpi", 4),
        ({"num_nodes": 2, "distribution": "pytorch"}, "pytorch", 1),
        ({"distribution": "pytorch", "no_mpi_single_node": True}, "pytorch", 1),
    ],
)
def test_how_processes_are_started(there: SubmitRequest, options: dict[str, Any], distribution: str, processes: int | None) -> None:
    spec = prepare_job(replace(there, **options)).spec
    assert (spec.distribution, spec.processes, spec.nodes) == (distribution, processes, options.get("num_nodes", 1))


def test_what_counts_on_a_cluster_is_in_the_job(there: SubmitRequest) -> None:
    options: dict[str, Any] = {"shm_size": "8G", "docker_args": ("--ipc=host", "--cap-add X"), "identity": "user", "max_run_duration": "1.5d", "sdk": "v1"}
    spec = prepare_job(replace(there, **options)).spec
    assert (spec.cluster, spec.shm_size, spec.docker_args, spec.identity) == ("gpu", "8g", ("--ipc=host", "--cap-add X"), "user")
    assert (spec.max_seconds, spec.sdk, spec.python, spec.in_place) == (129600, "v1", "", False)
    assert spec.environment is not None
    assert (spec.environment.name, spec.environment.version) == ("lab", "3")


def test_cluster_job_uses_nearest_conda_file_and_reports_it(there: SubmitRequest, project: Path) -> None:
    job = prepare_job(replace(there, environment=None))
    assert job.spec.environment is not None
    assert "python=3.11" in job.spec.environment.conda
    assert any(str(project / "environment.yml") in remark for remark in job.remarks)


@pytest.mark.parametrize("entry", [{"target": "train.py"}, {"target": None, "module": "lab.fit"}])
def test_import_of_himl_gives_remark_if_environment_lacks_it(there: SubmitRequest, project: Path, entry: dict[str, Any]) -> None:
    write_files(project, {"train.py": "import himl_cli\n", "lab/fit.py": "from himl_cli.job import inputs\n"})
    remarks = prepare_job(replace(there, environment=None, **entry)).remarks
    assert any("himl-cli" in remark for remark in remarks)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_place": True}, "--in_place: that is for jobs that run here"),
        ({"python": "python3"}, "--python python3: that is for jobs"),
        ({"record_in": "local"}, "--record_in local: that is for jobs"),
        ({"cluster": " "}, "--cluster got an empty value"),
        ({"num_nodes": 0}, "--num_nodes 0: at least 1"),
        ({"shm_size": "100"}, "--shm_size '100' is no size"),
        ({"shm_size": "0g"}, "'0g' is no size"),
        ({"shm_size": "1.5g"}, "'1.5g' is no size"),
        ({"identity": "me"}, "--identity cannot be 'me'"),
        ({"sdk": "v3"}, "--sdk cannot be 'v3'"),
        ({"record_in": "azur"}, "--record_in cannot be 'azur'"),
        ({"docker_image": "img"}, "--environment and --docker_image were both given"),
        ({"display_name": "x" * 257}, "--display_name has 257 characters; Azure ML takes 256"),
        ({"description": "x" * 5001}, "--description has 5,001 characters"),
        ({"tags": {"k" * 101: "v"}}, "has 101 characters; Azure ML takes 100"),
        ({"tags": {"note": "v" * 1001}}, "--tag note: the value has 1,001 characters"),
        ({"tags": {f"k{n}": "v" for n in range(60)}}, "Azure ML takes 50"),
        ({"inputs": ["x=,local=data"]}, "a cluster cannot see"),
        ({"outputs": ["y=,local=data"]}, "a cluster cannot see"),
        ({"arguments": ("--in", "${{inputs.train}}")}, "names no input; there are: none"),
    ],
)
def test_what_cannot_be_done_is_one_line(there: SubmitRequest, change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadUsage) as caught:
        prepare_job(replace(there, **change))
    assert message in str(caught.value)


def test_long_tags_that_come_by_themselves_are_shortened(there: SubmitRequest) -> None:
    tags = prepare_job(replace(there, arguments=("x" * 2000,), build={"build_source_message": "m" * 3000})).spec.tags
    assert (len(tags["command_line"]), len(tags["build_source_message"])) == (1000, 1000)
    assert tags["command_line"].endswith("…")


def test_what_settings_say_about_the_other_place_is_passed_over(there: SubmitRequest) -> None:
    cluster = prepare_job(replace(there, in_place=True, python="gone", record_in="azure", typed=frozenset({"cluster"})))
    assert (cluster.spec.in_place, cluster.spec.python, cluster.remarks) == (False, "", [])
    here = prepare_job(replace(there, cluster="local", num_nodes=4, shm_size="1g", conda_env=("gone.yml",), typed=frozenset({"shm_size"})))
    assert (here.spec.cluster, here.spec.nodes, here.spec.environment) == ("", 1, None)
    assert here.remarks == ["Passed over, since the job runs here and not on a cluster: --shm_size, num_nodes = 4."]


def test_environment_option_overrides_other_in_settings(there: SubmitRequest) -> None:
    both = replace(there, conda_env=("environment.yml",))
    by_name = prepare_job(replace(both, typed=frozenset({"environment"}))).spec.environment
    by_file = prepare_job(replace(both, typed=frozenset({"conda_env"}))).spec.environment
    assert by_name is not None
    assert by_file is not None
    assert (by_name.name, by_file.name) == ("lab", "")
    with pytest.raises(BadUsage, match="were both given"):
        prepare_job(replace(both, typed=frozenset()))


def test_an_experiment_that_is_called_otherwise_is_remarked(there: SubmitRequest) -> None:
    job = prepare_job(replace(there, experiment="ada/new-loss"))
    assert job.spec.experiment == "ada_new-loss"
    assert job.remarks[0].startswith("The experiment is called 'ada_new-loss'")
    assert prepare_job(replace(there, experiment="plain")).remarks == []
    assert prepare_job(replace(there, experiment="__mine")).spec.experiment == "mine"
    assert prepare_job(replace(there, experiment="__mine", cluster=None, typed=frozenset())).spec.experiment == "mine"


@pytest.mark.parametrize(("text", "size"), [("100g", "100g"), ("512M", "512m"), (" 64k ", "64k"), ("1b", "1b")])
def test_sizes(text: str, size: str) -> None:
    assert check_size("--shm_size", text) == size
