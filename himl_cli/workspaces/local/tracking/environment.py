"""What a job's environment tells MLflow's clients."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from himl_cli.core.files import home_folder

LOOPBACK = "127.0.0.1"
USER = "himl"
# Each would send other credentials than the job's token, or ask for what the job's server has not.
DROPPED = (
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_AWS_SIGV4",
    "MLFLOW_WORKSPACE",
)


@dataclass(frozen=True)
class ClientEnvironment:
    """Variables to set in a job's environment, and names to remove from it."""

    set: Mapping[str, str]
    drop: tuple[str, ...] = DROPPED


def experiment_number(name: str) -> str:
    """The id that clients are told for the experiment called *name*: digits, always the same ones."""
    return str(zlib.crc32(name.encode()) + 1)  # never 0: that is MLflow's default experiment, which clients treat apart


def client_environment(
    base: Mapping[str, str], *, port: int, secret: str, run_id: str, experiment_id: str
) -> ClientEnvironment:
    """For a job whose environment is otherwise *base*.

    The secret goes as a bearer token. A user's `~/.mlflow/credentials` would win over that, so it goes as a password
    too where there is such a file; a netrc file that speaks of this address would win over both, and only then the
    secret stands in the URL: MLflow 2 prints that into the job's log.
    """
    address = f"http://{LOOPBACK}:{port}"
    home = Path(base.get("USERPROFILE" if sys.platform == "win32" else "HOME") or home_folder() or os.sep)
    password = (
        {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": secret}
        if (home / ".mlflow" / "credentials").exists()
        else {}
    )
    return ClientEnvironment(
        {
            "MLFLOW_TRACKING_URI": f"{address}/{secret}" if _netrc_speaks(base, home) else address,
            "MLFLOW_TRACKING_TOKEN": secret,
            **password,
            "MLFLOW_RUN_ID": run_id,
            "MLFLOW_EXPERIMENT_ID": experiment_id,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
            **without_proxy(base),
        }
    )


def _netrc_speaks(base: Mapping[str, str], home: Path) -> bool:
    """Whether a netrc file, as requests looks for it, has a login for the loopback address or for every host."""
    for path in [Path(base["NETRC"])] if base.get("NETRC") else [home / ".netrc", home / "_netrc"]:
        try:
            words = Path(os.path.expanduser(path)).read_text(encoding="utf-8", errors="replace").split()
        except FileNotFoundError:
            continue
        except OSError:
            return True
        if {"default", LOOPBACK} & set(words):
            return True
    return False


def without_proxy(base: Mapping[str, str]) -> dict[str, str]:
    """Both spellings of NO_PROXY with the loopback address added; clients look at either, `*` alone means all."""
    lower, upper = base.get("no_proxy", ""), base.get("NO_PROXY", "")
    names = {"NO_PROXY": upper or lower}
    if sys.platform != "win32":  # there the two are one variable
        names["no_proxy"] = lower or upper
    return {name: _with_loopback(value) for name, value in names.items()}


def _with_loopback(hosts: str) -> str:
    if hosts.strip() == "*":
        return hosts
    return ",".join([*(host.strip() for host in hosts.split(",") if host.strip()), LOOPBACK])
