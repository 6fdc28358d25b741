"""`himl tb` through the installed program and the real TensorBoard."""

from __future__ import annotations

import json
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.servers.azureml.faults import FlipByte, Page, Stall, Status
from tests.servers.azureml.jobs.sweeps.trials import add_trial
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.sweep_seeding import add_sweep
from tests.support.running import Himl, until, write_files
from tests.support.runs import RecordedRuns
from tests.support.tensorboard import NAME, WRITER, event_bytes, is_closed, scalars, serving

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs signals of POSIX")

LONG = event_bytes([1.0, 0.5, 0.25, 0.125])
SHORT = event_bytes([1.0, 0.5])

GROWS = f"""
{WRITER}
writer = EventFileWriter("logs/train")
for step in range(2):
    write(writer, "loss", step, 1.0 / (step + 1))
while not os.path.exists(sys.argv[1]):
    time.sleep(0.05)
write(writer, "loss", 2, 0.25)
writer.close()
"""


READERS = {
    "data server": ({}, "GrpcDataProvider"),
    "data server behind a proxy": ({"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}, "GrpcDataProvider"),
    "none": ({"TENSORBOARD_DATA_SERVER_BINARY": "/no/such/file"}, "MultiplexerDataProvider"),
}


@posix
@pytest.mark.parametrize("reader", READERS)
def test_a_run_of_here_is_shown_where_it_lies_and_grows(himl: Himl, project: Path, tmp_path: Path, reader: str) -> None:
    """TensorBoard reads by its data server where there is one, and else by itself."""
    env, provider = READERS[reader]
    write_files(project, {"train.py": GROWS})
    run = himl.ok("submit", "train.py", "--no_wait", "-q", "--display_name", "First try", "--", str(tmp_path / "go")).stdout.strip()
    try:
        with serving(himl, tmp_path, env=env) as board:
            board.shows(f"First_try-{run}/train", [1.0, 0.5])
            (tmp_path / "go").touch()
            board.shows(f"First_try-{run}/train", [1.0, 0.5, 0.25])
            assert provider in board.ask("data/environment")["debug"]["data_provider"]
            assert board.end() == 0
            assert board.process.stdout is not None
            assert board.process.stdout.read() == b"", "one line, and no more"
            assert set(board.talk.splitlines()) <= {"Ctrl-C ends it.", f"Run '{run}' has no event files yet."}
    finally:
        (tmp_path / "go").touch()
        himl("runs", "logs", "--follow")
    assert [*(tmp_path / "home").rglob("*tfevents*"), *(tmp_path / "tmp").glob("himl*")] == [], "nothing is copied, and nothing stays behind"


@pytest.fixture
def seeded(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    """A run that has ended, one that goes on, one without event files; a sweep that goes on."""
    azure = azure_environment
    azure.write_config(project)
    azure.put_artifacts(azure.add_run("train_1_aa", "train", display_name="Done"), {f"logs/{NAME}": LONG, "outputs/model.pt": b"m"})
    going = azure.add_run("train_2_bb", "train", status="Running", display_name="Going on")
    azure.state.storage.append("azureml", f"{going.artifact_prefix}logs/{NAME}", SHORT)
    azure.put_artifact(azure.add_run("train_3_cc", "train", status="Failed"), "user_logs/std_log.txt", b"boom")
    add_sweep(azure, "hunt", [{"lr": 0.1}, {"lr": 0.2}], statuses={1: "Running"})
    for trial in ("hunt_0", "hunt_1"):
        azure.put_artifact(azure.state.runs[trial], f"logs/{NAME}", LONG)
    return azure


@posix
def test_growing_runs_are_fetched_again_but_ended_ones_are_not(himl: Himl, seeded: StagedWorkspace, tmp_path: Path) -> None:
    with serving(himl, tmp_path, "--experiment", "train", "--num_runs", "all") as board:
        board.shows("Done-train_1_aa", [1.0, 0.5, 0.25, 0.125])
        board.shows("Going_on-train_2_bb", [1.0, 0.5])
        board.says("Run 'train_3_cc' has no event files.")
        run = seeded.state.runs["train_2_bb"]
        seeded.state.storage.append("azureml", f"{run.artifact_prefix}logs/{NAME}", LONG[len(SHORT) :])
        board.shows("Going_on-train_2_bb", [1.0, 0.5, 0.25, 0.125])
        seen = len(seeded.requests(r"train_1_aa"))
        of_other = len(seeded.requests(r"GET .*prefix=.*train_2_bb"))
        until(lambda: len(seeded.requests(r"GET .*prefix=.*train_2_bb")) > of_other + 1, "the run that goes on is looked at")
        assert len(seeded.requests(r"train_1_aa")) == seen
        assert board.end(signal.SIGTERM) == 0
        assert board.talk.count("train_3_cc") == 1


@posix
def test_local_copies_show_during_stalled_fetch_and_ctrl_c_works(himl: Himl, seeded: StagedWorkspace, project: Path, tmp_path: Path) -> None:
    himl.ok("tb", "train_1_aa", "--sync_only", "--run_logs_dir", "copies")
    seeded.stage.faults.add(Stall(60.0), r"GET .*prefix=.*train_[12]_", times=None)
    with serving(himl, tmp_path, "train_1_aa", "train_2_bb", "--run_logs_dir", "copies") as board:
        board.shows("Done-train_1_aa", [1.0, 0.5, 0.25, 0.125])
        assert board.values("Going_on-train_2_bb") == []
        assert board.end() == 0
        assert board.talk == "Ctrl-C ends it.\n"


@posix
def test_a_file_that_became_another_one_is_shown_as_it_is_now(himl: Himl, seeded: StagedWorkspace, tmp_path: Path) -> None:
    with serving(himl, tmp_path, "train_2_bb", "--log_dir", "outputs") as board:
        board.shows("Going_on-train_2_bb/logs", [1.0, 0.5])
        run = seeded.state.runs["train_2_bb"]
        seeded.put_artifact(run, f"outputs/again/{NAME}", LONG)
        board.shows("Going_on-train_2_bb/outputs/again", [1.0, 0.5, 0.25, 0.125])
        seeded.put_artifact(run, f"outputs/again/{NAME}", event_bytes([9.0, 8.0]))
        board.shows("Going_on-train_2_bb/outputs/again", [9.0, 8.0])
        assert board.end() == 0


@posix
def test_refusing_service_is_reported_once_and_retried(himl: Himl, seeded: StagedWorkspace, tmp_path: Path) -> None:
    with serving(himl, tmp_path, "train_2_bb") as board:
        board.shows("Going_on-train_2_bb", [1.0, 0.5])
        seeded.stage.faults.add(Status(403, code="Forbidden", message="Not now."), r"/history/.*train_2_bb", times=None)
        board.says("Still trying; TensorBoard shows what is here.")
        refused = len(seeded.requests(r"/history/.*train_2_bb.*403"))
        until(lambda: len(seeded.requests(r"/history/.*train_2_bb.*403")) > refused + 1, "it is tried again")
        run = seeded.state.runs["train_2_bb"]
        seeded.state.storage.append("azureml", f"{run.artifact_prefix}logs/{NAME}", LONG[len(SHORT) :])
        seeded.stage.faults.clear()
        board.says("The service answers again.")
        board.shows("Going_on-train_2_bb", [1.0, 0.5, 0.25, 0.125])
        assert board.talk.count("Still trying") == 1
        assert board.end() == 0


@posix
def test_new_trials_appear_and_expired_sign_in_is_retried(himl: Himl, seeded: StagedWorkspace, tmp_path: Path) -> None:
    """The expired secret is reported once; meanwhile, event files that grow are still fetched."""
    run = seeded.state.runs["train_2_bb"]
    with serving(himl, tmp_path, "train_2_bb", "hunt") as board:
        board.shows("Going_on-train_2_bb", [1.0, 0.5])
        board.shows("lr=0.1-hunt_0", [1.0, 0.5, 0.25, 0.125])
        expired = json.dumps({"error": "invalid_client", "error_description": "AADSTS7000222: The provided client secret keys for app are expired."})
        seeded.stage.faults.add(Status(401, code="Unauthorized", message="Expired."), r"/history/|management", times=None)
        seeded.stage.faults.add(Page(expired, 401, "application/json"), r"POST .*/oauth2/v2.0/token", times=None)
        board.says("the client secret has expired.")
        half = len(SHORT) + (len(LONG) - len(SHORT)) // 2 + 3
        seeded.state.storage.append("azureml", f"{run.artifact_prefix}logs/{NAME}", LONG[len(SHORT) : half])
        trial = add_trial(seeded.state, seeded.state.runs["hunt"], 2, {"lr": 0.5})
        trial.status = "Running"
        seeded.put_artifact(trial, f"logs/{NAME}", SHORT)
        board.shows("Going_on-train_2_bb", [1.0, 0.5, 0.25])  # and half a record, which TensorBoard waits for the rest of
        refused = len(seeded.requests(r"POST .*/oauth2/v2.0/token.*401"))
        until(lambda: len(seeded.requests(r"POST .*/oauth2/v2.0/token.*401")) > refused + 1, "it is tried again")
        seeded.stage.faults.clear()
        board.says("The service answers again.")
        board.shows("lr=0.5-hunt_2", [1.0, 0.5])
        seeded.state.storage.append("azureml", f"{run.artifact_prefix}logs/{NAME}", LONG[half:])
        board.shows("Going_on-train_2_bb", [1.0, 0.5, 0.25, 0.125])
        assert board.end() == 0
        said = board.talk.splitlines()
        assert [line for line in said if "answers" not in line and "hunt" not in line and "Still trying" not in line] == ["Ctrl-C ends it."]
        assert (board.talk.count("Still trying"), board.talk.count("One more run: hunt_2.")) == (1, 1)


@posix
def test_a_file_is_shown_while_the_rest_of_it_comes(himl: Himl, seeded: StagedWorkspace, tmp_path: Path) -> None:
    """It comes in ranges of 4 MiB, each shown once it is proved to be right."""
    seeded.put_artifact(seeded.state.runs["train_1_aa"], f"logs/{NAME}", SHORT + event_bytes([0.0] * 500, tag="long" * 3000) + LONG[len(SHORT) :])
    seeded.stage.faults.add(Stall(60.0), rf"GET .*train_1_aa/logs/{NAME}", times=None, skip=1)
    with serving(himl, tmp_path, "train_1_aa") as board:
        board.shows("Done-train_1_aa", [1.0, 0.5])
        assert board.end() == 0


@posix
def test_a_taken_port_moves_on_and_others_being_let_in_is_said(himl: Himl, project: Path, tmp_path: Path) -> None:
    RecordedRuns(project).add("train_1_aa", files={f"logs/{NAME}": LONG})
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with serving(himl, tmp_path, "--run", "latest", "--host", "0.0.0.0", "--port", str(port)) as board:
            assert port < board.port <= port + 100
            assert f"Port {port} is taken: TensorBoard takes {board.port}." in board.talk
            assert f"whoever reaches 0.0.0.0:{board.port} sees these runs" in board.talk
            board.shows("train_1_aa", [1.0, 0.5, 0.25, 0.125])
            assert board.end() == 0


@posix
def test_open_starts_browser_and_killed_himl_ends_tensorboard(himl: Himl, project: Path, tmp_path: Path) -> None:
    RecordedRuns(project).add("train_1_aa", files={f"logs/{NAME}": LONG})
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > "{tmp_path / "opened"}"\n')
    browser.chmod(0o755)
    with serving(himl, tmp_path, "--run", "latest", "--open", env={"BROWSER": f"{browser} %s"}) as board:
        until(lambda: (tmp_path / "opened").is_file() and (tmp_path / "opened").read_text() == f"{board.url}\n", "the browser was told")
        board.process.kill()
        until(lambda: is_closed(board.port), "TensorBoard has ended")


@posix
def test_the_address_is_one_line_in_each_format(himl: Himl, project: Path, tmp_path: Path) -> None:
    RecordedRuns(project).add("train_1_aa", files={f"logs/{NAME}": LONG})
    for option in ((), ("-q",), ("--json",)):
        with serving(himl, tmp_path, "train_1_aa", *option) as board:
            document = json.dumps({"url": board.url, "runs": ["train_1_aa"]})
            assert board.line == {(): f"TensorBoard: {board.url}\n", ("-q",): f"{board.url}\n"}.get(option, f"{document}\n")
            if "-q" not in option:
                board.says("Ctrl-C ends it.\n")
            assert board.end() == 0
            assert board.talk == ("" if "-q" in option else "Ctrl-C ends it.\n")


def test_sync_only_fetches_once_and_prints_where(himl: Himl, seeded: StagedWorkspace, project: Path) -> None:
    options = ("tb", "--experiment", "train", "--num_runs", "all", "--sync_only", "--run_logs_dir", "copies")
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


def test_copies_go_to_the_cache_unless_said_otherwise(himl: Himl, seeded: StagedWorkspace, project: Path, tmp_path: Path) -> None:
    folder = Path(himl.ok("tb", "train_1_aa", "--sync_only", "-q").stdout.strip())
    assert (folder.name, (folder / NAME).read_bytes()) == ("train_1_aa", LONG)
    assert tmp_path / "home" in folder.parents
    assert [path.name for path in project.iterdir()] == ["config.json"]


def test_no_event_files_at_all_is_exit_3(himl: Himl, seeded: StagedWorkspace) -> None:
    outcome = himl("tb", "train_3_cc", "--sync_only")
    assert (outcome.code, outcome.stdout) == (3, "")
    assert outcome.stderr.startswith("error: Run 'train_3_cc' has no event files.\n")
    served = himl("tb", "train_3_cc", "--port", "0")
    assert (served.code, served.stderr) == (3, outcome.stderr)


def test_a_service_that_fails_is_exit_5_and_what_came_is_told(himl: Himl, seeded: StagedWorkspace) -> None:
    seeded.stage.faults.add(Status(503, retry_after=3600), r"GET .*train_2_bb.*logs", times=None)
    outcome = himl("tb", "--run", "train_1_aa,train_2_bb", "--sync_only", "--run_logs_dir", "copies")
    assert outcome.code == 5
    assert [line.split("\t")[0] for line in outcome.stdout.splitlines()] == ["run", "train_1_aa"]


def test_bytes_that_stay_damaged_are_exit_6_and_not_kept(himl: Himl, seeded: StagedWorkspace) -> None:
    seeded.stage.faults.add(FlipByte(-1), rf"GET .*train_2_bb/logs/{NAME}", times=None)
    outcome = himl("tb", "--run", "train_1_aa,train_2_bb", "--sync_only", "--run_logs_dir", "copies")
    assert outcome.code == 6
    assert [line.split("\t")[0] for line in outcome.stdout.splitlines()] == ["run", "train_1_aa"]
    assert outcome.stderr.startswith(f"error: 'logs/{NAME}' in ")
    assert "came damaged time and again: its bytes do not match their checksum.\n" in outcome.stderr
    seeded.stage.faults.clear()
    himl.ok("tb", "train_2_bb", "--sync_only", "--run_logs_dir", "copies")


@posix
def test_damaged_bytes_are_reported_once_and_fetched_again(himl: Himl, seeded: StagedWorkspace, tmp_path: Path) -> None:
    with serving(himl, tmp_path, "train_2_bb") as board:
        board.shows("Going_on-train_2_bb", [1.0, 0.5])
        seeded.stage.faults.add(FlipByte(-1), rf"GET .*train_2_bb/logs/{NAME}", times=None)
        run = seeded.state.runs["train_2_bb"]
        seeded.state.storage.append("azureml", f"{run.artifact_prefix}logs/{NAME}", LONG[len(SHORT) :])
        board.says("Still trying; TensorBoard shows what is here.")
        asked = len(seeded.requests(rf"GET .*train_2_bb/logs/{NAME}"))
        until(lambda: len(seeded.requests(rf"GET .*train_2_bb/logs/{NAME}")) > asked + 3, "it is tried again")
        seeded.stage.faults.clear()
        board.shows("Going_on-train_2_bb", [1.0, 0.5, 0.25, 0.125])
        assert board.talk.count("Still trying") == 1
        assert board.end() == 0


@pytest.mark.parametrize(
    "options",
    [
        ("--refresh", "0"),
        ("--port", "65536"),
        ("--host", " "),
        ("--host", "no.such.host.invalid"),
        ("--run_logs_dir", "train.py"),
        ("--run_logs_dir", ""),
        ("--log_dir", "../x"),
    ],
)
def test_what_cannot_be_is_exit_2(himl: Himl, project: Path, options: tuple[str, ...]) -> None:
    RecordedRuns(project).add("train_1_aa", files={f"logs/{NAME}": LONG})
    write_files(project, {"train.py": ""})
    assert himl("tb", "train_1_aa", *options).code == 2


def test_other_ways_to_write_the_options_of_hi_ml(himl: Himl, seeded: StagedWorkspace, project: Path) -> None:
    himl.ok("tb", "--run_recovery_ids", "train:train_1_aa", "--run-logs-dir", "copies", "--log-dir", "logs", "--sync-only")
    assert (project / "copies" / "Done-train_1_aa" / NAME).read_bytes() == LONG
