"""Telling a local run to the double of Azure ML: what arrives, once, and how both end."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from himl_cli.core.runs import RECORDED_FROM, Run, RunEnd, RunQuery, RunStatus
from himl_cli.services.runs import writing
from himl_cli.services.runs.mirror import FileMirror, Timing, send_values
from himl_cli.services.runs.mirror_state import MirrorFile, MirrorState, SentRun, unfinished
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from himl_cli.workspaces.local.workspace import LocalWorkspace
from himl_cli.workspaces.resolve import JoinedWorkspace
from himl_cli.workspaces.retry import RetryPolicy
from tests.servers.azureml.faults import ResetUpload, Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure import opened
from tests.support.recorded_in_azure import ID, QUICK, content, record, told_of, values
from tests.support.recorded_in_azure import file as file
from tests.support.recorded_in_azure import here as here
from tests.support.recorded_in_azure import recorded as recorded
from tests.support.recorded_in_azure import there as there
from tests.support.running import until, write_files
from tests.support.runs import RecordedRuns


def test_all_of_a_run_arrives(recorded: RecordedRuns, here: LocalWorkspace, there: AzureWorkspace, file: MirrorFile) -> None:
    recorded.add(
        ID, status=RunStatus.failed, reason="exit code 3", exit_code=3, files={"outputs/a.txt": "a", "user_logs/std_log.txt": "x\n"}, tags={"team": "blue"}
    )
    recorded.log(ID, [("loss", 1.0, 0, 1_772_366_400_000), ("loss", float("nan"), 1, 1_772_366_401_000), ("acc", 0.5, 7, 1_772_366_402_000)], {"lr": "0.1"})
    record(here, there, file)
    run = there.run(ID)
    assert (run.status, run.reason, run.tags["team"]) == (RunStatus.failed, "exit code 3", "blue")
    found = values(there)
    assert [step for step, _ in found[ID, "loss"]] == [0, 1]
    assert found[ID, "acc"] == [(7, 0.5)]
    assert there.parameters(ID) == {"lr": "0.1"}
    assert content(there) == {"outputs/a.txt": b"a", "user_logs/std_log.txt": b"x\n"}
    assert not any((here.folder / "recordings").iterdir())


def test_the_time_of_a_point_is_when_it_was_logged(recorded: RecordedRuns, here: LocalWorkspace, there: AzureWorkspace, file: MirrorFile) -> None:
    recorded.add(ID)
    recorded.log(ID, [("loss", 1.0, 0, 1_772_366_400_000)])
    record(here, there, file)
    (metric,) = there.metrics(ID)
    assert metric.points == here.metrics(ID)[0].points


def test_nested_runs_are_nested_there(recorded: RecordedRuns, here: LocalWorkspace, there: AzureWorkspace, file: MirrorFile) -> None:
    recorded.add(ID)
    recorded.add("child_1_bb", parent=ID, status=RunStatus.failed, reason="no luck", display_name="fold 1")
    recorded.add("grandchild_1_cc", parent="child_1_bb")
    recorded.log("child_1_bb", [("loss", 2.0, 0, 1_772_366_400_000)], {"fold": "1"})
    write_files(here.folder / "runs" / "child_1_bb" / "artifacts", {"model/weights.bin": b"w"})
    record(here, there, file)
    child, grandchild = there.run("child_1_bb"), there.run("grandchild_1_cc")
    assert (child.parent, child.status, child.reason, child.display_name) == (ID, RunStatus.failed, "no luck", "fold 1")
    assert (grandchild.parent, grandchild.status) == ("child_1_bb", RunStatus.completed)
    assert values(there)["child_1_bb", "loss"] == [(0, 2.0)]
    assert (there.parameters("child_1_bb"), content(there, "child_1_bb")) == ({"fold": "1"}, {"model/weights.bin": b"w"})
    assert there.run(ID).status is RunStatus.completed


def test_a_nested_run_that_is_deleted_does_not_stay_open_there(recorded: RecordedRuns, here: LocalWorkspace, there: AzureWorkspace, file: MirrorFile) -> None:
    recorded.add(ID)
    there.start_run(Run("child_1_bb", "train", parent=ID))
    file.write(MirrorState(ID, {}, runs={"child_1_bb": SentRun(is_started=True)}))
    record(here, there, file)
    assert (there.run("child_1_bb").status, there.run(ID).status) == (RunStatus.canceled, RunStatus.completed)


def test_a_note_that_is_lost_repeats_nothing(recorded: RecordedRuns, here: LocalWorkspace, there: AzureWorkspace, file: MirrorFile) -> None:
    recorded.add(ID)
    recorded.log(ID, [("loss", float(number), number, 1_772_366_400_000 + number) for number in range(5000)], {"lr": "0.1"})
    send_values(here, there, here.run(ID), SentRun())
    record(here, there, file)
    assert values(there)[ID, "loss"] == [(number, float(number)) for number in range(5000)]


def test_points_of_other_runs_are_excluded_even_if_deleted(recorded: RecordedRuns, here: LocalWorkspace) -> None:
    recorded.add(ID)
    recorded.add("other_1_bb")
    recorded.log(ID, [("loss", 1.0, 0, 0)])
    recorded.log("other_1_bb", [("loss", 9.0, 0, 0), ("loss", 9.0, 1, 0)])
    entries, place = here.logged(ID, 0)
    assert [row.values for entry in entries for row in entry.rows] == [{"loss": 1.0}]
    assert here.logged(ID, place) == ([], place)
    here.delete("other_1_bb")
    recorded.log(ID, [("loss", 2.0, 1, 0)])
    entries, _ = here.logged(ID, place)
    assert [row.values for entry in entries for row in entry.rows] == [{"loss": 2.0}]


def test_what_is_not_taken_keeps_back_nothing_else(
    recorded: RecordedRuns, here: LocalWorkspace, there: AzureWorkspace, file: MirrorFile, caplog: pytest.LogCaptureFixture
) -> None:
    recorded.add(ID, files={"outputs/ends.": "x", "outputs/good.txt": "g"})
    recorded.log(ID, parameters={"lr": "0.1", "size": "3"})
    there.log_parameters(ID, {"lr": "0.9"})
    record(here, there, file)
    assert there.parameters(ID) == {"lr": "0.9", "size": "3"}
    assert content(there) == {"outputs/good.txt": b"g"}
    assert there.run(ID).status is RunStatus.completed
    assert "Parameter 'lr' was not taken" in caplog.text
    assert "'outputs/ends.' of run 'train_1_aa' was not taken" in caplog.text


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_log_is_told_as_it_grows_and_a_large_one_seldom(
    recorded: RecordedRuns, here: LocalWorkspace, there: AzureWorkspace, file: MirrorFile, clock: Clock
) -> None:
    recorded.add(ID, files={"user_logs/std_log.txt": "1\n"})
    path = here.folder / "runs" / ID / "user_logs" / "std_log.txt"
    mirror = FileMirror(here, there, ID, SentRun(), clock)
    told = []
    for second, text in ((0, ""), (1, "2\n"), (3, "3\n"), (4, "x" * (1 << 20)), (6, ""), (9, "4\n"), (14, "")):
        clock.now = second
        with path.open("a") as log:
            log.write(text)
        told.append((second, mirror.update()))
    assert told == [(0, True), (1, False), (3, True), (4, False), (6, False), (9, True), (14, False)]
    assert content(there)["user_logs/std_log.txt"] == path.read_bytes()


def test_other_files_are_told_once_they_stay_as_they_are(
    recorded: RecordedRuns, here: LocalWorkspace, there: AzureWorkspace, file: MirrorFile, clock: Clock
) -> None:
    recorded.add(ID, files={"outputs/last.ckpt": "half"})
    path = here.folder / "runs" / ID / "code" / "outputs" / "last.ckpt"
    mirror = FileMirror(here, there, ID, SentRun(), clock)
    assert not mirror.update()
    clock.now = 1.5
    path.write_text("whole it is")
    assert not mirror.update()
    clock.now = 3
    assert not mirror.update()
    clock.now = 4
    assert mirror.update()
    assert content(there) == {"outputs/last.ckpt": b"whole it is"}
    clock.now = 100
    assert not mirror.update()


def test_changing_file_is_sent_each_minute_and_at_end(
    recorded: RecordedRuns, here: LocalWorkspace, there: AzureWorkspace, file: MirrorFile, clock: Clock
) -> None:
    recorded.add(ID, files={"outputs/events": ""})
    path = here.folder / "runs" / ID / "code" / "outputs" / "events"
    mirror, told = FileMirror(here, there, ID, SentRun(), clock), []
    for second in range(130):
        clock.now = second
        path.write_text("x" * second)
        if mirror.update():
            told.append(second)
    assert told == [60, 120]
    assert mirror.update(is_last=True)
    assert content(there) == {"outputs/events": b"x" * 129}


def test_a_job_that_never_came_has_failed(here: LocalWorkspace, there: AzureWorkspace, file: MirrorFile) -> None:
    record(here, there, file)
    run = there.run(ID)
    assert (run.status, run.reason) == (RunStatus.failed, "himl submit ended before the job began")


def test_a_run_that_is_deleted_meanwhile_has_failed(here: LocalWorkspace, there: AzureWorkspace, file: MirrorFile) -> None:
    file.write(MirrorState(ID, {}, runs={ID: SentRun(is_started=True)}))
    record(here, there, file)
    assert there.run(ID).reason == "its record was deleted on the machine where it ran, before all of it was told"


def test_ended_run_is_sent_by_next_command_after_outage(
    recorded: RecordedRuns, here: LocalWorkspace, there: AzureWorkspace, azure_environment: StagedWorkspace, file: MirrorFile
) -> None:
    recorded.add(ID, files={"outputs/a.txt": "a"})
    azure_environment.stage.faults.add(Status(503, retry_after=300), "", times=None)
    record(here, there, file, replace(QUICK, patience=0.5))
    assert azure_environment.state.runs[ID].status == "Running"
    assert [*unfinished(here.folder)] == [ID]
    azure_environment.stage.faults.clear()
    note = file.take()
    assert note is not None
    assert note.away
    assert [*unfinished(here.folder)] == []
    record(here, there, file)
    assert (there.run(ID).status, content(there)) == (RunStatus.completed, {"outputs/a.txt": b"a"})


def test_a_network_that_is_away_is_borne_with(
    recorded: RecordedRuns, here: LocalWorkspace, there: AzureWorkspace, azure_environment: StagedWorkspace, project: Path, file: MirrorFile
) -> None:
    recorded.add(ID, files={"outputs/a.txt": "a"})
    recorded.log(ID, [("loss", 1.0, 0, 0)])
    azure_environment.stage.faults.add(ResetUpload(), "", times=None)
    with opened(azure_environment, project, RetryPolicy(attempts=2, first=0.01)) as hasty:
        thread = threading.Thread(target=record, args=(here, hasty, file, Timing(look=0.01, longest_pause=0.02)))
        thread.start()
        until(lambda: (note := file.read()) and note.away)
        azure_environment.stage.faults.clear()
        thread.join(60)
    assert (there.run(ID).status, values(there), content(there)) == (RunStatus.completed, {(ID, "loss"): [(0, 1.0)]}, {"outputs/a.txt": b"a"})


def test_a_sign_in_that_lapses_is_borne_with(
    recorded: RecordedRuns, here: LocalWorkspace, there: AzureWorkspace, azure_environment: StagedWorkspace, file: MirrorFile
) -> None:
    """It takes a person, who may come later; a right that is refused ends the recording."""
    recorded.add(ID)
    recorded.log(ID, [("loss", 1.0, 0, 0)])
    azure_environment.stage.faults.add(Status(401), "/metric/", times=None)
    thread = threading.Thread(target=record, args=(here, there, file, Timing(look=0.01, longest_pause=0.02)))
    thread.start()
    until(lambda: len(azure_environment.requests("/metric/.*-> 401")) >= 12)
    azure_environment.stage.faults.clear()
    thread.join(60)
    assert (there.run(ID).status, values(there)) == (RunStatus.completed, {(ID, "loss"): [(0, 1.0)]})


def test_metrics_do_not_wait_for_a_large_file(
    recorded: RecordedRuns, here: LocalWorkspace, there: AzureWorkspace, azure_environment: StagedWorkspace, file: MirrorFile
) -> None:
    """The file is on its way for long; points that come meanwhile arrive before it."""
    here.start_run(Run(ID, "train"))
    write_files(here.folder / "runs" / ID, {"user_logs/std_log.txt": "x\n"})
    thread = threading.Thread(target=record, args=(here, there, file))
    with azure_environment.stage.holding("PUT .*std_log.txt"):
        thread.start()
        until(lambda: azure_environment.requests("artifact/v2.0"))
        here.log(ID, [writing.scalar("loss", 0.5)])
        until(lambda: told_of(file).last_point)
        assert told_of(file).files == {}
    here.end_run(ID, RunEnd(RunStatus.completed))
    thread.join(60)
    assert (there.run(ID).status, content(there)) == (RunStatus.completed, {"user_logs/std_log.txt": b"x\n"})


def test_only_one_takes_a_note(here: LocalWorkspace, there: AzureWorkspace, file: MirrorFile) -> None:
    assert [*unfinished(here.folder)] == []
    assert MirrorFile(here.folder, ID).take(0.2) is None
    file.release()
    assert [*unfinished(here.folder)] == [ID]
    other = MirrorFile(here.folder, ID)
    assert other.take() is not None
    other.remove()
    assert MirrorFile(here.folder, ID).take() is None


def test_whoever_starts_the_job_is_waited_for(here: LocalWorkspace, there: AzureWorkspace, file: MirrorFile) -> None:
    file.write(MirrorState(ID, {}, is_starting=True))
    taken: list[MirrorState | None] = []

    def wait_for_it(patience: float) -> threading.Thread:
        waiting = threading.Thread(target=lambda: taken.append(MirrorFile(here.folder, ID).take(patience)))
        waiting.start()
        return waiting

    hasty = wait_for_it(0.3)
    hasty.join(0.6)  # longer than its patience
    assert hasty.is_alive()
    file.remove()
    hasty.join()
    file.begin(MirrorState(ID, {}, is_starting=True))
    patient = wait_for_it(60)
    file.write(MirrorState(ID, {}, failure="it did not start"))
    file.release()
    patient.join()
    gone, note = taken
    assert gone is None
    assert note is not None
    assert note.failure == "it did not start"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_somebody_elses_recording_is_left_to_them(here: LocalWorkspace, there: AzureWorkspace, file: MirrorFile) -> None:
    file.release()
    file.path.chmod(0)
    assert [*unfinished(here.folder)] == []


def test_runs_of_both_places_are_listed_once(recorded: RecordedRuns, here: LocalWorkspace, there: AzureWorkspace) -> None:
    recorded.add(ID)
    there.start_run(Run(ID, "train", tags={RECORDED_FROM: "laptop"}))
    there.start_run(Run("elsewhere_1_bb", "train", tags={RECORDED_FROM: "other"}))
    joined = JoinedWorkspace(here, lambda: there, there.label)
    assert sorted((run.id, run.workspace == here.label) for run in joined.runs(RunQuery())) == [("elsewhere_1_bb", False), (ID, True)]
