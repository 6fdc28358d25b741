"""The smallest examples by which fuzzing broke a parser (`stress/fuzz`): each is taken, or refused in one line."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from himl_cli.api import submit_if_needed
from himl_cli.commands.options import ALL_RUNS, parse_count
from himl_cli.core.errors import BadUsage, DiskFailed, ServiceFailed
from himl_cli.core.runs import Run, RunQuery, RunStatus
from himl_cli.services.submission.environment import requirements_as_conda
from himl_cli.services.submission.job_yaml import prepare_document
from himl_cli.services.submission.pipeline_file import read_pipeline, step_files
from himl_cli.services.submission.request import SubmitRequest
from himl_cli.services.tensorboard.server import serves
from himl_cli.services.transfer.state import TransferState
from himl_cli.workspaces.azure.credentials import OnBehalfOf
from himl_cli.workspaces.azure.jobs.sdk import complaint_of
from himl_cli.workspaces.azure.responses import understood
from himl_cli.workspaces.azure.storage.datastore_records import DatastoreRecord
from himl_cli.workspaces.local.metric_store import MetricStore
from himl_cli.workspaces.local.run_store import Database, RunStore
from himl_cli.workspaces.local.tracking.protocol import RequestError, parse_filter
from himl_cli.workspaces.local.workspace import LocalWorkspace
from tests.support.folders import state_of

RUN = "train_1700000000_0badcafe"
DEEP = "[" * 50_000
RECORD = {"name": "d", "type": "AzureBlob", "account": "a", "container": "c", "endpoint": "", "protocol": "https", "credentials": "None"}
ROWS: list[tuple[str, str, Any]] = [
    ("runs", "id", None),
    ("runs", "id", b"\x9f"),
    ("runs", "id", "\0"),
    ("runs", "id", "../.."),
    ("runs", "created", "x"),
    ("runs", "created", float("inf")),
    ("runs", "created", -9048439082499712),
    ("runs", "ended", b"MM"),
    ("runs", "status", "Odd"),
    ("metrics", "time", "x"),
    ("metrics", "time", float("-inf")),
    ("metrics", "value", b"\x12"),
    ("metrics", "step", "x"),
]


def _overwrite(workspace: LocalWorkspace, table: str, column: str, value: Any) -> None:
    with closing(sqlite3.connect(workspace.folder / "workspace.db")) as connection, connection:
        connection.execute(f"UPDATE {table} SET {column} = ?", (value,))


@pytest.fixture
def workspace(tmp_path: Path) -> LocalWorkspace:
    """One that has a run with a metric."""
    with closing(Database(tmp_path / "workspace.db", create=True)) as database:
        store = RunStore(database)
        store.add(Run(RUN, "exp", display_name="n", tags={"a": "b"}), status=RunStatus.running, started=1700000000000)
        MetricStore(database).log(RUN, [("loss", 0.5, 1, 1700000000000), ("loss", 0.4, 2, 1700000001000)])
        store.end(RUN, RunStatus.completed, exit_code=0)
    return LocalWorkspace(tmp_path)


@pytest.mark.parametrize(("table", "column", "value"), ROWS)
def test_a_row_that_himl_does_not_write_is_told_as_damage(workspace: LocalWorkspace, table: str, column: str, value: Any) -> None:
    _overwrite(workspace, table, column, value)
    with pytest.raises(DiskFailed, match=r"workspace\.db' is damaged: it holds what himl does not write\.$"):
        repr((list(workspace.runs(RunQuery())), workspace.metrics(RUN)))


def test_a_job_that_is_none_loses_no_run(workspace: LocalWorkspace) -> None:
    _overwrite(workspace, "runs", "job", b"\x04")
    assert [run.id for run in workspace.runs(RunQuery())] == [RUN]
    assert workspace.run(RUN).exit_code == 0


@pytest.mark.parametrize("column", ["value", "step", "time"])
def test_a_point_that_himl_does_not_write_is_told_by_results_too(workspace: LocalWorkspace, column: str) -> None:
    _overwrite(workspace, "metrics", column, "x")
    with pytest.raises(DiskFailed, match="is damaged: it holds what himl does not write"):
        workspace.results([*workspace.runs(RunQuery())], wanted=lambda name: True, whole=True)


def test_a_state_file_that_is_not_even_utf8_is_begun_anew(tmp_path: Path) -> None:
    with TransferState(tmp_path, print) as state:
        state.begin_part("c", "r/c e 100")
    path = state_of(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE files", b"CREATE TABLE \x8ailes"))
    with TransferState(tmp_path, print) as state:
        assert state.ranges("c", "r/c e 100") == []


def test_a_count_of_thousands_of_digits_means_all() -> None:
    assert parse_count("--num_runs", "9" * 5000) == ALL_RUNS
    assert parse_count("--num_runs", " 0007 ") == 7
    for text in ("0", "000", "-1", "²", ""):
        with pytest.raises(BadUsage, match="takes a whole number from 1"):
            parse_count("--num_runs", text)


def test_no_file_can_be_included_whose_name_has_a_null_byte(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_bytes(b"numpy\n-r \0other.txt\n")
    with pytest.raises(BadUsage, match="line 2: no file can be called"):
        requirements_as_conda(path, tmp_path, tmp_path, {})


@pytest.mark.parametrize(
    "odd", [{"type": []}, {"name": 3}, {"is_default": "yes"}, {"account": ""}, {"container": ""}, {"account": "a/b"}, {"endpoint": "\ud800"}]
)
def test_a_datastore_that_has_no_address_is_none(odd: dict[str, Any]) -> None:
    assert DatastoreRecord.from_json(RECORD) is not None
    assert DatastoreRecord.from_json(RECORD | odd) is None


@pytest.mark.parametrize("odd", [{"containerName": ""}, {"accountName": "a/b"}, {"accountName": "\ud800"}, {"endpoint": "x y"}])
def test_invalid_datastore_address_raises_service_failed(odd: dict[str, str]) -> None:
    properties = {"datastoreType": "AzureBlob", "accountName": "a", "containerName": "c", "endpoint": "core.windows.net", "protocol": "https"}
    assert DatastoreRecord.from_arm({"name": "d", "properties": properties}).account == "a"
    with pytest.raises(ServiceFailed, match="the datastore has another form"), understood("https://management.azure.com", "the datastore"):
        DatastoreRecord.from_arm({"name": "d", "properties": {**properties, **odd}})


@pytest.mark.parametrize("text", [DEEP, '{"x": ["/a"]}', '{"x": 1}', "[]", "9" * 5000])
def test_damaged_word_of_downloaded_datasets_is_passed_over(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(submit_if_needed.DOWNLOADED_VARIABLE, text)
    assert submit_if_needed.downloaded() == {}


def test_a_report_that_is_nested_without_end_is_told_as_it_is() -> None:
    assert complaint_of('{"errors": ' + DEEP).startswith("{")
    assert complaint_of('{"errors": ' + "[" * 500 + "]" * 500 + "}")


@pytest.mark.parametrize("key", ["\x1b[31m", "a\nb"])
def test_a_key_with_controls_is_refused_without_them(key: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_filter(f"`{key}` = 'x'")
    assert str(caught.value).isprintable()


PLACES = ["x" * 3000, "~no-such-user/a", "~/no/such/folder"]


@pytest.mark.parametrize("place", PLACES, ids=["long", "nobody", "home"])
@pytest.mark.parametrize("frame", ["command: python a.py\ncode: {}\n", "type: pipeline\njobs: {{one: {{component: {}}}}}\n"])
def test_a_job_of_a_place_that_cannot_be_is_refused(tmp_path: Path, place: str, frame: str) -> None:
    (tmp_path / "job.yml").write_text(frame.format(place))
    with pytest.raises(BadUsage, match=r"' is no (folder|file)\.$"):
        prepare_document(SubmitRequest(cwd=tmp_path, target="job.yml"), {})


@pytest.mark.parametrize("key", ["source_directory", "script", "requirements"])
def test_a_step_of_a_place_that_cannot_be_is_refused(tmp_path: Path, key: str) -> None:
    (tmp_path / "a.py").write_text("")
    step = {"type": "PythonScriptStep", "script": "a.py", "source_directory": ".", key: "x" * 3000 + ".py"}
    (tmp_path / "p.json").write_text(json.dumps({"step1": step}))
    file = read_pipeline(tmp_path / "p.json", "p.json")
    with pytest.raises(BadUsage, match=f"step1: '{key}' 'xxx"):
        step_files(file, file.steps[0], tmp_path)


class Said:
    """A server on this machine that says *body* to every request."""

    def __init__(self, body: bytes) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.mark.parametrize("body", [DEEP.encode(), b'{"data_location": ' + b"9" * 5000 + b"}", b"\xff", b"[]"])
def test_what_answers_nonsense_is_no_tensorboard(tmp_path: Path, body: bytes) -> None:
    with closing(Said(body)) as said:
        assert not serves(tmp_path, "127.0.0.1", said.port)


ANSWERS = [
    *(b"[]", b"3", DEEP.encode(), b'{"token": 3, "expires_on": 1}', b'{"token": "t", "expires_on": []}'),
    *(b'{"token": "t", "expires_on": 1e999}', b'{"token": "a\\nb", "expires_on": 1}'),
]


@pytest.mark.parametrize("body", ANSWERS)
def test_an_endpoint_that_gives_no_token_is_told_so(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    from azure.core.exceptions import ClientAuthenticationError

    with closing(Said(body)) as said:
        monkeypatch.setenv("OBO_ENDPOINT", f"http://127.0.0.1:{said.port}")
        with pytest.raises(ClientAuthenticationError, match="gave no token"):
            OnBehalfOf().get_token("https://storage.azure.com/.default")
