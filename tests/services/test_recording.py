"""Tests of mirroring a local run to Azure ML: everything arrives once, refused files, and the end of both runs despite
failures.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from himl_cli.core.runs import STOPPED, Run, RunEnd, RunStatus
from himl_cli.services.runs import writing
from himl_cli.services.runs.mirror import FileMirror, Mirror, Timing, put_off, send_values
from himl_cli.services.runs.mirror_state import DamagedState, MirrorFile, MirrorState, SentRun, unfinished
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from himl_cli.workspaces.local.metric_store import begin_attempt
from himl_cli.workspaces.local.run_store import Database, RunStore, now_ms
from himl_cli.workspaces.local.workspace import LocalWorkspace
from himl_cli.workspaces.retry import RetryPolicy
from tests.azureml_double.faults import Action, ResetUpload, Status
from tests.azureml_double.seeding import StagedWorkspace
from tests.support.azure import opened
from tests.support.running import until, write_files
from tests.support.runs import RecordedRuns

NOT_ALLOWED = Status(403, code="AuthorizationFailed", message="You shall not write.")
REFUSED = Status(400, code="UserError", message="No.")
PATIENT = Timing(look=0.01, longest_pause=0.02)
ID = "train_1_aa"
QUICK = Timing(look=0.01, start=0.3, longest_pause=0.1, refused=0.05)


@dataclass
class Recording:
    """A run that is mirrored from `here` to `there`. `file` stores the progress."""

    runs: RecordedRuns
    here: LocalWorkspace
    there: AzureWorkspace
    file: MirrorFile
    azure: StagedWorkspace

    def fail(self, fault: Action, request: str = "/metric/", times: int | None = None) -> None:
        self.azure.stage.faults.add(fault, request, times=times)

    def heal(self) -> None:
        self.azure.stage.faults.clear()

    def record(self, timing: Timing = QUICK, there: AzureWorkspace | None = None) -> None:
        note = self.file.read()
        assert note is not None
        Mirror(self.here, there or self.there, self.file, note, timing).run()

    @contextmanager
    def recording(self, timing: Timing = QUICK, there: AzureWorkspace | None = None) -> Iterator[threading.Thread]:
        """Mirror the run in a thread during the block, and wait for its end."""
        thread = threading.Thread(target=self.record, args=(timing, there))
        thread.start()
        yield thread
        thread.join(60)

    def start(self, *logged: float) -> None:
        """Start a run with these values of `loss`."""
        self.here.start_run(Run(ID, "train"))
        for value in logged:
            self.here.log(ID, [writing.scalar("loss", value)])

    def complete(self) -> None:
        self.here.end_run(ID, RunEnd(RunStatus.completed))

    def end_there(self) -> tuple[RunStatus, dict[str, bytes]]:
        return self.there.run(ID).status, content(self.there)

    def unfinished(self) -> list[str]:
        return [*unfinished(self.here.folder)]


@pytest.fixture
def recording(azure_environment: StagedWorkspace, project: Path) -> Iterator[Recording]:
    """A recording that has just begun."""
    runs = RecordedRuns(project)
    file = MirrorFile(runs.workspace.folder, ID)
    with opened(azure_environment, project) as there:
        there.start_run(Run(ID, "train"))
        file.begin(MirrorState(ID, {}))
        yield Recording(runs, runs.workspace, there, file, azure_environment)
        file.release()


def told_of(file: MirrorFile) -> SentRun:
    note = file.read()
    assert note is not None
    return note.runs.get(ID, SentRun())


def values(workspace: AzureWorkspace) -> dict[tuple[str, str], list[tuple[int, float]]]:
    return {
        (metric.run, metric.name): [(point.step, point.value) for point in metric.points]
        for metric in workspace.metrics(ID)
    }


def content(workspace: AzureWorkspace, run_id: str = ID) -> dict[str, bytes]:
    files = workspace.run_files(run_id)
    return {blob.name: b"".join(files.read(blob.name)) for page in files.list() for blob in page}


def test_all_of_a_run_arrives_with_those_below_it(recording: Recording) -> None:
    files = {"outputs/a.txt": "a", "user_logs/std_log.txt": "x\n"}
    tags = {"team": "blue", STOPPED: "x"}
    recording.runs.add(
        ID, status=RunStatus.failed, reason="exit code 3", exit_code=3, files=files, tags={"team": "blue"}
    )
    points = [
        ("loss", 1.0, 0, 1_772_366_400_000),
        ("loss", float("nan"), 1, 1_772_366_401_000),
        ("acc", 0.5, 7, 1_772_366_402_000),
    ]
    recording.runs.log(ID, points, {"lr": "0.1"})
    recording.runs.add(
        "child_1_bb", parent=ID, status=RunStatus.failed, reason="no luck", display_name="fold 1", tags=tags
    )
    recording.runs.add("grandchild_1_cc", parent="child_1_bb")
    recording.runs.log("child_1_bb", [("loss", 2.0, 0, 1_772_366_400_000)], {"fold": "1"})
    write_files(recording.here.folder / "runs" / "child_1_bb" / "artifacts", {"model/weights.bin": b"w"})
    (recording.here.folder / "key").write_text("private")
    (recording.here.folder / "runs" / ID / "code" / "outputs" / "key").symlink_to(recording.here.folder / "key")
    recording.there.start_run(Run("deleted_1_dd", "train", parent=ID))
    recording.file.write(MirrorState(ID, {}, runs={"deleted_1_dd": SentRun(is_started=True)}))
    recording.record()
    run, child, grandchild, deleted = (
        recording.there.run(run_id) for run_id in (ID, "child_1_bb", "grandchild_1_cc", "deleted_1_dd")
    )
    assert (run.status, run.reason, run.tags["team"]) == (RunStatus.failed, "exit code 3", "blue")
    assert [step for step, _ in values(recording.there)[ID, "loss"]] == [0, 1]
    acc, acc_here = (
        [metric.points for metric in place.metrics(ID) if metric.name == "acc"]
        for place in (recording.there, recording.here)
    )
    assert acc == acc_here, "with the time when it was logged"
    assert (recording.there.parameters(ID), content(recording.there)) == (
        {"lr": "0.1"},
        {name: text.encode() for name, text in files.items()},
    )
    assert (child.parent, child.status, child.reason, child.display_name) == (ID, RunStatus.failed, "no luck", "fold 1")
    assert (child.tags["team"], STOPPED in child.tags) == ("blue", False)
    assert (grandchild.parent, grandchild.status, deleted.status) == (
        "child_1_bb",
        RunStatus.completed,
        RunStatus.canceled,
    )
    assert values(recording.there)["child_1_bb", "loss"] == [(0, 2.0)]
    assert (recording.there.parameters("child_1_bb"), content(recording.there, "child_1_bb")) == (
        {"fold": "1"},
        {"model/weights.bin": b"w"},
    )
    assert not any((recording.here.folder / "recordings").iterdir())


def test_refused_file_or_parameter_keeps_back_nothing_else(
    recording: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    recording.runs.add(ID, files={"outputs/ends.": "x", "outputs/good.txt": "g"})
    recording.runs.log(ID, parameters={"lr": "0.1", "size": "3"})
    recording.there.log_parameters(ID, {"lr": "0.9"})
    recording.record()
    assert recording.there.parameters(ID) == {"lr": "0.9", "size": "3"}
    assert recording.end_there() == (RunStatus.completed, {"outputs/good.txt": b"g"})
    assert "Parameter 'lr' was rejected" in caplog.text
    assert "'outputs/ends.' of run 'train_1_aa' was rejected" in caplog.text


@pytest.mark.parametrize("is_sent_live", [True, False])
def test_values_that_a_later_attempt_replaced_do_not_count_there(recording: Recording, is_sent_live: bool) -> None:
    runs, database = recording.runs, Database(recording.here.folder / "workspace.db")
    store, begin = RunStore(database), now_ms() - 60_000
    runs.add(ID, status=RunStatus.running)
    store.add(Run("fold_1_bb", "train", RunStatus.running, display_name="fold", parent=ID), job=ID)
    runs.log(ID, [("loss", 100.0 + step, step, begin + step) for step in range(6)], {"start": "0"})
    runs.log("fold_1_bb", [("acc", 1.0, 0, begin)])
    sent = MirrorState(ID, {})
    if is_sent_live:
        send_values(recording.here, recording.there, recording.here.run(ID), sent.sent(ID))
    begin_attempt(database, ID)
    store.tag(ID, {"himl.try": "2"})
    store.start(ID)
    store.add(Run("fold_1_cc", "train", RunStatus.running, display_name="fold", parent=ID), job=ID)
    runs.log(ID, [("loss", 200.0 + step, step, now_ms()) for step in range(3)], {"start": "3"})
    runs.log("fold_1_cc", [("acc", 2.0, 0, now_ms())])
    store.end(ID, RunStatus.completed)
    store.end("fold_1_cc", RunStatus.completed)
    database.close()
    recording.file.write(sent)
    recording.record()
    points = [(step, 200.0 + step) for step in range(3)]
    assert values(recording.there) == {(ID, "loss"): points, ("fold_1_cc", "acc"): [(0, 2.0)]}
    for workspace in (recording.here, recording.there):
        found = workspace.results([workspace.run(ID)], wanted=lambda name: True, whole=True)[ID]
        assert (found.last["loss"], [*found.series["loss"].values]) == (202, [200, 201, 202])
        assert workspace.refresh([workspace.run(ID)])[ID][1].last["loss"] == 202
    # Azure ML does not change a parameter, which is said.
    told = "parameter 'start' has the value of an earlier attempt there, '0'" if is_sent_live else None
    assert recording.here.run(ID).tags.get(STOPPED) == told


def test_refused_metric_keeps_back_no_other(recording: Recording, caplog: pytest.LogCaptureFixture) -> None:
    recording.runs.add(ID)
    recording.runs.log(ID, [("bad", 1.0, 0, 0), ("bad", 2.0, 1, 0), ("good", 3.0, 0, 0)])
    recording.fail(REFUSED, times=2)
    sent = SentRun()
    send_values(recording.here, recording.there, recording.here.run(ID), sent)
    assert values(recording.there) == {(ID, "good"): [(0, 3.0)]}
    assert "Metric 'bad' was rejected (2 points, the first at step 0): " in caplog.text
    recording.runs.log(ID, [("loss", float(step), step, step) for step in range(2000)])
    recording.fail(REFUSED)
    send_values(recording.here, recording.there, recording.here.run(ID), sent)
    assert "Metric 'loss' was rejected (2000 points, the first at step 0): " in caplog.text
    assert len(recording.azure.requests("/metric/")) < 200, "not each point by itself"
    assert recording.here.logged(ID, sent.last_point)[0] == []


def test_refused_nested_run_keeps_back_no_other(recording: Recording, caplog: pytest.LogCaptureFixture) -> None:
    recording.runs.add(ID, files={"outputs/a.txt": "a"})
    for name in ("good_1_aa", "bad_1_bb", "last_1_cc"):
        recording.runs.add(name, parent=ID)
        recording.runs.log(name, [("loss", 1.0, 0, 0)])
    recording.runs.add("below_1_dd", parent="bad_1_bb")
    recording.fail(REFUSED, "PATCH .*/runs/bad_1_bb")
    recording.record()
    assert values(recording.there) == {(name, "loss"): [(0, 1.0)] for name in ("good_1_aa", "last_1_cc")}
    assert recording.end_there() == (RunStatus.completed, {"outputs/a.txt": b"a"})
    assert caplog.text.count("Nested run 'bad_1_bb' was rejected: ") == 1
    assert recording.here.run(ID).tags[STOPPED].startswith("nested run 'bad_1_bb': ")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def mirror_of(recording: Recording, file: str, text: str) -> tuple[FileMirror, Clock, Path]:
    """Return a mirror of a run that has this file."""
    recording.runs.add(ID, files={file: text})
    clock, folder = Clock(), recording.here.folder / "runs" / ID
    return (
        FileMirror(recording.here, recording.there, ID, SentRun(), clock),
        clock,
        folder / ("" if file.startswith("user_logs") else "code") / file,
    )


def test_log_is_sent_as_it_grows_and_a_large_one_seldom(recording: Recording) -> None:
    mirror, clock, path = mirror_of(recording, "user_logs/std_log.txt", "1\n")
    sent = []
    for second, text in ((0, ""), (1, "2\n"), (3, "3\n"), (4, "x" * (1 << 20)), (6, ""), (9, "4\n"), (14, "")):
        clock.now = second
        with path.open("a") as log:
            log.write(text)
        sent.append((second, mirror.update()))
    assert sent == [(0, True), (1, False), (3, True), (4, False), (6, False), (9, True), (14, False)]
    assert content(recording.there)["user_logs/std_log.txt"] == path.read_bytes()


def test_other_file_is_sent_once_unchanged_or_each_minute(recording: Recording) -> None:
    mirror, clock, path = mirror_of(recording, "outputs/last.ckpt", "half")
    assert not mirror.update()
    clock.now = 1.5
    path.write_text("whole it is")
    sent = [mirror.update()]
    for clock.now in (3, 4, 100):
        sent.append(mirror.update())
    assert sent == [False, False, True, False]
    assert content(recording.there) == {"outputs/last.ckpt": b"whole it is"}
    times = []
    for second in range(200, 330):
        clock.now = second
        path.write_text("x" * second)
        if mirror.update():
            times.append(second)
    assert times == [200, 260, 320]
    assert mirror.update(is_last=True)
    assert content(recording.there) == {"outputs/last.ckpt": b"x" * 329}


def test_ended_run_is_sent_by_next_command_after_outage(recording: Recording) -> None:
    recording.runs.add(ID, files={"outputs/a.txt": "a"})
    recording.fail(Status(503, retry_after=300), "")
    recording.record(replace(QUICK, patience=0.5))
    assert recording.azure.state.runs[ID].status == "Running"
    assert recording.unfinished() == [ID]
    recording.heal()
    note = recording.file.take()
    assert note is not None
    assert note.away
    assert recording.unfinished() == []
    recording.record()
    assert recording.end_there() == (RunStatus.completed, {"outputs/a.txt": b"a"})


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize("fault", [ResetUpload(), Status(401)], ids=["network", "sign-in that a person renews"])
def test_outage_is_bridged(recording: Recording, project: Path, fault: Action) -> None:
    recording.runs.add(ID, files={"outputs/a.txt": "a"})
    recording.runs.log(ID, [("loss", 1.0, 0, 0)])
    recording.fail(fault, "")
    with (
        opened(recording.azure, project, RetryPolicy(attempts=2, first=0.01)) as hasty,
        recording.recording(PATIENT, hasty),
    ):
        until(lambda: (note := recording.file.read()) and note.away)
        recording.heal()
    assert values(recording.there) == {(ID, "loss"): [(0, 1.0)]}
    assert recording.end_there() == (RunStatus.completed, {"outputs/a.txt": b"a"})


def test_metrics_do_not_wait_for_a_large_file(recording: Recording) -> None:
    recording.start()
    write_files(recording.here.folder / "runs" / ID, {"user_logs/std_log.txt": "x\n"})
    with ExitStack() as held:
        held.enter_context(recording.azure.stage.holding("PUT .*std_log.txt"))
        with recording.recording():
            until(lambda: recording.azure.requests("artifact/v2.0"))
            recording.here.log(ID, [writing.scalar("loss", 0.5)])
            until(lambda: told_of(recording.file).last_point)
            assert told_of(recording.file).files == {}
            held.close()
            recording.complete()
    assert recording.end_there() == (RunStatus.completed, {"user_logs/std_log.txt": b"x\n"})


@pytest.mark.parametrize("timing", [QUICK, replace(PATIENT, refused=3600)], ids=["permission returns", "run ends"])
def test_recording_resumes_once_permission_returns_or_run_ends(recording: Recording, timing: Timing) -> None:
    recording.start(0.5)
    recording.fail(NOT_ALLOWED)
    with recording.recording(timing):
        until(lambda: recording.here.run(ID).tags.get(STOPPED))
        if timing is QUICK:
            until(lambda: len(recording.azure.requests("/metric/.*-> 403")) > 5)
            recording.heal()
            until(lambda: not recording.here.run(ID).tags[STOPPED])
        recording.heal()
        recording.complete()
    assert (recording.there.run(ID).status, [*values(recording.there)]) == (RunStatus.completed, [(ID, "loss")])


def test_refused_recording_is_due_again_later(project: Path) -> None:
    here = RecordedRuns(project).workspace
    state = MirrorState(ID, {})
    assert state.is_due()
    put_off(here, state, "No.")
    assert (state.is_due(), state.away) == (False, "No.")
    state.not_before += 24 * 3600  # set by a clock that was wrong
    assert state.is_due()


@pytest.mark.large("takes long, and other tests run its branches")
def test_missing_note_folder_ends_nothing(recording: Recording) -> None:
    recording.start()
    thread = threading.Thread(
        target=Mirror(recording.here, recording.there, recording.file, MirrorState(ID, {}), QUICK).run
    )
    thread.start()
    folder, away = recording.file.path.parent, recording.here.folder / "away"
    folder.rename(away)
    recording.here.log(ID, [writing.scalar("loss", 1.0)])
    until(lambda: values(recording.there))
    recording.fail(Status(503, retry_after=300))
    recording.here.log(ID, [writing.scalar("loss", 0.5)])
    until(lambda: len(recording.azure.requests("/metric/.*-> 503")) > 1)
    recording.heal()
    until(lambda: [len(points) for points in values(recording.there).values()] == [2])
    assert thread.is_alive()
    away.rename(folder)
    recording.complete()
    thread.join(60)
    assert (recording.there.run(ID).status, recording.file.read()) == (RunStatus.completed, None)


def test_note_is_taken_by_one_process(recording: Recording) -> None:
    folder = recording.here.folder
    assert recording.unfinished() == []
    assert MirrorFile(folder, ID).take(0.2) is None
    recording.file.release()
    assert recording.unfinished() == [ID]
    if os.name != "nt" and os.geteuid() != 0:
        recording.file.path.chmod(0)
        assert recording.unfinished() == [], "somebody else's recording"
        recording.file.path.chmod(0o600)
    other = MirrorFile(folder, ID)
    assert other.take() is not None
    other.remove()
    assert MirrorFile(folder, ID).take() is None


def test_invalid_note_is_set_aside(tmp_path: Path) -> None:
    with_place = (
        '{"place": {}}',
        '{"place": {"start": 3}, "runs": {}}',
        '{"place": {}, "not_before": {}, "runs": {}}',
        '{"place": {}, "runs": {"a": {"last_point": "1"}}}',
    )
    texts = (
        "",
        "{",
        "[]",
        "{}",
        *(text.replace("{", '{"run_id": "a", ', 1) for text in with_place),
        '{"runs": {"a": 1}}',
        "\udcff",
    )
    for number, text in enumerate(texts):
        folder, content = tmp_path / str(number), text.encode(errors="surrogateescape")
        write_files(folder, {f"recordings/{ID}.json": content})
        assert [*unfinished(folder)] == [ID]
        file = MirrorFile(folder, ID)
        with pytest.raises(DamagedState, match="is damaged"):
            file.take()
        aside = file.set_aside()
        assert aside.read_bytes() == content
        assert [*unfinished(folder)] == []
        assert [path.name for path in aside.parent.iterdir()] == [aside.name]
