"""Time MLflow's interface in Chromium with 2,000 runs: with `himl ui`, and with `mlflow server` and its SQLite store,
which has the same runs.

`start`: seconds from the command until the server responds. `first page`: from opening the experiment until the first
row of runs appears. `comparison`: from opening the comparison of 50 runs until a chart has the curves of all of them.
The browser has MLflow's scripts in its cache."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from benchmarks.blob_services import free_port
from benchmarks.measure import HIML, clean_environment, new_parser, recording, turns
from himl_cli.core.runs import Run, RunStatus
from himl_cli.workspaces.local.metric_store import MetricStore
from himl_cli.workspaces.local.run_store import Database, RunStore, now_ms
from himl_cli.workspaces.local.tracking.protocol import experiment_number
from tests.support.browser import chromium
from tests.support.running import until
from tests.support.tensorboard import DIRECT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

RUNS, COMPARED = 2000, 50
METRICS = ("loss", "acc", "val/loss", "val/acc")
POINTS, MANY_POINTS = 20, 1000
"""Points of each metric, and of those in compared runs."""
EXPERIMENT = "train"
HIML_UI, MLFLOW = "himl ui", "mlflow server, SQLite"
START, FIRST_PAGE, COMPARISON = (
    "until the server responds",
    "2,000 runs: the first page",
    "50 runs compared: all curves",
)


def points_of(number: int) -> list[tuple[str, float, int, int]]:
    """Return name, value, step, and time in milliseconds of each point."""
    count = MANY_POINTS if number >= RUNS - COMPARED else POINTS
    return [
        (name, 1 / (1 + step + number % 7), step, 1_772_366_400_000 + 1000 * step)
        for name in METRICS
        for step in range(count)
    ]


def record_himl(folder: Path) -> list[str]:
    """Make a local workspace in *folder* and return the ids of its runs."""
    (folder / ".himl").mkdir()
    database = Database(folder / ".himl" / "workspace.db", create=True)
    store, metrics = RunStore(database), MetricStore(database)
    ids = [f"{EXPERIMENT}_{1_750_000_000 + number}_{number:08x}" for number in range(RUNS)]
    for number, run_id in enumerate(ids):
        run = Run(run_id, EXPERIMENT, display_name=f"run {number}", command="train.py", tags={"fold": str(number % 5)})
        store.add(replace(run, started=run.created))
        metrics.log(run_id, points_of(number), [("lr", str(number / 1000))])
        store.end(run_id, RunStatus.completed, exit_code=0)
    database.close()
    return ids


def record_mlflow(folder: Path) -> tuple[str, list[str]]:
    """Make `mlflow.db` in *folder*, and return the ids of the experiment and of the runs."""
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.entities import RunStatus as MlflowStatus
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts"))
    experiment, ids = store.create_experiment(EXPERIMENT), []
    for number in range(RUNS):
        run_id = store.create_run(
            experiment, "", now_ms(), [RunTag("fold", str(number % 5))], f"run {number}"
        ).info.run_id
        points = [Metric(name, value, time, step) for name, value, step, time in points_of(number)]
        for start in range(0, len(points), 900):
            store.log_batch(run_id, points[start : start + 900], [Param("lr", str(number / 1000))], [])
        store.update_run_info(run_id, MlflowStatus.FINISHED, now_ms(), None)
        ids.append(run_id)
    store.engine.dispose()
    return str(experiment), ids


@contextmanager
def served(name: str, folder: Path) -> Iterator[tuple[str, float]]:
    """Run a server for the runs in *folder*. Yield its address, and the seconds until it responded."""
    port = free_port()
    commands = {
        HIML_UI: [HIML, "ui", "--port", str(port), "--no_token", "--workspace", str(folder / ".himl")],
        MLFLOW: [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--backend-store-uri",
            f"sqlite:///{folder}/mlflow.db",
            "--port",
            str(port),
            "--workers",
            "1",
        ],
    }
    environment: Mapping[str, str] = clean_environment() | {"HOME": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true"}
    start = time.perf_counter()

    def answers() -> bool:
        try:
            with DIRECT.open(f"http://127.0.0.1:{port}/version", timeout=10) as answer:
                return bool(answer.read())
        except OSError:
            return False

    with (
        (folder / "server.log").open("wb") as log,
        subprocess.Popen(commands[name], cwd=folder, env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            until(answers, f"{name} answers")
            yield f"http://127.0.0.1:{port}/", time.perf_counter() - start
        finally:
            process.terminate()


@contextmanager
def opened(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    # The defaults of `himl ui`: the pages about training, without the assistant.
    known = {"mlflow.workflowType_v1": "machine_learning", "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": True}
    context.add_init_script(
        f"for (const [name, value] of Object.entries({json.dumps(known)})) localStorage.setItem(name, "
        "JSON.stringify(value))"
    )
    try:
        yield context.new_page()
    finally:
        context.close()


def seconds_until_shown(page: Page, address: str, condition: str) -> float:
    """Return the seconds from opening *address* until *condition*, a JavaScript expression, is true."""
    page.goto("about:blank")
    start = time.perf_counter()
    page.goto(address)
    page.wait_for_function(condition, timeout=60_000, polling=20)
    return time.perf_counter() - start


def first_page(experiment: str) -> tuple[str, str]:
    return f"#/experiments/{experiment}/runs", f"document.body.innerText.includes('run {RUNS - 1}')"


def comparison(experiment: str, ids: list[str]) -> tuple[str, str]:
    query = {
        "runs": ids[-COMPARED:],
        "metric": "loss",
        "experiments": [experiment],
        "plot_metric_keys": ["loss"],
        "plot_layout": {},
    }
    texts = "&".join(f"{name}={quote(json.dumps(value))}" for name, value in query.items())
    curves = "(plot.data || []).filter(line => line.x && line.x.length > 1).length"
    drawn = f"[...document.querySelectorAll('.js-plotly-plot')].some(plot => {curves} >= {COMPARED})"
    return f"#/metric?{texts}&x_axis=step&y_axis_scale=linear", drawn


def main() -> None:
    args = new_parser(__doc__, 5).parse_args()
    from playwright.sync_api import sync_playwright

    with (
        tempfile.TemporaryDirectory(prefix="himl-ui-") as name,
        recording("ui", args.raw) as record,
        sync_playwright() as playwright,
    ):
        folders = {each: Path(name, number) for number, each in zip("12", (HIML_UI, MLFLOW), strict=True)}
        for folder in folders.values():
            folder.mkdir()
        own = record_himl(folders[HIML_UI])
        experiment, others = record_mlflow(folders[MLFLOW])
        runs = {HIML_UI: (experiment_number(EXPERIMENT), own), MLFLOW: (experiment, others)}
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--no-proxy-server", "--disable-gpu"]
        )
        for number, each in turns(runs, args.rounds):
            with served(each, folders[each]) as (url, seconds), opened(browser) as page:
                record.add(START, each, number, wall=seconds)
                for scenario, (place, condition) in {
                    FIRST_PAGE: first_page(runs[each][0]),
                    COMPARISON: comparison(*runs[each]),
                }.items():
                    # The first request imports modules.
                    seconds_until_shown(page, url + place, condition)
                    record.add(scenario, each, number, wall=seconds_until_shown(page, url + place, condition))
        browser.close()


if __name__ == "__main__":
    main()
