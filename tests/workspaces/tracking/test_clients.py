"""Tests of real MLflow clients, old and new, full and skinny, which log to a job's server.

The tests check the database.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from himl_cli.core.runs import RunStatus
from tests.azure.lab import client_python
from tests.support import clients
from tests.support.client_calls import Call, Called, call_all, variables_of_machine
from tests.workspaces.tracking.tracked_job import JOB, TrackedJob, tracked_job

# The first use of a client builds its environment.
pytestmark = pytest.mark.timeout(1800)

ALONE = (
    "log_values",
    "nest_runs",
    "search_runs",
    "log_async",
    "own_client",
    "meet_refusals",
    "register_models",
    "trace_calls",
)
RANKS, COUNT = 3, 20
# Since Python 3.14, url2pathname, to which MLflow passes paths, cuts a path at '#'.
RUNS = f"runs with space{' #1' if sys.version_info < (3, 14) else ''}"
FOREIGN = {
    **dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), "http://127.0.0.1:9"),
    **dict.fromkeys(("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_RUN_ID"), "of others"),
    "NO_PROXY": "example.org",
    "MLFLOW_TRACKING_URI": "http://example.invalid",
}
CREDENTIALS = {
    "netrc": (".netrc", "default login someone password something\n"),
    "credentials": (
        ".mlflow/credentials",
        "[mlflow]\nmlflow_tracking_username = someone\nmlflow_tracking_password = something\n",
    ),
}


@dataclass(frozen=True)
class Client:
    """The results of the calls of one client, and the jobs in which they ran."""

    name: str
    jobs: dict[str, TrackedJob]
    called: dict[str, Called]

    def job(self, name: str) -> TrackedJob:
        """Return the job of the call, which must have succeeded."""
        assert self.called[name].code == 0, self.called[name].errors
        return self.jobs[name]


@pytest.fixture(scope="module", params=clients.ALL)
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder, jobs, calls = tmp_path_factory.mktemp("jobs"), dict[str, TrackedJob](), dict[str, Call]()
    is_full = {"MLFLOW_IS_FULL": "1"} if request.param in clients.FULL else {}
    with ExitStack() as stack:

        def add(
            name: str, *arguments: str, function: str = "", job: str = "", env: dict[str, str] | None = None
        ) -> None:
            place = folder / name / "work"
            place.mkdir(parents=True)
            jobs[name] = jobs[job] if job else stack.enter_context(tracked_job(folder / name / RUNS))
            variables = jobs[name].server.environment(
                {**variables_of_machine(folder / name / "home"), "EXPECTED_RUN": JOB, **is_full, **(env or {})}
            )
            calls[name] = Call(function or name, str(place), variables, arguments)

        for name in (*ALONE, *(("autolog_grid", "log_model") if is_full else ())):
            add(name)
        add("exit", "", function="exit_with_three")
        add("exit hard", "hard", function="exit_with_three", job="exit")
        add("set_experiment", "set", function="name_experiments")
        add(
            "experiment of the shell", "", function="name_experiments", env={"MLFLOW_EXPERIMENT_NAME": "from the shell"}
        )
        add("foreign settings", function="meet_refusals", env=FOREIGN)
        for name, (file, text) in CREDENTIALS.items():
            path = folder / name / "home" / file
            path.parent.mkdir(parents=True)
            path.write_text(text)
            path.chmod(0o600)
            add(name, function="meet_refusals")
        jobs["team"] = stack.enter_context(tracked_job(folder / "team"))
        add(
            "use_other_address",
            env={"OTHER_ADDRESS": f"http://127.0.0.1:{jobs['team'].server.port}/{jobs['team'].secret}"},
        )
        for rank in range(RANKS):
            add(f"rank {rank}", str(rank), str(COUNT), function="log_from_rank", job="rank 0" if rank else "")
        yield Client(
            request.param,
            jobs,
            call_all(client_python(request.param), Path(__file__).with_name("mlflow_calls.py"), calls),
        )


def test_values_and_files_are_kept_and_read_back(client: Client) -> None:
    job = client.job("log_values")
    assert client.called["log_values"].result.startswith("2." if client.name == "mlflow2" else "3."), (
        "the environment lost its MLflow"
    )
    loss = job.values("loss")
    assert (loss[0], math.isnan(loss[1]), loss[2:]) == (0.5, True, [math.inf, -math.inf, 0.25])
    assert (job.values("val/accuracy"), job.values("f1")) == ([0.75], [1.0])
    assert job.parameters() == {
        "rate": "0.1",
        "layers": "[3, 2]",
        "note": "größer",
        "api_key": "***",
        "mask_token": "<mask>",
    }
    tags = job.run().tags
    assert ({"git": "abc", "kind": "first", "owner": "ada"}.items() <= tags.items(), "gone" in tags) == (True, False)
    assert job.files() == {
        "notes/read me.txt",
        "notes/#1.txt",
        "config.json",
        "with space.txt",
        "folder/sub folder/with space.txt",
    }
    job = client.job("log_async")
    assert job.values("loss") == [step / 100 for step in range(100)], "asynchronous logging loses nothing"
    assert (job.parameters(), job.run().tags["kind"]) == ({"rate": "0.1"}, "async")
    job, errors = client.job("trace_calls"), client.called["trace_calls"].errors
    traces = [name for name in job.files() if name.startswith("traces/")]
    assert (len(traces), {Path(name).name for name in traces}) == (3, {"traces.json"})
    # A job's experiment has the id of MLflow's default one, about which MLflow 2 warns
    unexpected = [line for line in errors.splitlines() if "within the default experiment" not in line]
    assert [line for line in unexpected if "WARNING" in line or "Traceback" in line] == []


def test_the_end_that_a_client_reports_does_not_end_the_job(client: Client) -> None:
    assert [client.called[name].code for name in ("exit", "exit hard")] == [3, 3], client.called["exit"].errors
    run = client.jobs["exit"].run()
    assert (run.status, run.ended, sorted(client.jobs["exit"].values("loss"))) == (RunStatus.running, None, [1.0, 2.0])


def test_nested_and_later_runs_become_children_of_the_job(client: Client) -> None:
    job = client.job("nest_runs")
    assert job.run().display_name == "renamed"
    children = job.children()
    done, failed, canceled = RunStatus.completed, RunStatus.failed, RunStatus.canceled
    states = {"fold 0": done, "fold 1": done, "inner": done, "crashed": failed, "second": done, "killed": canceled}
    assert {name: children[name].status for name in states} == states
    assert {name: children[name].parent for name in states} == {
        name: JOB if name != "inner" else children["fold 0"].id for name in states
    }
    assert {name: children[name].tags.get("himl.beside") for name in ("fold 0", "second")} == {
        "fold 0": None,
        "second": JOB,
    }
    assert job.values("score", children["fold 1"].id) == [0.1]
    assert job.values("after", children["second"].id) == [1.0, 2.0]
    assert job.files(children["second"].id) == {"second.txt"}
    assert [run.id for run in children.values() if job.values("implicit", run.id) == [3.0]] != []
    job.server.close()
    assert "mistake" not in job.children()
    assert job.run().status is RunStatus.running
    assert set(client.job("search_runs").children()) == {f"trial {number}" for number in range(4)}
    job = client.job("own_client")
    assert (job.children(), job.run().display_name, job.run().status, len(job.parameters())) == (
        {},
        "lightning",
        RunStatus.running,
        150,
    )
    assert len(job.values("loss")) == 1501
    # In the workspace, a different experiment changes nothing.
    for call in ("set_experiment", "experiment of the shell"):
        assert (client.job(call).values("loss"), client.job(call).children()) == ([1.0], {})


def test_a_script_may_log_to_an_address_of_its_own(client: Client) -> None:
    job, team = client.job("use_other_address"), client.jobs["team"]
    assert (job.values("loss"), job.values("elsewhere"), job.children()) == ([1.0], [], {})
    assert (team.values("loss"), team.values("elsewhere")) == ([], [1.0])


def test_logging_goes_on_after_refusals_and_with_foreign_settings(client: Client) -> None:
    for call in ("meet_refusals", "foreign settings", *CREDENTIALS):
        assert (client.job(call).parameters(), client.job(call).values("after")) == ({"rate": "0.1"}, [1.0]), call
    assert client.job("register_models").values("after") == [1.0]


def test_ranks_log_at_the_same_time(client: Client) -> None:
    for rank in range(RANKS):
        assert client.job(f"rank {rank}").values(f"rank{rank}") == list(range(COUNT))
    job = client.jobs["rank 0"]
    assert sorted(job.values("all")) == sorted(list(range(RANKS)) * COUNT)
    assert job.parameters() == {"shared": "same"}


@pytest.mark.parametrize("client", clients.FULL, indirect=True)
def test_autologging_a_grid_search_and_models_that_are_loaded(client: Client) -> None:
    job = client.job("autolog_grid")
    assert "encountered unexpected error" not in client.called["autolog_grid"].errors
    assert job.parameters()["best_alpha"] in ("0.1", "1.0", "10.0")
    assert (len(job.values("best_cv_score")), job.run().tags["estimator_name"]) == (1, "GridSearchCV")
    candidates = {
        job.parameters(run_id)["alpha"]: job.run(run_id).status
        for run_id in job.store.descendants(JOB)
        if run_id != JOB
    }
    assert candidates == dict.fromkeys(("0.1", "1.0", "10.0"), RunStatus.completed)
    assert {"model/MLmodel", "best_estimator/MLmodel", "cv_results.csv"} <= job.files()
    job = client.job("log_model")
    assert {
        "model/MLmodel",
        "black.png",
        "table.json",
        *(["model-2/MLmodel"] if client.name == "mlflow3" else []),
    } <= job.files()
    assert job.values("loss") == [0.5]
