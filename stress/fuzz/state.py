"""Parsers of himl's own files, which others may overwrite, of its messages to other ranks, and of requests to a
job's server.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import sqlite3
import zipfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hypothesis import strategies as st

from himl_cli.api import submit_if_needed
from himl_cli.core import search
from himl_cli.core.errors import BadUsage, DiskFailed, HimlError, IntegrityFailed, JobFailed, RunNotFound
from himl_cli.core.logged import Logged, LoggedKind, LoggedRow
from himl_cli.core.runs import Run, RunQuery, RunStatus
from himl_cli.services.checkpoints.names import is_whole
from himl_cli.services.runs.archive import MANIFEST, export_runs, import_runs
from himl_cli.services.runs.mirror_state import MirrorFile
from himl_cli.services.submission.environment_checks import imports_himl
from himl_cli.services.transfer.state import FetchedFile, TransferState
from himl_cli.workspaces.azure.connection import DiskCache
from himl_cli.workspaces.azure.storage.datastore_records import DatastoreRecord
from himl_cli.workspaces.local import launch_request, logged_values, metric_store, run_folder
from himl_cli.workspaces.local.run_store import Database, RunStore, as_time
from himl_cli.workspaces.local.schema import SCHEMA
from himl_cli.workspaces.local.tracking import http_connection, protocol, tracked_runs
from himl_cli.workspaces.local.workspace import LocalWorkspace
from stress.fuzz.strategies import JOB, Target, contents, damaged, json_files, json_texts, texts, written
from tests.support.folders import state_of
from tests.support.runs import RecordedRuns


@cache
def _transfer_state() -> bytes:
    with TransferState(Path.cwd(), print) as state:
        state.record(FetchedFile("a/b.txt", "r/a/b.txt", "0x8D", 3, 17, b"x" * 16))
        state.begin_part("c", "r/c 0x8E 100")
        state.add_range("c", "r/c 0x8E 100", 0, 50, is_on_disk=True)
    return state_of(Path.cwd()).read_bytes()


def _transfer(content: bytes) -> None:
    with TransferState(Path.cwd(), print):
        pass
    written(str(state_of(Path.cwd())), content)
    with TransferState(Path.cwd(), print) as state:
        state.find("a/b.txt")
        for start, stop in state.ranges("c", "r/c 0x8E 100"):  # numbers, or a TypeError
            assert stop - start < 2**64, (start, stop)
        state.record(FetchedFile("d", "r/d", "", 1, 2, None))
        state.flush()
        state.begin_part("e", "r/e  1")


@cache
def _workspace() -> bytes:
    path = Path.cwd() / "made.db"
    database = Database(path, create=True)
    run = Run(
        JOB,
        "exp",
        RunStatus.running,
        display_name="n",
        tags={"himl.tries": "[1]", "a": "b"},
        started=as_time(1700000000000),
    )
    RunStore(database).add(run)
    metric_store.MetricStore(database).log(
        JOB, [("loss", 0.5, 1, 1700000000000), ("loss", 0.4, 2, 1700000001000)], [("lr", "1")]
    )
    RunStore(database).end(JOB, RunStatus.completed, exit_code=0)
    database.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    return path.read_bytes()


def _read_workspace() -> None:
    workspace = LocalWorkspace(Path.cwd())
    for run in [*workspace.runs(RunQuery(limit=5))][:3]:
        for read in (workspace.run, workspace.metrics, workspace.values, workspace.parameters):
            read(run.id)
        workspace.results([run], wanted=lambda name: True, whole=True)


def _placed(content: bytes) -> Path:
    for path in Path.cwd().glob("workspace.db*"):
        # SQLite removes its other files when the garbage collector closes the connection of an earlier example.
        path.unlink(missing_ok=True)
    return written("workspace.db", content)


def _damaged_workspace(content: bytes) -> None:
    _placed(content)
    _read_workspace()


def _rows(given: tuple[str, str, Any]) -> None:
    table, column, value = given
    connection = sqlite3.connect(_placed(_workspace()))
    try:
        connection.execute(f"UPDATE OR IGNORE {table} SET {column} = ?", (value,))
        connection.commit()
    except (sqlite3.IntegrityError, sqlite3.OperationalError, OverflowError, UnicodeEncodeError):
        return  # SQLite cannot store it
    finally:
        connection.close()
    _read_workspace()


def _row_values() -> st.SearchStrategy[Any]:
    connection = sqlite3.connect(":memory:")
    connection.executescript(SCHEMA)
    tables = [
        row[0]
        for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
    ]
    places = [(table, row[1]) for table in tables for row in connection.execute(f"PRAGMA table_info({table})")]
    connection.close()
    odd: Sequence[Any] = (
        *(
            None,
            "",
            "x",
            b"\xff\0",
            -1,
            2**63 - 1,
            -(2**63),
            1e308,
            float("inf"),
            "\0",
            "\x1b[31m\n",
            "[1, [2]]",
            "[" * 3000,
            "9" * 5000,
        ),
        *('{"a": NaN}', "Completed"),
    )
    values = (
        st.sampled_from(odd)
        | st.integers(-(2**63), 2**63 - 1)
        | st.floats()
        | st.binary(max_size=8)
        | texts(('{"--lr": 0.1}', "[1, 2]"))
    )
    return st.tuples(st.sampled_from(places), values).map(lambda pair: (*pair[0], pair[1]))


def _stored(name: str, samples: Callable[[], bytes], run: Callable[[bytes], object]) -> Target:
    return Target(f"state/{name}", lambda: damaged([samples()]), run, (DiskFailed, RunNotFound))


SWEEP = {"space": {"lr": {"draw": "choice", "values": [1, 2]}}, "early_stop": {"policy": "median"}, "max_trials": 2}
SNAPSHOT = {"root": "/x", "files": ["train.py"], "size": 10}
ASKED: dict[str, Any] = {
    "experiment": "exp",
    "entry": {"kind": "script", "target": "train.py"},
    "snapshot": SNAPSHOT,
    "python": "python",
}
ASKED |= {"arguments": ["--a"], "inputs": [{"key": "INPUT_0", "name": "d"}], "outputs": [], "sweep": SWEEP}
SPEC = {**ASKED, "env_names": ["A"], "has_secrets": False}
ORDER = {
    "run_folder": "/x",
    "spec": {**ASKED, "env": {}},
    "command": "python train.py",
    "inputs": {"INPUT_0": "/d"},
    "outputs": {},
}
NOTE = {
    "run_id": JOB,
    "place": {"folder": "/w"},
    "is_starting": False,
    "failure": "",
    "away": "",
    "not_before": 1.5,
    "runs": {JOB: {"there": "x", "row": 3}},
}
NOTE_PLAIN = {"run_id": JOB, "place": {}, "runs": {}}
LINES = (
    (
        '{"kind": "table", "values": {"a": 1, "b": "x"}, "step": 3, "time": "2026-11-20T10:40:57+00:00"}\n'
        '{"kind": "scalar", "values": {"name": "text"}, "time": "2026-11-20T10:40:57"}\n'
        '{"kind": "list", "values": {"name": "NaN"}, "step": null, "time": "2026-11-20T10:40:57+00:00"}\n'
        '{"kind": "image", "values": {"name": "a.png"}, "time": "2026-11-20T10:40:57+00:00"}\n'
    ),
)
STORE = {
    "name": "d",
    "type": "AzureBlob",
    "account": "a",
    "container": "c",
    "endpoint": "",
    "protocol": "https",
    "credentials": "None",
}
IMPORTS, YIELDS = (
    "import himl_cli\nfrom himl_cli.api import x\nprint(1)\n",
    "def f(a):\n    import himl_cli; return (yield a)\n",
)
SCRIPT = (IMPORTS, YIELDS, "# coding: latin-1\nx = 'é himl_cli'\n")
DAMAGED = (AttributeError, IndexError, KeyError, TypeError, ValueError)  # `resuming` reports these as an invalid record


def _records(content: bytes) -> None:
    written("plan.json", content)
    folder = run_folder.RunFolder(Path.cwd())
    plan = folder.read(run_folder.PLAN)
    written("job.json", content)
    folder.read(run_folder.RECORD)
    written("why", content)
    assert folder.why_canceled()
    try:
        launch_request.job_from_stored_form(plan["job"], {})
    except DAMAGED:
        return


def _order(text: str) -> None:
    try:
        launch_request.request_from_json(text)
    except (*DAMAGED, RecursionError):
        return


def _note(content: bytes) -> None:
    written(f"recordings/{JOB}.json", content)
    note = MirrorFile(Path.cwd(), JOB).read()
    if note is not None:
        note.is_due()
        note.to_json()


def _logged(content: bytes) -> None:
    written("logged/name.jsonl", content)
    logged_values.read_logged_files(Path.cwd(), lambda name: True)
    list(logged_values.read_texts(Path.cwd(), JOB))


def _kept(content: bytes) -> None:
    kept = DiskCache(Path.cwd() / "cache")
    kept.put("datastores", "key", 1, seconds=60)
    (path,) = (Path.cwd() / "cache").rglob("*.json")
    path.write_bytes(content)
    found = DatastoreRecord.from_json(kept.get("datastores", "key"))
    if found is not None:
        from himl_cli.workspaces.azure.config import PUBLIC

        found.info(PUBLIC)
        found.url(PUBLIC)


@cache
def _archive() -> Path:
    """A folder with two exported runs, one of them with metrics and files, as `himl runs export` writes it."""
    near = RecordedRuns(Path.cwd() / "near")
    near.add(JOB, files={"outputs/a.txt": "good", "user_logs/std_log.txt": "said"}, tags={"a": "b"}, exit_code=0)
    near.add("train_2", parent=JOB)
    near.workspace.log_parameters(JOB, {"lr": "1"})
    row = LoggedRow({"loss": 0.5}, 1, as_time(1700000000000), "b")
    near.workspace.log(JOB, [Logged("loss", LoggedKind.scalar, [row])])
    runs = [near.workspace.run(name) for name in (JOB, "train_2")]
    export_runs(near.workspace, runs, Path.cwd() / "archive", print)
    return Path.cwd() / "archive"


def _manifests() -> st.SearchStrategy[bytes]:
    return json_files([json.loads((_archive() / MANIFEST).read_bytes())])


def _zips() -> st.SearchStrategy[bytes]:
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(each for each in _archive().rglob("*") if each.is_file()):
            archive.write(path, path.relative_to(_archive()).as_posix())
    return damaged([found.getvalue()])


def _import(source: Path) -> None:
    """Import *source* into a workspace that does not exist yet. What is recorded can be read."""
    shutil.rmtree("far", ignore_errors=True)
    os.mkdir("far")
    workspace = LocalWorkspace(Path.cwd() / "far" / ".himl")
    for run in import_runs(workspace, source, print):
        for read in (workspace.run, workspace.metrics, workspace.values, workspace.parameters):
            read(run.id)


def _manifest(content: bytes) -> None:
    shutil.rmtree("changed", ignore_errors=True)
    changed = Path(shutil.copytree(_archive(), "changed"))
    (changed / MANIFEST).write_bytes(content)
    _import(changed)


def _checkpoints() -> list[bytes]:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"x" * 50)
    header = b'{"__metadata__": {"format": "pt"}, "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'
    return [file.getvalue(), len(header).to_bytes(8, "little") + header + b"\0" * 8]


def _whole(content: bytes) -> None:
    for name in ("last.ckpt", "model.safetensors"):
        is_whole(written(name, content))


def _word(text: str) -> None:
    if "\0" in text:
        return  # no environment variable can have it
    try:
        os.environ[submit_if_needed.DOWNLOADED_VARIABLE] = text
    except UnicodeEncodeError:
        return
    submit_if_needed.downloaded().get("0badcafe0bad")


STATUSES = "attributes.status IN ('FINISHED', 'x') AND params.\"a\" LIKE '%b_'"
FILTERS = ("metrics.loss < 0.5 and tags.`kind x` = 'best'", STATUSES, "tags.x IS NOT NULL", "run_name ILIKE 'A%'")
CLAUSES = ("metrics.loss DESC", "attribute.start_time", "tags.`x y` ASC", "Created")
TAGGED = [{"key": "a", "value": "b"}]
LOSS = {"key": "loss", "value": 0.5, "step": "3", "timestamp": 1700000000000}
BATCH = {"run_id": JOB, "metrics": [LOSS], "params": [{"key": "lr", "value": "1"}], "tags": TAGGED}
CREATE = {
    "experiment_id": "1",
    "run_name": "n",
    "start_time": 1700000000000,
    "tags": [{"key": "mlflow.parentRunId", "value": JOB}],
    "user_id": "u",
}
SEARCH = {
    "experiment_ids": ["1"],
    "filter": "metrics.loss < 1",
    "order_by": ["metrics.loss DESC"],
    "max_results": 5,
    "page_token": "0",
    "run_view_type": "ALL",
}
MODEL: dict[str, Any] = {
    "run_id": JOB,
    "model_json": '{"artifact_path": "m", "flavors": {}}',
    "name": "m",
    "source_run_id": JOB,
    "model_type": "x",
}
MODEL |= {"params": [], "tags": TAGGED}
HISTORY = {"run_id": JOB, "run_ids": [JOB], "metric_key": "loss", "max_results": 3, "start_step": "0", "end_step": 9}
DATASET = {"name": "d", "digest": "x", "source": "s", "schema": "{}"}
INPUTS = {"run_id": JOB, "datasets": [{"dataset": DATASET, "tags": TAGGED}], "models": [{"model_id": "m-1"}]}
UPDATE = {"run_id": JOB, "status": "RUNNING", "end_time": 1700000000001, "run_name": "x"}
REQUESTS: tuple[Any, ...] = (
    *(BATCH, CREATE, SEARCH, MODEL, HISTORY, INPUTS, UPDATE, {"run_id": JOB, "key": "loss", "value": "NaN", "step": 1}),
    {"experiment_name": "exp", "experiment_id": "1"},
)
ROUTES: tuple[str, ...] = (
    *(
        "runs/get",
        "runs/create",
        "runs/update",
        "runs/delete",
        "runs/restore",
        "runs/search",
        "runs/log-inputs",
        "runs/outputs",
        "runs/log-metric",
    ),
    *(
        "runs/log-batch",
        "runs/log-parameter",
        "runs/set-tag",
        "runs/delete-tag",
        "runs/log-model",
        "metrics/get-history",
    ),
    *(
        "metrics/get-history-bulk-interval",
        "experiments/get",
        "experiments/get-by-name",
        "experiments/search",
        "experiments/create",
    ),
    *("logged-models", "logged-models/search", "logged-models/m-1", "logged-models/m-1/tags/a%2Fb", "x/../y"),
)
METRIC = {"run_id": JOB, "key": "loss", "value": "NaN", "step": 1, "timestamp": "1700000000000"}
CALLS: tuple[tuple[str, Any], ...] = (
    *(
        ("runs/log-batch", BATCH),
        ("runs/create", CREATE),
        ("runs/search", SEARCH),
        ("runs/log-model", MODEL),
        ("runs/log-inputs", INPUTS),
    ),
    *(
        ("runs/update", UPDATE),
        ("runs/log-metric", METRIC),
        ("runs/set-tag", {"run_id": JOB, "key": "a", "value": "b"}),
    ),
    *(
        ("runs/log-parameter", {"run_id": JOB, "key": "lr", "value": "1"}),
        ("logged-models", MODEL),
        ("logged-models/search", SEARCH),
    ),
    ("runs/outputs", INPUTS),
)


@cache
def _routes() -> http_connection.Routes:
    database = Database(Path.cwd() / "tracked.db", create=True)
    RunStore(database).add(Run(JOB, "exp", RunStatus.running, display_name="n", started=as_time(1700000000000)))
    numbers = itertools.count(1)
    job = RunStore(database).get(JOB)
    assert job is not None
    return http_connection.Routes(
        tracked_runs.JobRuns(
            database, job, lambda run_id: Path.cwd() / run_id, lambda: f"train_1700000000_{next(numbers):08x}"
        )
    )


def _request(given: tuple[str, str, str, bytes]) -> None:
    method, path, query, body = given
    repr(_routes().answer(method, quote(path, safe="/%"), query, body))


def _requests() -> st.SearchStrategy[Any]:
    route = st.one_of(
        *[st.sampled_from(ROUTES)] * 4, texts(ROUTES).map(lambda text: text.encode("utf-8", "replace").decode())
    )
    path = st.builds(str.__add__, st.sampled_from(http_connection.PREFIXES), route)
    fitting = st.sampled_from(CALLS).flatmap(
        lambda call: st.tuples(
            st.just("POST"), st.just(http_connection.PREFIXES[0] + call[0]), st.just(""), json_files([call[1]])
        )
    )
    query = st.just("") | texts(
        (f"run_id={JOB}&metric_key=loss&max_results=3", "experiment_name=exp&run_ids=a&run_ids=b")
    )
    body = st.one_of(*[json_files(REQUESTS)] * 4, st.just(b""))
    return st.one_of(
        fitting, fitting, fitting, st.tuples(st.sampled_from(["POST", "GET", "PATCH", "DELETE"]), path, query, body)
    )


def targets() -> list[Target]:
    return [
        _stored("transfer", _transfer_state, _transfer),
        _stored("workspace", _workspace, _damaged_workspace),
        Target("state/rows", _row_values, _rows, (DiskFailed, RunNotFound)),
        Target(
            "state/run_records", lambda: json_files([{"job": SPEC}, {"many": {"jobs": []}}]), _records, (DiskFailed,)
        ),
        Target("state/order", lambda: json_texts([ORDER]), _order, (JobFailed,)),
        Target("state/note", lambda: json_files([NOTE, NOTE_PLAIN]), _note, (DiskFailed,)),
        Target("state/logged", lambda: contents(LINES, ('{"kind": "', '"values": ', '"step": ', "\n")), _logged, ()),
        Target("state/kept", lambda: json_files([{"key": "key", "expires": 4e9, "value": STORE}]), _kept, (BadUsage,)),
        Target("state/checkpoint", lambda: damaged(_checkpoints()), _whole, ()),
        Target("state/archive", _manifests, _manifest, (BadUsage, DiskFailed, IntegrityFailed)),
        Target(
            "state/archive_zip",
            _zips,
            lambda content: _import(written("runs.zip", content)),
            (BadUsage, IntegrityFailed),
        ),
        Target("state/brought", lambda: json_texts([{"0badcafe0bad": "/x"}]), _word, ()),
        Target(
            "state/script",
            lambda: contents(SCRIPT, ("import ", "himl", "(", "\\", "'''")),
            lambda content: imports_himl(written("train.py", content)),
            (),
        ),
        Target(
            "state/search_filter",
            lambda: texts(FILTERS, (" AND ", "metrics.", "tags.", " LIKE ", "`", "'")),
            search.parse_filter,
            (search.BadSearch,),
        ),
        Target("state/search_order", lambda: texts(CLAUSES), search.parse_order, (search.BadSearch,)),
        Target("state/request", _requests, _request, (protocol.RequestError, HimlError)),
    ]
