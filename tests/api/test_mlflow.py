"""Tests of MLflow's client with himl's plugins, on local workspaces, on Azure ML and on both, with the oldest and the
newest MLflow.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.runs import RunStatus
from himl_cli.services.mlflow_server import OLDEST
from tests.api import mlflow_reads as calls
from tests.api.mlflow_reads import FAILED, FILES, LOSS, OTHER, SWEEP, TRAINED, TRIALS
from tests.azure.lab import client_packages, client_python
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.stage import Stage
from tests.support.client_calls import Call, Called, call_all, variables_of_machine
from tests.support.clients import HIML_OLDEST_MLFLOW
from tests.support.running import PROGRAM, Himl, write_files
from tests.support.runs import RecordedRuns
from tests.workspaces.tracking.tracked_job import tracked_job

# The first use of a client builds its environment.
pytestmark = pytest.mark.timeout(1800)
IS_OLDEST = metadata.version("mlflow") == ".".join(map(str, OLDEST))
# The warning about a model that another version of MLflow wrote.
OTHER_VERSION = "warning mlflow.utils.requirements_utils: detected one or more mismatches"
REGISTERS = """
import mlflow, mlflow.pyfunc
from mlflow.tracking import MlflowClient
with mlflow.start_run():
    options = {"loader_module": "doubling", "code_paths": ["doubling.py"], "pip_requirements": []}
    mlflow.pyfunc.log_model(name="model", registered_model_name="doubles", **options)
    version = mlflow.register_model(f"runs:/{mlflow.active_run().info.run_id}/model", "doubles")
MlflowClient().set_model_version_tag("doubles", "1", "kind", "first")
MlflowClient().set_registered_model_alias("doubles", "best", "1")
"""
DOUBLING = """
class Doubling:
    def predict(self, values, params=None):
        return [2 * value for value in values]

def _load_pyfunc(path):
    return Doubling()
"""


def seed_local(folder: Path) -> dict[str, str]:
    """Record the runs that the calls read, in the workspace of *folder*. Return the variables that reach it."""
    runs = RecordedRuns(folder)
    runs.add(TRAINED, display_name="first", tags={"team": "blue"}, files=FILES)
    runs.add(FAILED, status=RunStatus.failed, exit_code=3, reason="exit code 3", tags={"team": "red"})
    runs.add(OTHER, experiment="other", tags={"team": "blue"})
    runs.add(SWEEP, experiment="tuning")
    for number, trial in enumerate(TRIALS):
        runs.add(trial, experiment="tuning", parent=SWEEP)
        runs.log(trial, [("val/dice", 0.25 + number / 2, 1, 1)])
    began = 1_772_366_401_000
    runs.log(
        TRAINED,
        [("loss", value, step, began + step) for step, value in enumerate(LOSS, 1)],
        {"lr": "0.1", "note": "größer"},
    )
    runs.log(TRAINED, [("acc", 0.75, 2, began)])
    return {}


def seed_azure(staged: StagedWorkspace, folder: Path) -> dict[str, str]:
    """Add the same runs to a workspace in Azure ML."""
    times = (datetime(2026, 3, 1, 12, tzinfo=timezone.utc) + timedelta(seconds=number) for number in range(9))
    trained = staged.add_run(
        TRAINED,
        "train",
        created=next(times),
        seconds=65,
        display_name="first",
        tags={"team": "blue"},
        parameters={"lr": "0.1", "note": "größer"},
    )
    staged.add_run(FAILED, "train", created=next(times), status="Failed", error="exit code 3", tags={"team": "red"})
    staged.add_run(OTHER, "other", created=next(times), tags={"team": "blue"})
    staged.add_run(SWEEP, "tuning", created=next(times))
    for number, trial in enumerate(TRIALS):
        staged.add_metric(
            staged.add_run(trial, "tuning", created=next(times), parent=SWEEP),
            "val/dice",
            [0.25 + number / 2],
            steps=[1],
        )
    staged.add_metric(trained, "loss", LOSS, steps=[1, 2, 3])
    staged.add_metric(trained, "acc", [0.75], steps=[2])
    staged.put_artifacts(trained, FILES)
    staged.write_config(folder)
    return dict(staged.environment())


@dataclass(frozen=True)
class Reader:
    """The results of the calls with one version of MLflow, and the folders in which they ran."""

    called: Mapping[str, Called]
    folders: Mapping[str, Path]
    variables: Mapping[str, Mapping[str, str]]

    def check(self, name: str) -> Any:
        """Return the result of a call, which must have succeeded without warnings."""
        called = self.called[name]
        assert (called.code, "warn" in called.errors.lower().replace(OTHER_VERSION, "")) == (0, False), called.errors
        return called.result


PLACES = ("here", "azure")
OF_BOTH = (calls.search, calls.read_runs, calls.read_files, calls.refuse, calls.change_tags, calls.delete)


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a workspace in which a job has registered a model."""
    folder = tmp_path_factory.mktemp("registered")
    write_files(folder, {"register.py": REGISTERS, "doubling.py": DOUBLING})
    Himl(PROGRAM, folder).ok("submit", "register.py", "-q", env=variables_of_machine(folder / "home"))
    return folder


@pytest.fixture(scope="module", params=["newest", "oldest"])
def reader(
    request: pytest.FixtureRequest, shared_stage: Stage, registered: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reader]:
    if request.param == "oldest" and IS_OLDEST:
        pytest.skip("the environment of the tests has the oldest MLflow itself")
    python = Path(sys.executable) if request.param == "newest" else client_python(HIML_OLDEST_MLFLOW)
    top, asked, folders, variables = (
        tmp_path_factory.mktemp("mlflow"),
        dict[str, Call](),
        dict[str, Path](),
        dict[str, dict[str, str]](),
    )
    shared_stage.clear()
    with shared_stage.own_workspaces():

        def add(name: str, function: str, *arguments: Any, place: str = "here") -> Path:
            folders[name] = folder = top / name
            folder.mkdir()
            own = {**variables_of_machine(top / f"home of {name}"), "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
            variables[name] = own | (
                seed_local(folder) if place == "here" else seed_azure(shared_stage.workspace(), folder)
            )
            asked[name] = Call(function, str(folder), variables[name], arguments)
            return folder

        for place in PLACES:
            for call in OF_BOTH:
                add(
                    f"{place} {call.__name__}",
                    call.__name__,
                    "himl:.",
                    *([place == "here" and "yes"] if call is calls.delete else []),
                    place=place,
                )
        places: dict[str, Any] = {}
        folder = add("places", "open_places", places)
        staged = shared_stage.workspace()
        staged.put_artifacts(staged.add_run("far_1_aa", "far"), {"user_logs/std_log.txt": b"hello\n"})
        staged.write_config(folder)
        variables["places"] |= staged.environment()
        (folder / "sub").mkdir()
        (top / "elsewhere" / ".himl").mkdir(parents=True)
        here, far = [TRAINED, FAILED, OTHER, SWEEP, *TRIALS], ["far_1_aa"]
        path = folder.as_uri().removeprefix("file://")
        places |= {
            "himl:.": [*here, *far],
            "himl:sub": [*here, *far],
            f"himl://{path}": [*here, *far],
            f"himl://{path}/.himl": here,
            "himl://azureml": far,
        }
        places |= {f"himl://{top.as_uri().removeprefix('file://')}?config_file={folder / 'config.json'}": far}
        places |= {
            f"himl:.?workspace={folder}": here,
            "himl:.?workspace=local": here,
            "himl:.?config_file=config.json": far,
        }
        add("wrong", "miss_places", {
            "himl:none": ("RESOURCE_DOES_NOT_EXIST", f"There is no folder '{top / 'wrong' / 'none'}'."),
            "himl://somewhere/x": ("INVALID_PARAMETER_VALUE",
                "'himl://somewhere/x' contains the host 'somewhere', but himl's URIs have none. Use himl:FOLDER"),
            "himl://azureml": ("RESOURCE_DOES_NOT_EXIST", "needs an Azure ML workspace, and none is configured."),
        })  # fmt: skip
        folders["models"] = top / "models"
        folders["models"].mkdir()
        asked["models"] = Call(
            "load_models",
            str(folders["models"]),
            variables["here search"],
            (f"himl://{registered.as_uri().removeprefix('file://')}",),
        )
        yield Reader(call_all(python, Path(calls.__file__), asked), folders, variables)
        assert not shared_stage.log.unknown()
    shared_stage.clear()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("call", [call.__name__ for call in OF_BOTH])
def test_it_is_the_same_here_and_on_azure_ml(reader: Reader, place: str, call: str) -> None:
    reader.check(f"{place} {call}")


def test_the_versions_are_those_that_are_meant(reader: Reader, request: pytest.FixtureRequest) -> None:
    expected = ".".join(map(str, OLDEST)) if "oldest" in request.node.name else metadata.version("mlflow")
    assert reader.check("here search") == expected


@pytest.mark.parametrize("place", PLACES)
def test_names_and_tags_arrive_in_himl(reader: Reader, place: str) -> None:
    name = f"{place} change_tags"
    reader.check(name)
    himl = Himl(PROGRAM, reader.folders[name])
    shown = {
        run: himl.ok("runs", "show", run, "--json", env=reader.variables[name]).json() for run in (TRAINED, FAILED)
    }
    assert (shown[TRAINED]["display_name"], shown[TRAINED]["tags"]["team"]) == ("last", "green ü")
    assert {name: value for name, value in shown[FAILED]["tags"].items() if value} == {
        "team": "red",
        "a": "1",
        "b": "2",
    }


def test_a_uri_names_a_workspace_or_says_what_is_wrong(reader: Reader) -> None:
    reader.check("places")
    reader.check("wrong")


def test_models_that_a_job_registered_are_found_and_loaded(reader: Reader) -> None:
    reader.check("models")


LOGS = """
import mlflow
with mlflow.start_run():
    mlflow.log_metric("loss", 0.5, step=1)
print("logged by", mlflow.__version__)
"""


def test_an_older_mlflow_in_a_job_logs_and_warns_of_nothing(himl: Himl, project: Path) -> None:
    """MLflow loads himl's plugins automatically when a script imports it."""
    write_files(project, {"train.py": LOGS})
    strict = "error,ignore:label() is deprecated"  # protobuf warns MLflow of that since 6.31, on Python 3.12 and newer
    run = himl.ok(
        "submit", "train.py", "-q", env={"PYTHONPATH": client_packages("mlflow2"), "PYTHONWARNINGS": strict}
    ).stdout.strip()
    log = himl.ok("runs", "logs", run).stdout
    assert ("logged by 2.22.5\n" in log, "warn" in log.lower()) == (True, False), log
    assert ("loss", 0.5) in [
        (each["name"], each["value"]) for each in himl.ok("runs", "show", run, "--json").json()["metrics"]
    ]


ELSEWHERE = """
import os
import mlflow
mlflow.set_tracking_uri(os.environ["ELSEWHERE"])
with mlflow.start_run(run_name="there"):
    mlflow.log_metric("loss", 0.5)
"""


def test_a_script_may_log_to_an_address_of_its_own_and_himl_names_it(himl: Himl, project: Path, tmp_path: Path) -> None:
    write_files(project, {"train.py": ELSEWHERE})
    with tracked_job(tmp_path / "team") as team:
        address = f"http://127.0.0.1:{team.server.port}/{team.secret}"
        done = himl.ok("submit", "train.py", "--env_var", f"ELSEWHERE={address}")
        assert (team.values("loss"), team.run().display_name) == ([0.5], "there")
    assert f"The script started MLflow runs at '{address}', which himl does not record." in done.stderr
    assert f"runs at '{address}', not in himl" in himl.ok("runs", "show", "latest").stdout
    assert himl.ok("runs", "show", "latest", "--json").json()["metrics"] == []


IMPORTED = """
import json, sys
import mlflow
print(json.dumps([*sys.modules]))
"""


def test_mlflow_imports_little_of_himl(tmp_path: Path) -> None:
    """MLflow imports all plugins in each script that uses it."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORTED],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    found = json.loads(done.stdout)
    assert "himl_cli.mlflow" in found
    assert {
        "azure",
        "sqlalchemy",
        "rich",
        "typer",
        "msgspec",
        "pycurl",
        "tensorboard",
        "himl_cli.workspaces.azure.connection",
    }.isdisjoint(found)
    assert sum(name.startswith("himl_cli") for name in found) <= 27
