"""Runs in a workspace of the double: some have ended, others append to their event files when told to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.state import Run
from tests.support.tensorboard import NAME, event_bytes

EXPERIMENT = "train"


@cache
def content(size: int) -> bytes:
    """The beginning of an event file with one point of `loss` after the other, of so many bytes."""
    points = 1 + size // 40
    whole = event_bytes([1 / (1 + 0.001 * step) for step in range(points)])
    assert len(whole) >= size
    return whole[:size]


@dataclass
class GrownRuns:
    """`logs/NAME` of each run has *size* bytes and, of those that go on, *step* more after each `grow`, *steps* times at most."""

    staged: StagedWorkspace
    ended: int
    going_on: int
    size: int
    step: int
    steps: int

    def __post_init__(self) -> None:
        self.runs: list[Run] = []
        self._grown = 0
        for number in range(self.ended + self.going_on):
            has_ended = number < self.ended
            run = self.staged.add_run(f"train_{number}_{number:02x}", EXPERIMENT, status="Completed" if has_ended else "Running", display_name=f"lr {number}")
            self.staged.put_artifacts(run, {"user_logs/std_log.txt": b"epoch 1\n" * 100, "outputs/model.pt": b"m" * 1000})
            if has_ended:
                self.staged.put_artifact(run, f"logs/{NAME}", self._all[: self.size])
            else:
                self.staged.state.storage.append("azureml", self._blob(run), self._all[: self.size])
            self.runs.append(run)

    @property
    def _all(self) -> bytes:
        return content(self.size + self.step * self.steps)

    def _blob(self, run: Run) -> str:
        return f"{run.artifact_prefix}logs/{NAME}"

    @property
    def names(self) -> Sequence[str]:
        return [run.run_id for run in self.runs]

    @property
    def bytes_there(self) -> int:
        """Of all event files now: what anybody has to fetch at least, who sees all of them."""
        return len(self.runs) * self.size + self.going_on * self._grown * self.step

    def grow(self) -> None:
        """The next bytes of each run that goes on."""
        start = self.size + self._grown * self.step
        for run in self.runs[self.ended :]:
            self.staged.state.storage.append("azureml", self._blob(run), self._all[start : start + self.step])
        self._grown += 1
