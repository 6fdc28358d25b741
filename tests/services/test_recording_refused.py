"""Recordings that are not taken: what is kept back, for how long, and what goes on all the same."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import FrameType

import pytest

from himl_cli.core.runs import STOPPED, Run, RunEnd, RunStatus
from himl_cli.services.runs import writing
from himl_cli.services.runs.mirror import Mirror, Timing, put_off, send_values
from himl_cli.services.runs.mirror_state import DamagedState, MirrorFile, MirrorState, SentRun, unfinished
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from himl_cli.workspaces.local.workspace import LocalWorkspace
from tests.servers.azureml.faults import Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.processes import at_each_step
from tests.support.recorded_in_azure import ID, QUICK, record, values
from tests.support.recorded_in_azure import file as file
from tests.support.recorded_in_azure import here as here
from tests.support.recorded_in_azure import recorded as recorded
from tests.support.recorded_in_azure import there as there
from tests.support.running import until
from tests.support.runs import RecordedRuns

REFUSED = Status(403, code="AuthorizationFailed", message="You shall not write.")
NO_NOTES = (
    "",
    "{",
    "[]",
    "{}",
    '{"run_id": "a", "place": {}}',
    '{"run_id": "a", "place": {"start": 3}, "runs": {}}',
    '{"run_id": "a", "place": {}, "not_before": {}, "runs": {}}',
    '{"run_id": "a", "place": {}, "runs": {"a": {"last_point": "1"}}}',
    '{"runs": {"a": 1}}',
    "\udcff",
)


def forget_the_wait(file: MirrorFile) -> None:
    note = file.read()
    assert note is not None
    note.not_before = time.time() - 1
    file.write(note)


def test_a_right_that_is_missing_puts_the_rest_off(
    recorded: RecordedRuns, here: LocalWorkspace, there: AzureWorkspace, azure_environment: StagedWorkspace, file: MirrorFile
) -> None:
    """The note stays, the run says so, and the next command but some time later goes on with it."""
    recorded.add(ID)
    recorded.log(ID, [("loss", 1.0, 0, 0)])
    azure_environment.stage.faults.add(REFUSED, "/metric/", times=None)
    record(here, there, file)
    assert (azure_environment.state.runs[ID].status, file.is_worked_on(), [*unfinished(here.folder)]) == ("Running", False, [])
    assert "answered 403" in here.run(ID).tags[STOPPED]
    assert "It is kept, and tried again later." in here.run(ID).tags[STOPPED]
    azure_environment.stage.faults.clear()
    forget_the_wait(file)
    assert [*unfinished(here.folder)] == [ID]
    record(here, there, file)
    assert (there.run(ID).status, values(there)) == (RunStatus.completed, {(ID, "loss"): [(0, 1.0)]})
    assert here.run(ID).tags[STOPPED] == ""
    assert file.read() is None


def test_recording_resumes_once_permission_returns(here: LocalWorkspace, there: AzureWorkspace, azure_environment: StagedWorkspace, file: MirrorFile) -> None:
    here.start_run(Run(ID, "train"))
    here.log(ID, [writing.scalar("loss", 0.5)])
    azure_environment.stage.faults.add(REFUSED, "/metric/", times=None)
    thread = threading.Thread(target=record, args=(here, there, file))
    thread.start()
    until(lambda: here.run(ID).tags.get(STOPPED))
    until(lambda: len(azure_environment.requests("/metric/.*-> 403")) > 5)
    azure_environment.stage.faults.clear()
    until(lambda: not here.run(ID).tags[STOPPED])
    here.end_run(ID, RunEnd(RunStatus.completed))
    thread.join(60)
    assert (there.run(ID).status, [*values(there)]) == (RunStatus.completed, [(ID, "loss")])


def test_the_end_of_the_run_ends_a_long_pause(here: LocalWorkspace, there: AzureWorkspace, azure_environment: StagedWorkspace, file: MirrorFile) -> None:
    here.start_run(Run(ID, "train"))
    here.log(ID, [writing.scalar("loss", 0.5)])
    azure_environment.stage.faults.add(REFUSED, "/metric/", times=None)
    thread = threading.Thread(target=record, args=(here, there, file, Timing(look=0.01, longest_pause=0.02, refused=3600)))
    thread.start()
    until(lambda: here.run(ID).tags.get(STOPPED))
    azure_environment.stage.faults.clear()
    here.end_run(ID, RunEnd(RunStatus.completed))
    thread.join(60)
    assert there.run(ID).status is RunStatus.completed


def test_what_is_refused_is_left_alone_for_a_while(here: LocalWorkspace) -> None:
    state = MirrorState(ID, {})
    assert state.is_due()
    put_off(here, state, "No.")
    assert (state.is_due(), state.away) == (False, "No.")
    state.not_before += 24 * 3600  # by a clock that was wrong
    assert state.is_due()


def test_a_moment_without_disk_ends_nothing(here: LocalWorkspace, there: AzureWorkspace, azure_environment: StagedWorkspace, file: MirrorFile) -> None:
    """Neither while all goes well, nor where what is away has to be noted, nor where it is back."""
    here.start_run(Run(ID, "train"))
    thread = threading.Thread(target=Mirror(here, there, file, MirrorState(ID, {}), QUICK).run)
    thread.start()
    folder, away = file.path.parent, here.folder / "away"
    folder.rename(away)
    here.log(ID, [writing.scalar("loss", 1.0)])
    until(lambda: values(there))
    azure_environment.stage.faults.add(Status(503, retry_after=300), "/metric/", times=None)
    here.log(ID, [writing.scalar("loss", 0.5)])
    until(lambda: len(azure_environment.requests("/metric/.*-> 503")) > 1)
    azure_environment.stage.faults.clear()
    until(lambda: [len(points) for points in values(there).values()] == [2])
    assert thread.is_alive()
    away.rename(folder)
    here.end_run(ID, RunEnd(RunStatus.completed))
    thread.join(60)
    assert (there.run(ID).status, file.read()) == (RunStatus.completed, None)


def test_a_metric_that_is_not_taken_keeps_back_no_other(
    recorded: RecordedRuns, here: LocalWorkspace, there: AzureWorkspace, azure_environment: StagedWorkspace, file: MirrorFile, caplog: pytest.LogCaptureFixture
) -> None:
    """The batch is refused, and `bad`."""
    recorded.add(ID)
    recorded.log(ID, [("bad", 1.0, 0, 0), ("bad", 2.0, 1, 0), ("good", 3.0, 0, 0)])
    azure_environment.stage.faults.add(Status(400, code="UserError", message="No."), "/metric/", times=2)
    send_values(here, there, here.run(ID), SentRun())
    assert values(there) == {(ID, "good"): [(0, 3.0)]}
    assert "Metric 'bad' was not taken (2 points, the first at step 0): " in caplog.text


def test_fully_refused_metric_is_not_retried_point_by_point(
    recorded: RecordedRuns, here: LocalWorkspace, there: AzureWorkspace, azure_environment: StagedWorkspace, file: MirrorFile, caplog: pytest.LogCaptureFixture
) -> None:
    recorded.add(ID)
    recorded.log(ID, [("loss", float(step), step, step) for step in range(2000)])
    azure_environment.stage.faults.add(Status(400, code="UserError", message="No."), "/metric/", times=None)
    told = SentRun()
    send_values(here, there, here.run(ID), told)
    assert "Metric 'loss' was not taken (2000 points, the first at step 0): " in caplog.text
    assert len(azure_environment.requests("/metric/")) < 200
    assert here.logged(ID, told.last_point)[0] == []


@pytest.mark.parametrize("text", NO_NOTES)
def test_what_is_no_note_is_set_aside(here: LocalWorkspace, there: AzureWorkspace, file: MirrorFile, text: str) -> None:
    file.release()
    file.path.write_bytes(text.encode(errors="surrogateescape"))
    assert [*unfinished(here.folder)] == [ID]
    with pytest.raises(DamagedState, match="is damaged"):
        file.take()
    aside = file.set_aside()
    assert aside.read_bytes() == text.encode(errors="surrogateescape")
    assert [*unfinished(here.folder)] == []
    assert [path.name for path in aside.parent.iterdir()] == [aside.name]


@pytest.mark.skipif(os.name == "nt", reason="a folder cannot be closed there")
def test_mirror_note_write_retries_after_permission_error(tmp_path: Path) -> None:
    """On Windows that is so while somebody reads it."""
    file = MirrorFile(tmp_path, ID)
    file.begin(MirrorState(ID, {}))
    file.path.parent.chmod(0o500)
    if os.access(file.path.parent, os.W_OK):
        pytest.skip("this user may write everywhere")

    def give_way(frame: FrameType, event: str, called: object) -> None:
        """Once it is waiting to try again."""
        if event == "c_call" and getattr(called, "__name__", "") == "sleep":
            file.path.parent.chmod(0o700)

    with at_each_step(give_way):
        file.write(MirrorState(ID, {}, failure="written"))
    note = file.read()
    assert note is not None
    assert note.failure == "written"
    file.release()
