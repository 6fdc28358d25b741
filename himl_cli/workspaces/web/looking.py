"""The first request for a file on the web: what it is, and where it lies after all redirections."""

from __future__ import annotations

from himl_cli.core.errors import HimlError, ServiceFailed
from himl_cli.workspaces.azure.storage.blobs.lines import Broken, Exchange, Line
from himl_cli.workspaces.azure.storage.blobs.tasks import Task, WrongAnswer
from himl_cli.workspaces.retry import Failure, RetryPolicy, RetryState
from himl_cli.workspaces.web.access import WebAccess
from himl_cli.workspaces.web.answers import Told, is_page, packed_by, told_by
from himl_cli.workspaces.web.faults import MOVED, FileGone, compressed, fault_on

MOST_MOVES = 10


class Look(Task):
    """Asks for the first byte: unlike HEAD that is answered wherever the file can be read, also by links that are
    signed for GET alone.

    Who knows nothing of ranges begins to send the file, and is left at that.
    """

    access: WebAccess

    def __init__(self, access: WebAccess, retries: RetryPolicy) -> None:
        super().__init__("", access, RetryState(retries, access.pauses))
        self._told: Told | None = None
        self._error: HimlError | None = None
        self._moves = 0
        access.start_over()

    @property
    def answer(self) -> Told:
        """What was told. Raises FileGone, NotAllowed, ServiceFailed."""
        if self._told is None:
            raise self._error or ServiceFailed(f"{self.access.place.host} gave no answer.")
        return self._told

    def exchange(self) -> Exchange:
        signed = self.sign()
        return Exchange(signed.url, [*signed.headers, "Range: bytes=0-0"], in_pieces=True)

    def part(self, line: Line) -> None:
        """More than the first byte comes: the head says all."""
        if line.status == 200:
            self._understand(line)
            raise WrongAnswer(Failure(ServiceFailed("The rest is not wanted.")))
        line.chunks.clear()

    def answered(self, line: Line) -> float | None:
        if line.status in MOVED and line.header(b"location"):
            return self._move(line)
        if line.status not in (200, 206, 416):
            return self.after(self.fault(line))
        self._understand(line)
        return None

    def _move(self, line: Line) -> float | None:
        self._moves += 1
        if self._moves > MOST_MOVES:
            self.fail(self.fault(line).error)
            return None
        try:
            self.access.follow(line.header(b"location"))
        except HimlError as error:
            self.fail(error)
            return None
        return 0.0

    def _understand(self, line: Line) -> None:
        place = self.access.place
        if is_page(line, self.access.address):
            self._error = FileGone(
                f"{place.label} shows a web page, and no file.",
                hint="Give the address that a browser downloads the file from.",
            )
            return
        if how := packed_by(line, self.access.address):
            self._error = compressed(place, how)
            return
        self._told = told_by(line, self.access.address)
        if self._told is None:
            self._error = ServiceFailed(
                f"{place.host} does not say how large {place.label} is, so that nobody could tell whether all of "
                "it came.",
                hint="Download it by other means, and name the file.",
            )

    def after(self, fault: Failure) -> float | None:
        if self._told is not None or self._error is not None:  # it was left
            return None
        if fault.is_refusal:  # there is nothing to renew: this was the address itself
            self.fail(fault.error)
            return None
        return super().after(fault)

    def fail(self, error: HimlError) -> None:
        self._error = error

    def fault(self, line: Line, broken: Broken | None = None) -> Failure:
        return fault_on(line, broken, self.access.place)
