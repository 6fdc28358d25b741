"""Tests of `himl tb`: the installed program, with the real TensorBoard as its child process."""

from __future__ import annotations

import json
import os
import random
import re
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest
from tensorboard.compat.proto.event_pb2 import Event as LoggedEvent
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from himl_cli.core.events import Event
from himl_cli.services.server_access import Access
from himl_cli.services.tensorboard.server import TensorBoard
from tests.azureml_double.faults import Page, Stall, Status
from tests.azureml_double.jobs.records import add_trial
from tests.azureml_double.seeding import StagedWorkspace, add_sweep
from tests.support.processes import MARK, processes_marked
from tests.support.running import Himl, until, validator, write_files
from tests.support.runs import RecordedRuns, posix
from tests.support.tensorboard import LONG, NAME, PROJECTOR, SHORT, WRITER, event_bytes, is_closed, scalars, serving
from tests.support.terminals import Terminal

READERS = {
    "data server behind a proxy": (
        {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"},
        "GrpcDataProvider",
    ),
    "none": ({"TENSORBOARD_DATA_SERVER_BINARY": "/no/such/file"}, "MultiplexerDataProvider"),
}
GROWS = f"""
{WRITER}
writer = EventFileWriter(sys.argv[2])
for step in range(2):
    write(writer, "loss", step, 1.0 / (step + 1))
while not os.path.exists(sys.argv[1]):
    time.sleep(0.05)
write(writer, "loss", 2, 0.25)
writer.close()
"""
VALUES = [1.0, 0.5, 0.25]
RUN = "train_1_aa"
LAST = "Press Ctrl-C to stop it.\n"
"""himl prints it after TensorBoard's address."""


serves = pytest.mark.large("starts TensorBoard")


@serves
@posix
@pytest.mark.parametrize(("reader", "folder"), [*zip(READERS, ("lightning_logs/version_0", "logs/train"), strict=True)])
def test_a_run_of_here_is_shown_where_it_lies_and_grows(
    himl: Himl, project: Path, tmp_path: Path, reader: str, folder: str
) -> None:
    (env, provider), name = READERS[reader], folder.removeprefix("logs/")
    write_files(project, {"train.py": GROWS})
    run = himl.ok(
        "submit", "train.py", "--no_wait", "-q", "--display_name", "First try", "--", str(tmp_path / "go"), folder
    ).stdout.strip()
    try:
        with serving(himl, tmp_path, env=env) as board:
            board.shows(f"First_try-{run}/{name}", [1.0, 0.5])
            (tmp_path / "go").touch()
            board.shows(f"First_try-{run}/{name}", [1.0, 0.5, 0.25])
            assert provider in board.ask("data/environment")["debug"]["data_provider"]
            assert board.end() == 0
            assert board.process.stdout is not None
            assert board.process.stdout.read() == b"", "one line, and no more"
            assert set(board.talk.splitlines()) <= {"Press Ctrl-C to stop it.", f"Run '{run}' has no event files yet."}
    finally:
        (tmp_path / "go").touch()
        himl("runs", "logs", "--follow")
    assert [*(tmp_path / "home").rglob("*tfevents*"), *(tmp_path / "tmp").glob("himl*")] == [], (
        "nothing is copied, and nothing stays behind"
    )


@pytest.fixture
def seeded(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    azure = azure_environment
    azure.write_config(project)
    azure.put_artifacts(
        azure.add_run("train_1_aa", "train", display_name="Done"), {f"logs/{NAME}": LONG, "outputs/model.pt": b"m"}
    )
    going = azure.add_run("train_2_bb", "train", status="Running", display_name="Going on")
    azure.state.storage.append("azureml", f"{going.artifact_prefix}logs/{NAME}", SHORT)
    azure.put_artifact(azure.add_run("train_3_cc", "train", status="Failed"), "user_logs/std_log.txt", b"boom")
    add_sweep(azure, "hunt", [{"lr": 0.1}, {"lr": 0.2}], statuses={1: "Running"})
    for trial in ("hunt_0", "hunt_1"):
        azure.put_artifact(azure.state.runs[trial], f"logs/{NAME}", LONG)
    return azure


@posix
def test_new_trials_appear_and_expired_sign_in_is_retried(himl: Himl, seeded: StagedWorkspace, tmp_path: Path) -> None:
    run = seeded.state.runs["train_2_bb"]
    with serving(himl, tmp_path, "train_2_bb", "hunt") as board:
        board.shows("Going_on-train_2_bb", [1.0, 0.5])
        board.shows("lr=0.1-hunt_0", [1.0, 0.5, 0.25, 0.125])
        expired = json.dumps(
            {
                "error": "invalid_client",
                "error_description": "AADSTS7000222: The provided client secret keys for app are expired.",
            }
        )
        seeded.stage.faults.add(
            Status(401, code="Unauthorized", message="Expired."), r"/history/|management", times=None
        )
        seeded.stage.faults.add(Page(expired, 401, "application/json"), r"POST .*/oauth2/v2.0/token", times=None)
        board.says("the client secret has expired.")
        half = len(SHORT) + (len(LONG) - len(SHORT)) // 2 + 3
        seeded.state.storage.append("azureml", f"{run.artifact_prefix}logs/{NAME}", LONG[len(SHORT) : half])
        trial = add_trial(seeded.state, seeded.state.runs["hunt"], 2, {"lr": 0.5})
        trial.status = "Running"
        seeded.put_artifact(trial, f"logs/{NAME}", SHORT)
        # The file also has half a record, whose rest TensorBoard waits for.
        board.shows("Going_on-train_2_bb", [1.0, 0.5, 0.25])
        refused = len(seeded.requests(r"POST .*/oauth2/v2.0/token.*401"))
        until(lambda: len(seeded.requests(r"POST .*/oauth2/v2.0/token.*401")) > refused + 1, "it is tried again")
        seeded.stage.faults.clear()
        board.says("The service responds again.")
        board.shows("lr=0.5-hunt_2", [1.0, 0.5])
        seeded.state.storage.append("azureml", f"{run.artifact_prefix}logs/{NAME}", LONG[half:])
        board.shows("Going_on-train_2_bb", [1.0, 0.5, 0.25, 0.125])
        assert board.end() == 0
        said = board.talk.splitlines()
        assert [
            line for line in said if "responds" not in line and "hunt" not in line and "himl keeps trying" not in line
        ] == ["Press Ctrl-C to stop it."]
        assert (board.talk.count("himl keeps trying"), board.talk.count("New run: hunt_2.")) == (1, 1)


@serves
@posix
def test_a_taken_port_moves_on_and_others_being_let_in_is_said(himl: Himl, project: Path, tmp_path: Path) -> None:
    RecordedRuns(project).add(
        "train_1_aa", files={f"logs/{NAME}": LONG} | {f"logs/{name}": text for name, text in PROJECTOR.items()}
    )
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with serving(himl, tmp_path, "--run", "latest", "--host", "0.0.0.0", "--port", str(port)) as board:
            assert port < board.port <= port + 100
            assert f"Port {port} is in use, so TensorBoard uses " in board.talk
            assert f" is in use, so TensorBoard uses {board.port}." in board.talk  # perhaps after others that are
            assert (
                f"Other machines can reach 0.0.0.0:{board.port}. The token and the runs are sent unencrypted."
                in board.talk
            )
            board.shows("train_1_aa", [1.0, 0.5, 0.25, 0.125])
            until(lambda: board.ask("data/plugin/projector/runs") == ["train_1_aa"], "the projector has the run")
            (vectors,) = board.ask("data/plugin/projector/info", run="train_1_aa")["embeddings"]
            assert vectors["tensorShape"] == [3, 2]
            assert board.end() == 0


@pytest.fixture
def half(seeded: StagedWorkspace) -> StagedWorkspace:
    """A file of 6 MB, which arrives in ranges of 4 MiB, and whose second range does not come."""
    long = SHORT + event_bytes([0.0] * 500, tag="long" * 3000) + LONG[len(SHORT) :]
    seeded.put_artifact(seeded.state.runs["train_1_aa"], f"logs/{NAME}", long)
    seeded.stage.faults.add(Stall(60.0), rf"GET .*train_1_aa/logs/{NAME}", times=None, skip=1)
    return seeded


@serves
@posix
def test_file_is_shown_while_the_rest_of_it_comes(himl: Himl, half: StagedWorkspace, tmp_path: Path) -> None:
    """TensorBoard shows each range once it is verified. Other runs keep growing."""
    with serving(himl, tmp_path, "train_1_aa", "train_2_bb") as board:
        board.shows("Done-train_1_aa", [1.0, 0.5])
        half.state.storage.append(
            "azureml", f"{half.state.runs['train_2_bb'].artifact_prefix}logs/{NAME}", LONG[len(SHORT) :]
        )
        board.shows("Going_on-train_2_bb", [1.0, 0.5, 0.25, 0.125])
        assert board.end() == 0


@serves
@posix
@pytest.mark.usefixtures("half")
def test_progress_of_the_first_files_is_drawn(himl: Himl) -> None:
    terminal = Terminal([str(himl.program), "tb", "train_1_aa", "--port", "0"], cwd=himl.folder)
    terminal.wait_for("4.2/6.0 MB")
    terminal.interrupt()
    assert terminal.finish() == 0


@pytest.mark.large("takes long, and other tests run its branches")
def test_sync_only_fetches_once_and_prints_where(
    himl: Himl, seeded: StagedWorkspace, project: Path, tmp_path: Path
) -> None:
    options = ("tb", "--experiment", "train", "--num_runs", "all", "--sync_only", "--run-logs-dir", "copies")
    first = himl.ok(*options)
    going, done = project / "copies" / "Going_on-train_2_bb", project / "copies" / "Done-train_1_aa"
    rows = [f"train_2_bb\t1\t{len(SHORT)}\t{going}", f"train_1_aa\t1\t{len(LONG)}\t{done}"]
    assert sorted(first.stdout.splitlines()[1:]) == sorted(rows)
    assert first.stderr == "Run 'train_3_cc' has no event files.\n"
    assert sorted(himl.ok(*options, "-q").stdout.splitlines()) == sorted([str(done), str(going)])
    (one,) = himl.ok("tb", "train_1_aa", "--sync_only", "--run_logs_dir", "copies", "--json").json()
    assert one == {"run": "train_1_aa", "display_name": "Done", "folder": str(done), "files": 1, "new_bytes": 0}
    assert scalars(done) == [(0, 1.0), (1, 0.5), (2, 0.25), (3, 0.125)]
    assert [path.name for path in done.iterdir()] == [NAME]
    folder = Path(
        himl.ok("tb", "--run_recovery_ids", "train:train_1_aa", "--log-dir", "logs", "--sync-only", "-q").stdout.strip()
    )
    assert (folder.name, (folder / NAME).read_bytes(), tmp_path / "home" in folder.parents) == (
        "train_1_aa",
        LONG,
        True,
    )
    outcome = himl("tb", "train_3_cc", "--sync_only")
    assert (outcome.code, outcome.stdout) == (3, "")
    assert outcome.stderr.startswith("error: Run 'train_3_cc' has no event files.\n")
    served = himl("tb", "train_3_cc", "--port", "0")
    assert (served.code, served.stderr) == (3, outcome.stderr)


def test_bad_options_are_exit_2(himl: Himl, project: Path) -> None:
    RecordedRuns(project).add(RUN, files={f"logs/{NAME}": LONG})
    write_files(project, {"train.py": ""})
    for options in [
        "--refresh 0",
        "--port 65536",
        "--host= ",
        "--host no.such.host.invalid",
        "--run_logs_dir train.py",
        "--log_dir ../x",
    ]:
        assert himl("tb", RUN, *([options] if "=" in options else options.split())).code == 2


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """The mark in the environment of this test's processes. None of them may remain."""
    own = f"{os.environ[MARK]}-{request.node.name}"
    monkeypatch.setenv(MARK, own)
    yield own
    if Path("/proc").is_dir():
        assert processes_marked(own, patience=60.0) == []


def left_in(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "tmp").iterdir()]


@posix
@pytest.mark.usefixtures("recorded", "mark")
@pytest.mark.parametrize(
    ("number", "form"),
    [
        pytest.param(signal.SIGKILL, "human", marks=serves),
        pytest.param(signal.SIGHUP, "quiet", marks=serves),
        (signal.SIGTERM, "json"),
    ],
)
def test_however_himl_ends_nothing_is_left(himl: Himl, tmp_path: Path, number: signal.Signals, form: str) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > "{tmp_path / "opened"}"\n')
    browser.chmod(0o755)
    with serving(himl, tmp_path, RUN, "--open", "--format", form, env={"BROWSER": f"{browser} %s"}) as board:
        document = json.dumps({"url": board.address, "runs": [RUN]})
        validator("tb").validate(json.loads(document))
        assert (
            board.line
            == {"human": f"TensorBoard: {board.address}\n", "quiet": f"{board.address}\n", "json": f"{document}\n"}[
                form
            ]
        )
        until(
            lambda: (tmp_path / "opened").is_file() and (tmp_path / "opened").read_text() != "",
            "the browser is started",
        )
        page = Path((tmp_path / "opened").read_text().removeprefix("file://").rstrip())
        assert (board.address in page.read_text(), page.parent.stat().st_mode & 0o077) == (True, 0), (
            "other users cannot read it"
        )
        assert left_in(tmp_path) != []
        assert board.end(number) == (0 if number == signal.SIGTERM else -number)
        assert board.talk in ("", LAST) if form != "quiet" else board.talk == ""
        until(lambda: left_in(tmp_path) == [], lambda: f"the temporary folder is empty: {left_in(tmp_path)}")
        until(lambda: is_closed(board.port), "TensorBoard has ended")


@posix
@pytest.mark.usefixtures("recorded")
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes by /proc")
def test_dead_data_server_is_restarted_and_dead_tensorboard_told(himl: Himl, tmp_path: Path, mark: str) -> None:
    """The data server holds all data in memory, so the system kills it first when memory runs out."""

    def kill(part: str) -> None:
        for line in (line for line in processes_marked(mark, patience=0) if part in line):
            os.kill(int(line.split()[0]), signal.SIGKILL)

    with serving(himl, tmp_path, RUN) as board:
        board.shows(RUN, VALUES)
        board.says(LAST)
        kill("tensorboard_data_server/bin")
        board.says("TensorBoard's data server ended. himl restarts TensorBoard.")
        until(lambda: board.ask("data/runs") is not None, "it answers")
        board.shows(RUN, VALUES)
        kill("server_program")
        assert board.process.wait(60) == 1
        said = re.fullmatch(
            r"error: TensorBoard was ended by SIGKILL: .*\nhint: .*\n",
            board.talk.partition("himl restarts TensorBoard.\n")[2],
        )
        assert said, board.talk
    assert left_in(tmp_path) == []


@pytest.fixture
def recorded(project: Path) -> None:
    RecordedRuns(project).add(RUN, files={f"logs/{NAME}": event_bytes(VALUES)})


@serves
@posix
def test_silent_connections_are_closed_and_slow_ones_are_not(himl: Himl, project: Path, tmp_path: Path) -> None:
    large = random.Random(1).randbytes(8 << 20)  # more than the system takes at once
    image = Summary.Value(tag="large", image=Summary.Image(height=1, width=1, encoded_image_string=large))
    writer = EventFileWriter(str(tmp_path / "events"))
    writer.add_event(LoggedEvent(wall_time=1772366400.0, step=0, summary=Summary(value=[image])))
    writer.close()
    (path,) = (tmp_path / "events").iterdir()
    RecordedRuns(project).add(RUN, files={f"logs/{NAME}": path.read_bytes()})
    with serving(himl, tmp_path, command=["tb", RUN]) as board, socket.socket() as slow, socket.socket() as silent:
        until(lambda: board.ask("data/plugin/images/tags"), "the image is read")
        (shown,) = board.ask("data/plugin/images/images", run=RUN, tag="large", sample="0")
        words = f"GET /data/plugin/images/individualImage?{shown['query']} HTTP/1.0\r\n"
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", board.port))
        slow.sendall(f"{words}Authorization: Bearer {board.token}\r\n\r\n".encode())
        parts = [slow.recv(4096)]  # the answer has begun
        silent.connect(("127.0.0.1", board.port))

        def is_closed_meanwhile() -> bool:
            parts.append(slow.recv(4096))
            return bool(select.select([silent], [], [], 0)[0])

        until(is_closed_meanwhile, "the silent connection is closed")
        assert silent.recv(1) == b""
        while part := slow.recv(1 << 20):
            parts.append(part)
        assert b"".join(parts).endswith(large)


@serves
@posix
@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize(
    ("command", "data"), [(["tb", RUN], "/data/runs"), (["ui"], f"/ajax-api/2.0/mlflow/runs/get?run_id={RUN}")]
)
def test_only_the_printed_address_opens_the_pages(
    himl: Himl, tmp_path: Path, command: list[str], data: str, mark: str
) -> None:
    with serving(himl, tmp_path, command=command) as board:

        def answer(path: str, **headers: str) -> tuple[int, str | None, bytes]:
            with closing(HTTPConnection("127.0.0.1", board.port, timeout=60)) as connection:
                connection.request("GET", path, headers=headers)
                answered = connection.getresponse()
                return answered.status, answered.headers["Set-Cookie"], answered.read()

        wrong, cookie = board.token[::-1], f"himl_{board.port}={board.token}"
        strangers: list[tuple[str, dict[str, str]]] = [
            (path, {}) for path in ("/", data, "/favicon.ico", "/?token=", f"/?token={wrong}", "//", "/%2e%2e/")
        ]
        strangers += [
            (data, {"Cookie": text})
            for text in (f"himl_{board.port}={wrong}", f"himl_{board.port}=", f"other={board.token}", "ö=;;")
        ]
        strangers += [(data, {"Authorization": text}) for text in (f"Bearer {wrong}", "Bearer ", "Basic Og==")]
        assert [(path, headers) for path, headers in strangers if answer(path, **headers)[:2] != (403, None)] == []
        assert answer(f"/?token={board.token}")[:2] == (200, f"{cookie}; Path=/; HttpOnly; SameSite=Strict")
        assert [answer(data, Cookie=text)[0] for text in (cookie, f"a=b; {cookie}; c")] == [200, 200]
        assert RUN.encode() in answer(data, Authorization=f"Bearer {board.token}")[2]
        assert board.token not in board.talk
        if Path("/proc").is_dir():
            assert [line for line in processes_marked(mark, patience=0) if board.token in line] == [], (
                "not among the arguments"
            )
    with serving(himl, tmp_path, "--no_token", *(["--read_only"] if "ui" in command else []), command=command) as board:
        assert (board.address, board.token, answer(data)[0]) == (board.url, "", 200)
        assert "Without a token, anyone who can reach localhost:" in board.talk
        change, search = {"run_id": RUN, "key": "a", "value": "b"}, {"max_results": 1}
        for action, document, status in (
            (("delete", change, 403), ("set-tag", change, 403), ("search", search, 200)) if "ui" in command else ()
        ):
            with closing(HTTPConnection("127.0.0.1", board.port, timeout=60)) as connection:
                connection.request(
                    "POST",
                    f"/ajax-api/2.0/mlflow/runs/{action}",
                    json.dumps(document),
                    {"Content-Type": "application/json"},
                )
                answered = connection.getresponse()
                assert (answered.status, b"--read_only accepts no changes" in answered.read()) == (
                    status,
                    status == 403,
                )


@serves
@posix
@pytest.mark.parametrize("is_released", [False, True])
def test_port_taken_during_start_is_reported_and_replaced(tmp_path: Path, mark: str, *, is_released: bool) -> None:
    """Also if the other program has released the port when himl looks."""
    events: list[Event] = []
    (tmp_path / "runs").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with closing(
            TensorBoard(tmp_path / "runs", "127.0.0.1", port, 1, Access.new(has_token=False), events.append)
        ) as board:
            if is_released:
                log = tmp_path / "server.log"
                until(lambda: b"could not bind" in log.read_bytes(), "TensorBoard does not get the port")
                other.close()

            def is_up() -> bool:
                board.check()
                return board.is_up()

            until(is_up, "TensorBoard answers at another port")
            other_port = int(board.url.rstrip("/").rpartition(":")[2])
            told = [str(event) for event in events]
            assert other_port > port
            assert f"Port {port} is in use, so TensorBoard uses " in told[0]
            assert f"TensorBoard uses {other_port}." in told[-2]  # of another one if that was taken, too
            assert f"can reach 127.0.0.1:{other_port} " in told[-1]


@posix
@pytest.mark.usefixtures("recorded")
@pytest.mark.skipif(sys.platform == "darwin", reason="whoever runs this may have any port")
def test_port_for_administrators_is_refused(himl: Himl, require_program: Callable[[str], str]) -> None:
    without_right = (
        (require_program("setpriv"), "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service")
        if os.geteuid() == 0
        else ()
    )
    outcome = himl("tb", RUN, "--port", "80", prefix=without_right)
    assert (outcome.code, outcome.stderr.splitlines()[0]) == (2, "error: Port 80 is for administrators only.")
