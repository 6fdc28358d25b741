from __future__ import annotations

import sys
from pathlib import Path

import pytest

from himl_cli.workspaces.local.tracking.tracking_server import client_environment, experiment_number
from tests.workspaces.tracking.tracked_job import JOB, TrackedJob

posix = pytest.mark.skipif(sys.platform == "win32", reason="NO_PROXY and no_proxy are one variable on Windows")


def variables(base: dict[str, str], home: Path) -> dict[str, str]:
    return dict(client_environment({"HOME": str(home), "USERPROFILE": str(home), **base}, port=5, secret="s3", run_id="r", experiment_id="7"))


def test_a_job_is_told_its_server_its_run_and_to_be_silent(tmp_path: Path) -> None:
    found = variables({}, tmp_path)
    assert {name: found[name] for name in found if name.startswith("MLFLOW_")} == {
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:5",
        "MLFLOW_TRACKING_TOKEN": "s3",
        "MLFLOW_RUN_ID": "r",
        "MLFLOW_EXPERIMENT_ID": "7",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }


@posix
@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ({}, ("127.0.0.1", "127.0.0.1")),
        ({"NO_PROXY": "a.org, b.org"}, ("a.org,b.org,127.0.0.1", "a.org,b.org,127.0.0.1")),
        ({"no_proxy": "a.org", "NO_PROXY": "b.org"}, ("b.org,127.0.0.1", "a.org,127.0.0.1")),
        ({"no_proxy": "*"}, ("*", "*")),
    ],
)
def test_loopback_address_is_added_to_no_proxy(tmp_path: Path, base: dict[str, str], expected: tuple[str, str]) -> None:
    found = variables(base, tmp_path)
    assert (found["NO_PROXY"], found["no_proxy"]) == expected


@pytest.mark.parametrize(
    ("text", "is_in_path"),
    [("default login a password b", True), ("machine 127.0.0.1 login a password b", True), ("machine github.com login a password b", False)],
)
@pytest.mark.parametrize("name", [".netrc", "_netrc", "elsewhere"])
def test_secret_is_in_uri_path_only_if_netrc_matches(tmp_path: Path, name: str, text: str, is_in_path: bool) -> None:
    base = {"NETRC": str(tmp_path / name)} if name == "elsewhere" else {}
    assert variables(base, tmp_path)["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5"
    (tmp_path / name).write_text(text)
    assert variables(base, tmp_path)["MLFLOW_TRACKING_URI"] == ("http://127.0.0.1:5/s3" if is_in_path else "http://127.0.0.1:5")


def test_secret_is_sent_as_password_if_credentials_file_exists(tmp_path: Path) -> None:
    assert "MLFLOW_TRACKING_PASSWORD" not in variables({}, tmp_path)
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "credentials").touch()
    found = variables({}, tmp_path)
    assert (found["MLFLOW_TRACKING_USERNAME"], found["MLFLOW_TRACKING_PASSWORD"], found["MLFLOW_TRACKING_URI"]) == ("himl", "s3", "http://127.0.0.1:5")


def test_credentials_of_other_servers_are_dropped(job: TrackedJob) -> None:
    seen = job.environment({"MLFLOW_TRACKING_USERNAME": "someone", "MLFLOW_TRACKING_PASSWORD": "something", "MLFLOW_TRACKING_AWS_SIGV4": "true"})
    assert [name for name in seen if name.startswith(("MLFLOW_TRACKING_USER", "MLFLOW_TRACKING_PASS", "MLFLOW_TRACKING_AWS"))] == []
    assert seen["MLFLOW_RUN_ID"] == JOB


def test_experiment_number_is_stable_and_never_zero() -> None:
    numbers = [experiment_number(name) for name in ("train", "train", "évaluation", "")]
    assert numbers[0] == numbers[1]
    assert len(set(numbers)) == 3
    assert all(number.isdigit() and number != "0" for number in numbers)
