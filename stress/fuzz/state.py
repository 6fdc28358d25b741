"""Parsers of what himl itself wrote, and anybody may have written over: state files, records, caches, notes; and what a job's clients send."""

from __future__ import annotations

import io
import itertools
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

from himl_cli.api.submitting import brought
from himl_cli.core.errors import BadUsage, DiskFailed, HimlError, RunNotFound
from himl_cli.core.runs import Run, RunQuery, RunStatus
from himl_cli.services.checkpoints.whole import is_whole
from himl_cli.services.environments.remarks import imports_himl
from himl_cli.services.montage.cache_pins import Pins
from himl_cli.services.montage.compose.output_folder import OutputFolder
from himl_cli.services.montage.disk_errors import ASIDE
from himl_cli.services.recording.note import NoteFile
from himl_cli.services.transfer.state import Fetched, TransferState
from himl_cli.workspaces.azure.requests.kept import Kept
from himl_cli.workspaces.azure.storage.datastore_records import DatastoreRecord
from himl_cli.workspaces.local.database import SCHEMA, Database
from himl_cli.workspaces.local.job_form import job_from_kept_form
from himl_cli.workspaces.local.logged_files import read_logged_files
from himl_cli.workspaces.local.logged_texts import read_texts
from himl_cli.workspaces.local.metric_store import MetricStore
from himl_cli.workspaces.local.order import order_from_json
from himl_cli.workspaces.local.run_folder import RunFolder
from himl_cli.workspaces.local.run_store import NewRun, RunStore
from himl_cli.workspaces.local.tracking.fields import Refused
from himl_cli.workspaces.local.tracking.routes import PREFIXES, Routes
from himl_cli.workspaces.local.tracking.runs import JobRuns
from himl_cli.workspaces.local.tracking.search import parse_filter, parse_order
from himl_cli.workspaces.local.workspace import LocalWorkspace
from stress.fuzz.strategies import contents, damaged, json_files, json_texts, texts
from stress.fuzz.target import Target, written

JOB = "train_1700000000_0badcafe"
SPEC: dict[str, Any] = {
    "experiment": "exp",
    "entry": {"kind": "script", "target": "train.py"},
    "snapshot": {"root": "/x", "files": ["train.py"], "size": 10},
    "python": "python",
    "arguments": ["--a"],
    "inputs": [{"key": "INPUT_0", "name": "d"}],
    "outputs": [],
    "sweep": {"space": {"lr": {"draw": "choice", "values": [1, 2]}}, "early_stop": {"policy": "median"}, "max_trials": 2},
    "env_names": ["A"],
    "has_secrets": False,
}
ORDER = {
    "run_folder": "/x",
    "workspace": "/w",
    "spec": {**{name: value for name, value in SPEC.items() if name not in ("env_names", "has_secrets")}, "env": {}},
} | {
    "command": "python train.py",
    "inputs": {"INPUT_0": "/d"},
    "outputs": {},
}
NOTE = {"run_id": JOB, "place": {"folder": "/w"}, "is_starting": False, "failure": "", "away": "", "refused_since": 0.0, "not_before": 1.5} | {
    "runs": {JOB: {"there": "x", "row": 3}}
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
ORDERS = ("-old.png\n+montage.png\n+zoom", "+montage.png", "-../beside\n+../beside")
PINS = ("+3 a.tiff\n- a.tiff\n+12 b c.svs\n", "+0 a\n")
HELD = {
    "key": "key",
    "expires": 4e9,
    "value": {"name": "d", "kind": "AzureBlob", "account": "a", "container": "c", "endpoint": "", "protocol": "https", "credentials": "None"},
}
SCRIPT = (
    "import himl_cli\nfrom himl_cli.api import x\nprint(1)\n",
    "def f(a):\n    import himl_cli; return (yield a)\n",
    "# coding: latin-1\nx = 'é himl_cli'\n",
)
FILTERS = (
    "metrics.loss < 0.5 and tags.`kind x` = 'best'",
    "attributes.status IN ('FINISHED', 'x') AND params.\"a\" LIKE '%b_'",
    "tags.x IS NOT NULL",
    "run_name ILIKE 'A%'",
)
CLAUSES = ("metrics.loss DESC", "attribute.start_time", "tags.`x y` ASC", "Created")
BATCH = {"run_id": JOB, "metrics": [{"key": "loss", "value": 0.5, "step": "3", "timestamp": 1700000000000}], "params": [{"key": "lr", "value": "1"}]} | {
    "tags": [{"key": "a", "value": "b"}]
}
CREATE = {"experiment_id": "1", "run_name": "n", "start_time": 1700000000000, "tags": [{"key": "mlflow.parentRunId", "value": JOB}], "user_id": "u"}
SEARCH = {"experiment_ids": ["1"], "filter": "metrics.loss < 1", "order_by": ["metrics.loss DESC"], "max_results": 5, "page_token": "0", "run_view_type": "ALL"}
MODEL = {
    "run_id": JOB,
    "model_json": '{"artifact_path": "m", "flavors": {}}',
    "name": "m",
    "source_run_id": JOB,
    "model_type": "x",
    "params": [],
    "tags": [{"key": "a", "value": "b"}],
}
HISTORY = {"run_id": JOB, "run_ids": [JOB], "metric_key": "loss", "max_results": 3, "start_step": "0", "end_step": 9}
INPUTS = {
    "run_id": JOB,
    "datasets": [{"dataset": {"name": "d", "digest": "x", "source": "s", "schema": "{}"}, "tags": [{"key": "a", "value": "b"}]}],
    "models": [{"model_id": "m-1"}],
}
UPDATE = {"run_id": JOB, "status": "RUNNING", "end_time": 1700000000001, "run_name": "x"}
REQUESTS: tuple[Any, ...] = (
    BATCH,
    CREATE,
    SEARCH,
    MODEL,
    HISTORY,
    INPUTS,
    UPDATE,
    {"run_id": JOB, "key": "loss", "value": "NaN", "step": 1},
    {"experiment_name": "exp", "experiment_id": "1"},
)
ROUTES: tuple[str, ...] = (
    "runs/get",
    "runs/create",
    "runs/update",
    "runs/delete",
    "runs/restore",
    "runs/search",
    "runs/log-inputs",
    "runs/outputs",
    "runs/log-metric",
    "runs/log-batch",
)
ROUTES += (
    "runs/log-parameter",
    "runs/set-tag",
    "runs/delete-tag",
    "runs/log-model",
    "metrics/get-history",
    "metrics/get-history-bulk-interval",
    "experiments/get",
)
ROUTES += (
    "experiments/get-by-name",
    "experiments/search",
    "experiments/create",
    "logged-models",
    "logged-models/search",
    "logged-models/m-1",
    "logged-models/m-1/tags/a%2Fb",
    "x/../y",
)
METRIC = {"run_id": JOB, "key": "loss", "value": "NaN", "step": 1, "timestamp": "1700000000000"}
CALLS: tuple[tuple[str, Any], ...] = (
    ("runs/log-batch", BATCH),
    ("runs/create", CREATE),
    ("runs/search", SEARCH),
    ("runs/log-model", MODEL),
    ("runs/log-inputs", INPUTS),
    ("runs/update", UPDATE),
)
CALLS += (
    ("runs/log-metric", METRIC),
    ("runs/set-tag", {"run_id": JOB, "key": "a", "value": "b"}),
    ("runs/log-parameter", {"run_id": JOB, "key": "lr", "value": "1"}),
)
CALLS += (("logged-models", MODEL), ("logged-models/search", SEARCH), ("runs/outputs", INPUTS))
DAMAGED = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What `resuming` takes for a record of another form, and says so."""


@cache
def _transfer_state() -> bytes:
    with TransferState(Path.cwd(), print) as state:
        state.record(Fetched("a/b.txt", "r/a/b.txt", "0x8D", 3, 17, b"x" * 16))
        state.begin_part("c", "r/c", "0x8E", 100)
        state.add_range("c", 0, 50)
    return (Path.cwd() / ".himl-transfer.db").read_bytes()


def _transfer(content: bytes) -> None:
    for path in Path.cwd().glob(".himl-transfer.db*"):
        path.unlink()
    written(".himl-transfer.db", content)
    with TransferState(Path.cwd(), print) as state:
        state.find("a/b.txt")
        state.has_part("c", "r/c", "0x8E", 100)
        for start, stop in state.ranges("c"):  # numbers, or a TypeError
            assert stop - start < 2**64, (start, stop)
        state.record(Fetched("d", "r/d", "", 1, 2, None))
        state.flush()
        state.begin_part("e", "r/e", "", 1)


@cache
def _workspace() -> bytes:
    path = Path.cwd() / "made.db"
    database = Database(path, create=True)
    RunStore(database).add(
        NewRun(id=JOB, job=JOB, experiment="exp", display_name="n", status=RunStatus.running, started=1700000000000, tags={"himl.tries": "[1]", "a": "b"})
    )
    MetricStore(database).log(JOB, [("loss", 0.5, 1, 1700000000000), ("loss", 0.4, 2, 1700000001000)], {"lr": "1"})
    RunStore(database).end(JOB, RunStatus.completed, exit_code=0)
    database.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    return path.read_bytes()


def _read_workspace(workspace: LocalWorkspace) -> None:
    for run in [*workspace.runs(RunQuery(limit=5))][:3]:
        for read in (workspace.run, workspace.metrics, workspace.values, workspace.parameters):
            read(run.id)
        workspace.results([run], wanted=lambda name: True, whole=True)


def _damaged_workspace(content: bytes) -> None:
    for path in Path.cwd().glob("workspace.db*"):
        path.unlink()
    written("workspace.db", content)
    _read_workspace(LocalWorkspace(Path.cwd()))


def _rows(given: tuple[str, str, Any]) -> None:
    """Another value than himl would write, in one place of the database."""
    table, column, value = given
    for path in Path.cwd().glob("workspace.db*"):
        path.unlink()
    connection = sqlite3.connect(written("workspace.db", _workspace()))
    try:
        connection.execute(f"UPDATE OR IGNORE {table} SET {column} = ?", (value,))
        connection.commit()
    except (sqlite3.IntegrityError, sqlite3.OperationalError, OverflowError, UnicodeEncodeError):
        return  # SQLite itself does not hold it
    finally:
        connection.close()
    _read_workspace(LocalWorkspace(Path.cwd()))


def _row_values() -> st.SearchStrategy[Any]:
    connection = sqlite3.connect(":memory:")
    connection.executescript(SCHEMA)
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")]
    places = [(table, row[1]) for table in tables for row in connection.execute(f"PRAGMA table_info({table})")]
    connection.close()
    odd: Sequence[Any] = (
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
        '{"a": NaN}',
        "Completed",
    )
    values = st.sampled_from(odd) | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.binary(max_size=8) | texts(('{"--lr": 0.1}', "[1, 2]"))
    return st.tuples(st.sampled_from(places), values).map(lambda pair: (*pair[0], pair[1]))


def _records(content: bytes) -> None:
    written("plan.json", content)
    folder = RunFolder(Path.cwd())
    plan = folder.read_plan()
    written("job.json", content)
    folder.read_record()
    written("why", content)
    assert folder.why_canceled()
    try:
        job_from_kept_form(plan["job"], {})
    except DAMAGED:
        return


def _order(text: str) -> None:
    try:
        order_from_json(text)
    except (*DAMAGED, RecursionError):
        return


def _note(content: bytes) -> None:
    written(f"recordings/{JOB}.json", content)
    note = NoteFile(Path.cwd(), JOB).read()
    if note is not None:
        note.is_due()
        note.put_off()
        note.to_json()


def _logged(content: bytes) -> None:
    written("logged/name.jsonl", content)
    read_logged_files(Path.cwd(), lambda name: True)
    list(read_texts(Path.cwd(), JOB))


def _kept(content: bytes) -> None:
    kept = Kept(Path.cwd() / "cache")
    kept.put("datastores", "key", 1, seconds=60)
    (path,) = (Path.cwd() / "cache").rglob("*.json")
    path.write_bytes(content)
    found = DatastoreRecord.from_json(kept.get("datastores", "key"))
    if found is not None:
        from himl_cli.workspaces.azure.places.clouds import PUBLIC

        found.info(PUBLIC)
        found.url(PUBLIC)


def _order_left(content: bytes) -> None:
    """An order may move what lies in the folder, and nothing beside it."""
    beside = written("beside", b"1")
    written(f"montage/{ASIDE}/complete", content)
    written(f"montage/{ASIDE}/new/montage.png", b"2")
    before = sorted(path.name for path in Path.cwd().iterdir())
    try:
        with OutputFolder(Path("montage")) as folder:
            assert folder.new.is_dir(), "no place for new files"
    finally:
        assert sorted(path.name for path in Path.cwd().iterdir()) == before, "something beside the folder came or went"
        assert beside.read_bytes() == b"1", "a file beside the folder has changed"
        shutil.rmtree("montage")


def _pins(content: bytes) -> None:
    ours, other = Pins(Path.cwd()), Pins(Path.cwd())
    try:
        ours.add({"a": 3})
        for path in (Path.cwd() / ".in-use").glob("*.pins"):
            path.write_bytes(content)
        for size in other.others().values():
            assert size >= 0, size
    finally:
        ours.close()
        other.close()


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
        return  # no variable can have it
    try:
        os.environ[brought.VARIABLE] = text
    except UnicodeEncodeError:
        return
    os.environ["LOCAL_RANK"], os.environ["RANK"] = "1", "1"
    brought.inherited("0badcafe0bad")
    brought.leave_word("0badcafe0bad", Path.cwd())


@cache
def _routes() -> Routes:
    database = Database(Path.cwd() / "tracked.db", create=True)
    RunStore(database).add(NewRun(id=JOB, job=JOB, experiment="exp", display_name="n", status=RunStatus.running, started=1700000000000, tags={}))
    numbers = itertools.count(1)
    job: Run | None = RunStore(database).get(JOB)
    assert job is not None
    return Routes(JobRuns(database, job, lambda run_id: Path.cwd() / run_id, lambda: f"train_1700000000_{next(numbers):08x}"))


def _request(given: tuple[str, str, str, bytes]) -> None:
    method, path, query, body = given
    repr(_routes().answer(method, quote(path, safe="/%"), query, body))


def _requests() -> st.SearchStrategy[Any]:
    route = st.one_of(*[st.sampled_from(ROUTES)] * 4, texts(ROUTES).map(lambda text: text.encode("utf-8", "replace").decode()))
    path = st.builds(str.__add__, st.sampled_from(PREFIXES), route)
    fitting = st.sampled_from(CALLS).flatmap(lambda call: st.tuples(st.just("POST"), st.just(PREFIXES[0] + call[0]), st.just(""), json_files([call[1]])))
    query = st.just("") | texts((f"run_id={JOB}&metric_key=loss&max_results=3", "experiment_name=exp&run_ids=a&run_ids=b"))
    body = st.one_of(*[json_files(REQUESTS)] * 4, st.just(b""))
    return st.one_of(fitting, fitting, fitting, st.tuples(st.sampled_from(["POST", "GET", "PATCH", "DELETE"]), path, query, body))


def _stored(name: str, samples: Callable[[], bytes], run: Callable[[bytes], object]) -> Target:
    return Target(f"state/{name}", lambda: damaged([samples()]), run, (DiskFailed, RunNotFound))


def targets() -> list[Target]:
    return [
        _stored("transfer", _transfer_state, _transfer),
        _stored("workspace", _workspace, _damaged_workspace),
        Target("state/rows", _row_values, _rows, (DiskFailed, RunNotFound)),
        Target("state/run_records", lambda: json_files([{"job": SPEC}, {"many": {"jobs": []}}]), _records, (DiskFailed,)),
        Target("state/order", lambda: json_texts([ORDER]), _order, ()),
        Target("state/note", lambda: json_files([NOTE, NOTE_PLAIN]), _note, (DiskFailed,)),
        Target("state/logged", lambda: contents(LINES, ('{"kind": "', '"values": ', '"step": ', "\n")), _logged, ()),
        Target("state/kept", lambda: json_files([HELD]), _kept, (BadUsage,)),
        Target("state/montage_order", lambda: contents(ORDERS, ("+", "-", "../", "\n")), _order_left, (DiskFailed,)),
        Target("state/pins", lambda: contents(PINS, ("+", "- ", " ", "\n")), _pins, ()),
        Target("state/checkpoint", lambda: damaged(_checkpoints()), _whole, ()),
        Target("state/brought", lambda: json_texts([{"0badcafe0bad": "/x"}]), _word, ()),
        Target("state/script", lambda: contents(SCRIPT, ("import ", "himl", "(", "\\", "'''")), lambda content: imports_himl(written("train.py", content)), ()),
        Target("state/search_filter", lambda: texts(FILTERS, (" AND ", "metrics.", "tags.", " LIKE ", "`", "'")), parse_filter, (Refused,)),
        Target("state/search_order", lambda: texts(CLAUSES), parse_order, (Refused,)),
        Target("state/request", _requests, _request, (Refused, HimlError)),
    ]
