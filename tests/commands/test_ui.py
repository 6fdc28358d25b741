"""Tests of `himl ui` in a headless browser: the installed program, with MLflow's server as its child process.

They run with the oldest supported MLflow and the installed one, and use texts and roles that both have. A test says
where the oldest MLflow lacks a feature of the newest.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from http.client import HTTPConnection
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from himl_cli.services.mlflow_server import OLDEST
from tests.azure.lab import client_python
from tests.azureml_double.stage import Stage
from tests.support.browser import browser as browser
from tests.support.browser import page as page
from tests.support.client_calls import variables_of_machine
from tests.support.clients import HIML_OLDEST_MLFLOW, PROJECT
from tests.support.processes import MARK, processes_marked
from tests.support.running import PROGRAM, Himl, until, validator, write_files
from tests.support.runs import RecordedRuns, posix
from tests.support.tensorboard import Board, bearing, is_closed, serving

# The first use of a client builds its environment.
pytestmark = [posix, pytest.mark.timeout(1800)]
OLDEST_TEXT = ".".join(map(str, OLDEST))
PATIENT = 60_000  # milliseconds, for a page on a busy machine
TRAINS = """
import mlflow, numpy
from himl_cli import RUN_CONTEXT
with mlflow.start_run():
    mlflow.log_params({"rate": 0.125, "note": "größer"})
    for step in range(3):
        mlflow.log_metric("val/loss", 1 / (step + 1), step=step)
        mlflow.log_metric("system/cpu_utilization_percentage", 10.0 * step, step=step)
    mlflow.log_text("some words", "notes/read me ü.txt")
    mlflow.log_image(numpy.full((30, 40, 3), 200, dtype=numpy.uint8), "grey.png")
    mlflow.log_table({"column": ["in a cell"]}, "table.json")
    with mlflow.start_run(run_name="inner fold", nested=True):
        mlflow.log_metric("val/loss", 0.25)
RUN_CONTEXT.log("score", 0.75)
"""
TRIES = """
import sys
from himl_cli import RUN_CONTEXT
RUN_CONTEXT.log("score", float(sys.argv[-1]))
"""
READS = """
import sys
import mlflow
import pandas
if "0.25" in sys.argv:
    table = pandas.DataFrame({"x": [1.0]})
    mlflow.log_input(mlflow.data.from_pandas(table, name="numbers"), context="training")
"""
GROWS = """
import os, sys, time
from himl_cli import RUN_CONTEXT
def log(*steps):
    for step in steps:
        RUN_CONTEXT.log("loss", 1.0 / (step + 1), step=step)
    RUN_CONTEXT.flush()
def wait(name):
    while not os.path.exists(f"{sys.argv[1]}/{name}"):
        time.sleep(0.05)
log(0, 1)
wait("grow")
log(2, 3, 47)
wait("end")
"""
LOSS, USE = [1.0, 0.5, 1 / 3], [0.0, 10.0, 20.0]
"""The values that a local run and one in Azure ML logged."""
HOSTILE = {
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
    "MLFLOW_REGISTRY_URI": "http://127.0.0.1:9",
    "MLFLOW_BACKEND_STORE_URI": "sqlite:////nowhere/mlflow.db",
    "_MLFLOW_SERVER_FILE_STORE": "/nowhere",
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true",
    "MLFLOW_SERVER_ALLOWED_HOSTS": "*",
    "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "*",
    "MLFLOW_DEPLOYMENTS_TARGET": "http://127.0.0.1:9",
    "MLFLOW_STATIC_PREFIX": "/elsewhere",
}
"""Settings that a user may have for MLflow elsewhere."""


def ask(board: Board, path: str, document: Any = None, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
    """Return the status and the answer of MLflow's REST API. A document is sent by POST."""
    with closing(HTTPConnection("127.0.0.1", board.port, timeout=60)) as connection:
        body = None if document is None else json.dumps(document)
        sent = {"Content-Type": "application/json", **bearing(board.token), **(headers or {})}
        connection.request("GET" if body is None else "POST", path, body, sent)
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, json.loads(content) if "json" in answer.headers.get("Content-Type", "") else content


@dataclass(frozen=True)
class World:
    """A folder with runs in the local workspace and in Azure ML, the variables that reach them, and a server.
    `growing` is the run in progress.
    """

    folder: Path
    variables: Mapping[str, str]
    board: Board
    version: str
    growing: str

    @property
    def himl(self) -> Himl:
        return Himl(PROGRAM, self.folder)

    def ask(self, path: str, document: Any = None, **headers: str) -> tuple[int, Any]:
        return ask(self.board, f"/ajax-api/2.0/mlflow/{path}", document, headers)

    def address(self, name: str, tab: str = "") -> str:
        """Return the URL of the run or experiment of that name."""
        experiments = {
            each["name"]: each["experiment_id"]
            for each in self.ask("experiments/search", {"max_results": 100})[1]["experiments"]
        }
        if name in experiments:
            return f"{self.board.url}#/experiments/{experiments[name]}/runs{tab}"
        (run,) = self.ask(
            "runs/search", {"experiment_ids": [*experiments.values()], "filter": f"attributes.run_name = '{name}'"}
        )[1]["runs"]
        return f"{self.board.url}#/experiments/{run['info']['experiment_id']}/runs/{run['info']['run_id']}{tab}"

    def run_id(self, name: str) -> str:
        return self.address(name).rpartition("/")[2]


def submit(himl: Himl, variables: Mapping[str, str], *arguments: str) -> str:
    return himl.ok("submit", "--no_wait", "-q", *arguments, env=variables).stdout.strip()


@pytest.fixture(scope="module")
def jobs(shared_stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder with local runs of jobs and a similar run in Azure ML, and the variables that reach them."""
    folder, home = tmp_path_factory.mktemp("ui"), tmp_path_factory.mktemp("home")
    variables, himl = variables_of_machine(home), Himl(PROGRAM, folder)
    write_files(
        folder,
        {
            "train.py": TRAINS,
            "trial.py": TRIES,
            "grow.py": GROWS,
            "fail.py": "import sys; sys.exit(3)",
            "read.py": READS,
        },
    )
    submit(
        himl, variables, "train.py", "--workspace", "local", "--no_system_metrics", "--display_name", "Near"
    )  # the script logs its own
    submit(himl, variables, "fail.py", "--display_name", "Broken")
    for rate in ("0.5", "0.25"):
        submit(himl, variables, "read.py", "--", "--rate", rate)
    for version in ("newest", "oldest"):
        submit(
            himl,
            variables,
            "trial.py",
            "--sweep",
            "lr=0.5,0.25",
            "--display_name",
            f"Hunt {version}",
            "--",
            "${{search_space.lr}}",
        )
    until(
        lambda: all(
            run["status"] in ("Completed", "Failed") for run in himl.ok("runs", "list", "--json", env=variables).json()
        ),
        "jobs end",
    )
    image, table = BytesIO(), {"columns": ["column"], "data": [["in a cell"]]}
    Image.new("RGB", (40, 30), (200, 200, 200)).save(image, "PNG")
    shared_stage.clear()
    with shared_stage.own_workspaces():
        staged = shared_stage.workspace()
        tags = {"mlflow.loggedArtifacts": json.dumps([{"path": "table.json", "type": "table"}])}
        far = staged.add_run(
            "far_1_aa", "train", display_name="Far", parameters={"rate": "0.125", "note": "größer"}, tags=tags
        )
        staged.add_metric(far, "val/loss", LOSS)
        staged.add_metric(far, "system/cpu_utilization_percentage", USE)
        staged.add_metric(far, "score", [0.75])
        staged.put_artifacts(
            far,
            {
                "notes/read me ü.txt": b"some words",
                "grey.png": image.getvalue(),
                "table.json": json.dumps(table).encode(),
            },
        )
        staged.write_config(folder)
        yield folder, {**variables, **staged.environment()}
        assert not shared_stage.log.unknown()
    shared_stage.clear()


@pytest.fixture(scope="module", params=["newest", "oldest"])
def world(
    request: pytest.FixtureRequest, jobs: tuple[Path, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """A world with a run in progress, which grows once a file `grow` exists in its folder, and ends once `end` does."""
    version = metadata.version("mlflow") if request.param == "newest" else OLDEST_TEXT
    if request.param == "oldest" and metadata.version("mlflow") == OLDEST_TEXT:
        pytest.skip("the environment of the tests has the oldest MLflow itself")
    program = PROGRAM if request.param == "newest" else client_python(HIML_OLDEST_MLFLOW).with_name("himl")
    (folder, variables), own = jobs, tmp_path_factory.mktemp(request.param)
    growing = f"Growing {own.name}"
    submit(
        Himl(PROGRAM, folder), variables, "grow.py", "--workspace", "local", "--display_name", growing, "--", str(own)
    )
    try:
        with serving(Himl(program, folder), own, env={**variables, **HOSTILE}, command=["ui"]) as board:
            yield World(folder, variables, board, version, growing)
            assert board.end() == 0
            assert board.talk == "Press Ctrl-C to stop it.\n"
    finally:
        write_files(own, {"grow": "", "end": ""})


@pytest.fixture
def shown(world: World, page: Page) -> Iterator[Page]:
    """A page that connects only to this machine, and whose scripts raise no errors. Its browser has the printed
    token.
    """
    page.set_default_timeout(PATIENT)
    expect.set_options(timeout=PATIENT)
    foreign, errors = list[str](), list[str]()
    page.on(
        "request",
        lambda request: (
            foreign.append(request.url) if not re.match(r"(http://localhost:|blob:|data:)", request.url) else None
        ),
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    assert page.context.request.get(world.board.address).ok
    yield page
    assert (foreign, errors) == ([], [])


def visit(page: Page, address: str) -> None:
    """Open an address in a new document.

    In the document of another view, that view goes on: it adds its filters to the address of the new one, and the two
    may draw the page anew in turns for ever.
    """
    page.goto("about:blank")
    page.goto(address)


def row(page: Page, name: str) -> Locator:
    return page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))


def choose(page: Page, *names: str) -> None:
    for name in names:
        row(page, name).get_by_role("checkbox").first.check()


REFUSED = (
    "New",
    "New run",
    "Create",
    "Create Model",
    "Register model",
    "Views",
    "Share",
    "MLflow Assistant",
    "GenAI",
    "Home",
    "Traces",
    "Prompts",
)
REFUSED_SETTINGS = ("LLM Connections", "Webhooks", "Enable telemetry", "Clear all demo data")


def hides(page: Page, texts: Sequence[str]) -> None:
    """Wait until none of the elements with these texts is visible."""

    def visible() -> list[str]:
        return [text for text in texts if any(each.is_visible() for each in page.get_by_text(text, exact=True).all())]

    until(lambda: not visible(), lambda: f"{visible()} become hidden")


def test_it_opens_on_the_newest_runs_without_what_himl_refuses(world: World, shown: Page) -> None:
    """Also by the logo, and by the list of experiments or models."""
    runs = re.compile(re.escape(world.address("grow")))
    visit(shown, world.board.address)
    shown.wait_for_url(runs)
    expect(row(shown, world.growing)).to_be_visible()
    hides(shown, REFUSED)
    for view, text in (
        ("#/experiments", "grow"),
        ("#/models", "Registered Models"),
        (f"#{world.address('Broken').partition('#')[2]}", "Broken"),
    ):
        visit(shown, f"{world.board.url}{view}")
        expect(shown.get_by_text(text, exact=True).first).to_be_visible()
        hides(shown, REFUSED)
    expect(shown.get_by_role("dialog")).to_have_count(0)
    shown.locator("a[href='#/']").first.click()
    shown.wait_for_url(runs)
    if world.version != OLDEST_TEXT:  # which has no settings
        visit(shown, f"{world.board.url}#/settings/general")
        expect(shown.get_by_text("Theme preference", exact=True)).to_be_visible()
        hides(shown, REFUSED_SETTINGS)


def test_runs_are_renamed_and_filtered_by_dataset(world: World, shown: Page) -> None:
    """A run without a display name has its arguments as its name."""
    for experiment, datasets in (("read", {"numbers"}), ("train", set[str]())):
        number = world.address(experiment).split("/")[-2]
        found = world.ask("experiments/search-datasets", {"experiment_ids": [number]})[1]
        assert {each["name"] for each in found.get("dataset_summaries", ())} == datasets
    visit(shown, world.address("read"))
    expect(row(shown, "rate=0.5")).to_be_visible()
    shown.get_by_label(re.compile("^Datasets")).first.click()
    shown.get_by_role("option", name=re.compile("numbers")).click()
    shown.keyboard.press("Escape")
    expect(row(shown, "rate=0.5")).to_have_count(0)
    new = f"renamed with {world.version}"
    shown.get_by_role("row").filter(has=shown.get_by_text(re.compile("^(rate=0.25|renamed with)"))).get_by_role(
        "link"
    ).first.click()
    shown.get_by_role("button", name="Open header dropdown menu").click()
    shown.get_by_role("menuitem", name="Rename").click()
    shown.get_by_role("dialog").get_by_role("textbox").fill(new)
    shown.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(shown.get_by_role("heading", name=new)).to_be_visible()
    listed = world.himl.ok("runs", "list", "--experiment", "read", "--json", env=world.variables).json()
    assert sorted(run["display_name"] for run in listed) == ["", new]


def test_tables_show_runs_of_both_places_and_those_below_them(world: World, shown: Page) -> None:
    visit(shown, f"{world.board.url}#/experiments")
    for name in ("train", "fail", "grow"):
        expect(row(shown, name)).to_be_visible()
    row(shown, "train").get_by_role("link", name="train", exact=True).click()
    expect(shown.get_by_text("3 matching runs")).to_be_visible()
    expect(row(shown, "Far")).to_be_visible()
    expect(row(shown, "inner fold")).to_have_count(0)
    row(shown, "Near").get_by_role("button").first.click()
    expect(row(shown, "inner fold")).to_be_visible()
    expect(shown.get_by_role("alert").filter(has_text=re.compile("error|not|cannot", re.IGNORECASE))).to_have_count(0)
    row(shown, "inner fold").get_by_role("link", name="inner fold").click()
    expect(shown.get_by_role("link", name="Near")).to_be_visible()


@pytest.mark.parametrize("name", ["Near", "Far"])
def test_values_and_files_of_a_run_are_shown(world: World, shown: Page, name: str) -> None:
    visit(shown, world.address(name))
    for text in (
        "rate",
        "0.125",
        "größer",
        "val/loss",
        "0.3333333333333333",
        "0.75",
        "System metrics (1)",
        "Model metrics (2)",
        "Finished",
    ):
        expect(shown.get_by_text(text, exact=True).first).to_be_visible()
    shown.get_by_role("tab", name="Model metrics").click()
    draws(shown, {(name, "val/loss"): LOSS})
    shown.get_by_role("tab", name="System metrics").click()
    expect(shown.get_by_text("cpu_utilization_percentage").first).to_be_visible()
    draws(shown, {(name, "system/cpu_utilization_percentage"): USE})
    shown.get_by_role("tab", name="Artifacts").click()
    shown.get_by_text("notes", exact=True).click()
    shown.get_by_text("read me ü.txt", exact=True).click()
    expect(shown.get_by_text("some words")).to_be_visible()
    shown.get_by_text("grey.png", exact=True).click()
    image = shown.locator("img[src^='blob:']").first
    expect(image).to_be_visible()
    assert image.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [40, 30]
    shown.get_by_text("table.json", exact=True).first.click()
    expect(shown.get_by_text("in a cell")).to_be_visible()


def curves(page: Page) -> dict[tuple[str, str], list[float]]:
    """Return the values of each drawn curve, by run name and metric."""
    drawn = (
        "[...document.querySelectorAll('.js-plotly-plot')].flatMap(plot => plot.data.filter(each => "
        "each.type.startsWith('scatter')))"
    )
    return {
        (name, metric): values
        for name, metric, values in page.evaluate(f"{drawn}.map(each => [each.name, each.metricKey, each.y])")
    }


def draws(page: Page, expected: Mapping[tuple[str, str], list[float]]) -> None:
    """Wait until the page shows exactly these curves."""
    until(lambda: curves(page) == expected, lambda: f"{curves(page)} becomes {expected}")


def test_a_failed_run_says_why(world: World, shown: Page) -> None:
    visit(shown, world.address("Broken"))
    expect(shown.get_by_text("Failed", exact=True).first).to_be_visible()
    expect(shown.get_by_text("himl.reason")).to_be_visible()
    expect(shown.get_by_text("exit code 3")).to_be_visible()


def test_a_curve_grows_while_it_is_looked_at(world: World, shown: Page) -> None:
    """The page refreshes every 30 seconds. The test moves its clock forward."""
    growing = world.growing
    shown.clock.install()
    visit(shown, world.address(growing, "/model-metrics"))
    draws(shown, {(growing, "loss"): [1.0, 0.5]})
    command = world.himl.ok("runs", "show", world.run_id(growing), "--json", env=world.variables).json()["command"]
    write_files(Path(command.split()[-1]), {"grow": ""})

    def has_grown() -> bool:
        shown.clock.run_for(31_000)
        return curves(shown) == {(growing, "loss"): [1.0, 0.5, *LOSS[2:], 0.25, 1 / 48]}

    until(has_grown, lambda: f"the curve grows, which is {curves(shown)}")


def test_runs_of_both_places_are_compared(world: World, shown: Page) -> None:
    visit(shown, world.address("train"))
    choose(shown, "Near", "Far")
    shown.get_by_role("button", name="Compare").click()
    expect(shown.get_by_text("Comparing 2 Runs from 1 Experiment")).to_be_visible()
    for text in (world.run_id("Near"), "far_1_aa", "score", "val/loss", "größer"):
        expect(shown.get_by_text(text).first).to_be_visible()
    visit(shown, world.address("train", "?compareRunsMode=CHART"))
    draws(shown, {(name, "val/loss"): LOSS for name in ("Near", "Far")})


def test_a_sweep_is_deleted_with_its_trials_and_files(
    world: World, shown: Page, request: pytest.FixtureRequest
) -> None:
    name = f"Hunt {request.node.callspec.params['world']}"
    sweep, runs = world.run_id(name), world.folder / ".himl" / "runs"
    visit(shown, world.address("trial"))
    choose(shown, name)
    shown.get_by_role("button", name="Delete", exact=True).click()
    expect(shown.get_by_role("dialog").get_by_text("has 2 child runs")).to_be_visible()
    with shown.expect_response(re.compile(f"/runs/get.*{sweep}")) as looked:
        shown.get_by_role("dialog").get_by_role("button", name="Delete selected and children").click()
    assert looked.value.status == 200, "the page tells of an error otherwise"
    expect(row(shown, name)).to_have_count(0)
    expect(shown.get_by_role("dialog")).to_have_count(0)
    expect(shown.get_by_role("alert")).to_have_count(0)
    assert [path.name for path in runs.iterdir() if path.name.startswith(sweep)] == []
    assert world.himl("runs", "show", sweep, env=world.variables).code == 3


def test_runs_that_go_on_or_are_elsewhere_are_not_deleted(world: World, shown: Page) -> None:
    growing = world.growing
    sentences = {
        growing: f"Run '{world.run_id(growing)}' is still in progress. Stop it first: himl runs cancel",
        "Far": "Run 'far_1_aa' is in ",
    }
    for experiment, name in (("grow", growing), ("train", "Far")):
        visit(shown, world.address(experiment))
        choose(shown, name)
        shown.get_by_role("button", name="Delete", exact=True).click()
        shown.get_by_role("dialog").get_by_role("button", name="Delete selected").click()
        if world.version == OLDEST_TEXT:  # this version does not show the sentence
            expect(shown.get_by_text("an error occurred")).to_be_visible()
        else:
            expect(shown.get_by_text(sentences[name])).to_be_visible()
        shown.reload()
        expect(row(shown, name)).to_be_visible()
        status, answer = world.ask("runs/delete", {"run_id": world.run_id(name)})
        assert (status >= 400, sentences[name] in answer["message"]) == (True, True), answer


@pytest.mark.parametrize("name", ["Near", "Far"])
def test_tags_that_are_set_in_the_page_arrive_in_himl(world: World, shown: Page, name: str) -> None:
    key = f"seen_with_{world.version.replace('.', '_')}"  # the oldest MLflow refuses dots in keys
    visit(shown, world.address(name))
    shown.get_by_role("button", name=re.compile("(Add|Edit) tags")).first.click()
    dialog = shown.get_by_role("dialog")
    dialog.get_by_role("combobox").fill(key)
    dialog.get_by_role("combobox").press("Enter")
    dialog.get_by_label("Value").fill("blue ü")
    dialog.get_by_label("Value").press("Enter")
    dialog.get_by_role("button", name="Save tags").click()
    expect(dialog).to_have_count(0)
    expect(shown.get_by_text(key)).to_be_visible()
    assert (
        world.himl.ok("runs", "show", world.run_id(name), "--json", env=world.variables).json()["tags"][key] == "blue ü"
    )


def test_strangers_get_nothing_and_what_is_not_for_runs_is_closed(world: World) -> None:
    search, evil = "/ajax-api/2.0/mlflow/experiments/search", {"Origin": "http://evil.example"}
    board, port, every = world.board, world.board.port, {"max_results": 10}
    assert ask(board, search, every)[0] == 200
    assert ask(board, search, every, {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"})[0] == 200
    hosts = ({"Host": "evil.example"}, {"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"})
    for path, document, headers in (
        *(
            (search, every, {"Origin": origin})
            for origin in ("http://evil.example", f"http://localhost:{port + 1}", "null")
        ),
        *((f"{search}?max_results=10", None, headers) for headers in (evil, *hosts)),
        ("/", None, hosts[0]),
    ):
        status, answer = ask(board, path, document, headers)
        assert (status, b"train" in str(answer).encode()) == (403, False), (path, headers, answer)
    closed = [
        "/ajax-api/3.0/mlflow/assistant/config",
        "/gateway/x/invocations",
        "/ajax-api/3.0/jobs/",
        "/ajax-api/3.0/mlflow/webhooks",
    ]
    closed += [
        "/ajax-api/2.0/mlflow/upload-artifact?path=x&run_uuid=far_1_aa",
        "/ajax-api/3.0/mlflow/mcp-servers",
        "/ajax-api/3.0/mlflow/demo/generate",
    ]
    closed += [
        "/ajax-api/3.0/mlflow/scorer/invoke",
        "/ajax-api/3.0/mlflow/scorers/register",
        "/ajax-api/2.0/mlflow/runs/create-promptlab-run",
    ]
    assert [path for path in closed if (ask(board, path)[0], ask(board, path, {})[0]) != (403, 403)] == []
    asked = "/ajax-api/2.0/mlflow/gateway-proxy?gateway_path=api/2.0/endpoints/"
    assert ask(board, asked) == (200, {"endpoints": []}), "nobody else is asked"
    status, answer = world.ask("runs/create", {"experiment_id": "0"})
    assert (status, answer["message"].startswith("MLflow cannot create run in himl's workspaces: ")) == (403, True)


def test_large_bodies_are_refused_and_silent_connections_are_closed(world: World) -> None:
    board, port, search = world.board, world.board.port, "/ajax-api/2.0/mlflow/experiments/search"
    assert ask(board, search, {"filter": "x" * (1 << 20)})[0] == 413
    with ExitStack() as many:
        silent = [many.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(300)]
        until(
            lambda: sum(bool(select.select([client], [], [], 0)[0]) for client in silent) >= 300 - 128,
            "the oldest ones are closed",
        )
        assert ask(board, search, {"max_results": 10})[0] == 200


@pytest.fixture
def recorded(project: Path) -> RecordedRuns:
    runs = RecordedRuns(project)
    runs.add("train_1_aa", files={"outputs/model.bin": "m"})
    return runs


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """The mark in the environment of this test's processes. None of them may remain."""
    own = f"{os.environ[MARK]}-{request.node.name}"
    monkeypatch.setenv(MARK, own)
    yield own
    if Path("/proc").is_dir():
        assert processes_marked(own, patience=60.0) == []


@pytest.mark.usefixtures("recorded", "mark")
@pytest.mark.parametrize(
    ("number", "form"), [(signal.SIGKILL, "human"), (signal.SIGINT, "quiet"), (signal.SIGTERM, "json")]
)
def test_however_himl_ends_nothing_is_left(himl: Himl, tmp_path: Path, number: signal.Signals, form: str) -> None:
    with serving(himl, tmp_path, "--format", form, command=["ui"]) as board:
        document = json.dumps({"url": board.address})
        validator("ui").validate(json.loads(document))
        assert (
            board.line
            == {"human": f"MLflow: {board.address}\n", "quiet": f"{board.address}\n", "json": f"{document}\n"}[form]
        )
        assert ask(board, "/version")[0] == 200
        assert [path.name.startswith("himl_ui_") for path in (tmp_path / "tmp").iterdir()] == [True]
        assert board.end(number) == (-number if number == signal.SIGKILL else 0)
        assert board.talk == ("" if form == "quiet" else "Press Ctrl-C to stop it.\n")
        until(lambda: [*(tmp_path / "tmp").iterdir()] == [], "the temporary folder is empty")
        assert is_closed(board.port)


@pytest.mark.usefixtures("mark")
def test_who_is_let_in_is_said_and_a_taken_port_moves_on(
    himl: Himl, tmp_path: Path, recorded: RecordedRuns, read_only: Callable[[Path], Path]
) -> None:
    """The workspace is read-only. MLflow still shows it."""
    read_only(recorded.folder / ".himl")
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with serving(himl, tmp_path, "--host", "0.0.0.0", "--port", str(port), command=["ui"]) as board:
            assert port < board.port <= port + 100
            assert f"Port {port} is in use, so MLflow uses " in board.talk
            assert f" is in use, so MLflow uses {board.port}." in board.talk  # perhaps after others that are
            assert (
                f"Other machines can reach 0.0.0.0:{board.port}. The token and the runs are sent unencrypted."
                in board.talk
            )
            api, own = "/ajax-api/2.0/mlflow", {"Host": "a.name.of.it:81", "Origin": "http://a.name.of.it:81"}
            (experiment,) = ask(board, f"{api}/experiments/search", {"max_results": 9}, own)[1]["experiments"]
            (run,) = ask(board, f"{api}/runs/search", {"experiment_ids": [experiment["experiment_id"]]})[1]["runs"]
            assert run["info"]["run_id"] == "train_1_aa"
            for change in ({"key": "a", "value": "b"}, None):
                given = {"run_id": "train_1_aa", **(change or {})}
                status, answer = ask(board, f"{api}/runs/{'set-tag' if change else 'delete'}", given)
                assert (
                    status >= 400,
                    str(recorded.folder / ".himl") in answer["message"],
                    "Traceback" in answer["message"],
                ) == (True, True, False), answer
            assert (
                ask(board, f"{api}/artifacts/list?run_id=train_1_aa&path=outputs")[1]["files"][0]["path"]
                == "outputs/model.bin"
            )
            assert board.end() == 0


@pytest.mark.parametrize("installed", [None, "3.4.0"])
def test_without_the_full_mlflow_the_command_that_installs_it_is_named(
    tmp_path: Path, project: Path, installed: str | None
) -> None:
    """The environment has the packages of this one, except that MLflow is missing or older."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not re.match(r"mlflow([-.]|$)", path.name):
            (packages / path.name).symlink_to(path)
    if installed:
        write_files(
            packages / f"mlflow-{installed}.dist-info",
            {"METADATA": f"Metadata-Version: 2.1\nName: mlflow\nVersion: {installed}\n"},
        )
    places = os.pathsep.join((str(PROJECT), str(packages)))
    done = subprocess.run(
        [sys.executable, "-S", "-m", "himl_cli", "ui"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": places},
        capture_output=True,
        text=True,
    )
    found = f" {OLDEST_TEXT} or newer, but {installed} is installed" if installed else ", which is not installed"
    error, hint = done.stderr.splitlines()
    assert (done.returncode, done.stdout, error) == (2, "", f"error: himl ui needs MLflow{found}.")
    assert re.fullmatch(r"hint: Install it: pip install .*\[ui\].*", hint), hint


@pytest.mark.usefixtures("recorded")
def test_options_that_cannot_be_meant_are_exit_2(himl: Himl) -> None:
    for options in (["--port", "65536"], ["--port", "-1"], ["--host", "no.such.host.invalid"], ["--host="]):
        assert himl("ui", *options).code == 2, options
