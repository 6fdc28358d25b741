"""How often a run is looked at while its log is followed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage, HimlError, JobFailed, NotFound, ServiceFailed
from himl_cli.render.errors import as_himl_error
from himl_cli.services.run_logs import follow_log, read_log, seconds_between_looks, watching
from himl_cli.workspaces.joined import JoinedWorkspace
from himl_cli.workspaces.open import open_workspace
from tests.recorded_runs import RecordedRuns

CONFIG = {"subscription_id": "00000000-1111-2222-3333-444444444444", "resource_group": "team", "workspace_name": "lab"}


def test_a_service_is_asked_seldom_and_a_run_kept_here_often(project: Path) -> None:
    runs = RecordedRuns(project)
    runs.add("train_1_aa")
    (project / "config.json").write_text(json.dumps(CONFIG))
    azure = open_workspace(None, None, start=project)
    at_first, at_most = seconds_between_looks(azure, "any")
    assert 1.0 <= at_first <= 2.0 <= at_most <= 10.0
    assert max(seconds_between_looks(runs.workspace, "train_1_aa")) <= 0.1
    both = JoinedWorkspace(runs.workspace, lambda: azure, azure.label)
    assert seconds_between_looks(both, "train_1_aa") == seconds_between_looks(runs.workspace, "train_1_aa")


def test_a_log_is_found_by_the_last_part_of_its_name_unless_several_have_it(project: Path) -> None:
    runs = RecordedRuns(project)
    runs.add("train_1_aa", files={"logs/deep/a.log": "a", "logs/one/b.log": "1", "user_logs/two/b.log": "2"})
    assert b"".join(read_log(runs.workspace, "train_1_aa", "a.log")) == b"a"
    assert b"".join(follow_log(runs.workspace, "train_1_aa", "a.log")) == b"a"
    with pytest.raises(NotFound) as caught:
        read_log(runs.workspace, "train_1_aa", "b.log")
    assert caught.value.hint == "There are: user_logs/two/b.log, logs/one/b.log."


def test_a_log_of_a_run_that_has_ended_is_given_once(project: Path) -> None:
    runs = RecordedRuns(project)
    runs.add("train_1_aa", files={"user_logs/std_log.txt": "one\ntwo\n"})
    assert b"".join(follow_log(runs.workspace, "train_1_aa")) == b"one\ntwo\n"


@pytest.mark.parametrize("failure", [ServiceFailed("Away.", hint="Try again."), BadUsage("No such file."), OSError("odd"), PermissionError(13, "Denied", "x")])
def test_whatever_ends_the_watching_names_the_run_and_how_to_cancel_it(failure: Exception) -> None:
    with pytest.raises(type(failure)) as caught, watching("train_1_aa"):
        raise failure
    told = as_himl_error(caught.value)
    assert "Run 'train_1_aa' goes on, unless it has ended;" in told.hint
    assert told.hint.endswith("to cancel it: himl runs cancel train_1_aa")


@pytest.mark.parametrize("failure", [JobFailed("Run 'a' failed.", hint="See it."), NotFound("No run 'a'.", hint="See it.")])
def test_what_is_said_of_the_run_itself_stays_as_it_is(failure: HimlError) -> None:
    with pytest.raises(type(failure)) as caught, watching("train_1_aa"):
        raise failure
    assert caught.value.hint == "See it."
