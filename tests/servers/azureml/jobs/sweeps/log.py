"""The log of a sweep, `azureml-logs/hyperdrive.txt`: what its parts say, a line each."""

from __future__ import annotations

from tests.servers.azureml.state import Run, Workspace, now

NAME = "azureml-logs/hyperdrive.txt"


class SweepLog:
    """An append blob among the sweep's artifacts; lines are sent by `push`."""

    def __init__(self, workspace: Workspace, run: Run) -> None:
        self._storage, self._name = workspace.storage, run.artifact_prefix + NAME
        self._lines: list[str] = []

    def say(self, part: str, text: str, level: str = "INFO") -> None:
        """*part*: API, GENERATOR, SCHEDULER, ENFORCER or CONTROLLER."""
        self._lines.append(f"[{now():%Y-%m-%dT%H:%M:%S.%f}][{part}][{level}]{text}\n")

    def push(self) -> None:
        if self._lines:
            self._storage.append("azureml", self._name, "".join(self._lines).encode())
            self._lines.clear()
