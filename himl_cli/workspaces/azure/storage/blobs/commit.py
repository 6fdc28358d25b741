"""Requests that put a blob under its name, unless somebody else was quicker."""

from __future__ import annotations

from abc import abstractmethod

from himl_cli.core.blobs import StoreRequest
from himl_cli.core.errors import BlobChanged
from himl_cli.workspaces.azure.storage.blobs.access import Access
from himl_cli.workspaces.azure.storage.blobs.lines import Exchange, Line
from himl_cli.workspaces.azure.storage.blobs.properties import properties_of
from himl_cli.workspaces.azure.storage.blobs.tasks import Task
from himl_cli.workspaces.retry import Failure, RetryState

_TAKEN = {(409, "BlobAlreadyExists"), (412, "ConditionNotMet"), (412, "TargetConditionNotMet"), (404, "BlobNotFound")}


class CommitTask(Task):
    """Stores *request* on the condition that its name still has what was there when it was decided to store it.

    Where it has not, the blob is looked at: with our content it is ours, stored by a try whose answer was lost, or as
    good.
    """

    def __init__(self, request: StoreRequest, access: Access, health: RetryState) -> None:
        super().__init__(request.name, access, health)
        self.request = request
        self.md5 = b""
        self._is_looking = False

    @abstractmethod
    def send(self) -> Exchange:
        """The request that stores it, with `condition` among its headers. Raises HimlError."""

    @abstractmethod
    def stored(self, line: Line) -> None:
        """It is stored; *line* has its properties."""

    def judged(self, fault: Failure) -> Failure:
        """What *fault* really is."""
        return fault

    @property
    def condition(self) -> list[str]:
        """The header that makes the service store it only where nothing else was put there meanwhile."""
        if self.request.replaces is None:
            return []
        return [f'If-Match: "{self.request.replaces}"' if self.request.replaces else "If-None-Match: *"]

    def exchange(self) -> Exchange:
        if self._is_looking:
            signed = self.sign()
            return Exchange(signed.url, [*signed.headers], "HEAD")
        return self.send()

    def answered(self, line: Line) -> float | None:
        if self._is_looking:
            return self._looked(line)
        if line.status == 201:
            self.moved()
            self.stored(line)
            return None
        fault = self.fault(line)
        if self.request.replaces is not None and (line.status, fault.code) in _TAKEN:
            self._is_looking = True
            return 0.0
        return self.after(self.judged(fault))

    def _looked(self, line: Line) -> float | None:
        if line.status not in (200, 404):
            return self.after(self.fault(line))
        there = properties_of(line, self.name).blob if line.status == 200 else None
        if there is not None and (there.size, there.md5) == (self.request.size, self.md5):
            self.stored(line)
        else:
            place = self.access.place.label
            self.fail(
                BlobChanged(
                    f"'{self.name}' in {place} was changed by somebody else meanwhile; it is left as it is.",
                    hint="Run the command again.",
                )
            )
        return None
