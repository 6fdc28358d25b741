"""One request of a bulk fetch: asked for, checked, resumed from where its bytes got to."""

from __future__ import annotations

from datetime import timedelta

from himl_cli.core.blobs import FetchRequest
from himl_cli.core.errors import BlobChanged, HimlError, IntegrityFailed, ServiceFailed
from himl_cli.workspaces.azure.storage.blobs.access import Access
from himl_cli.workspaces.azure.storage.blobs.arriving import Arriving, CheckedArriving, Damaged
from himl_cli.workspaces.azure.storage.blobs.broken import FEW
from himl_cli.workspaces.azure.storage.blobs.faults import BlobNotFound
from himl_cli.workspaces.azure.storage.blobs.lines import Exchange, Line
from himl_cli.workspaces.azure.storage.blobs.names import reason_not_to_ask
from himl_cli.workspaces.azure.storage.blobs.properties import Properties, etag_of, properties_of, whole_md5
from himl_cli.workspaces.azure.storage.blobs.tasks import Task, WrongAnswer
from himl_cli.workspaces.azure.storage.blobs.wire import md5_from, size_from
from himl_cli.workspaces.base import FetchSink
from himl_cli.workspaces.retry import Failure, RetryState

LOOKS = 5  # at a blob that grows between two requests
WITH_MD5 = "x-ms-range-get-content-md5: true"


class FetchTask(Task):
    """Brings the bytes of *request* to *sink*; never others than were asked for, and only of the ETag that was listed.

    Where the blob is only ever appended to (an append blob, or a name that *may_grow*), having grown since is no harm:
    the bytes that were listed are still its first.

    A request with `checked_each` is asked for in ranges whose MD5 the service tells with them, append blobs included.
    """

    def __init__(
        self, request: FetchRequest, sink: FetchSink, access: Access, health: RetryState, *, may_grow: bool
    ) -> None:
        super().__init__(request.blob.name, access, health)
        self._request = request
        self._sink = sink
        self._may_grow = may_grow
        self._etag = request.blob.etag
        self._checked = CheckedArriving(request, sink) if request.checked_each else None
        self._bytes: Arriving = self._checked or Arriving(request, sink)
        self._has_grown = False
        self._is_looking = False  # a HEAD is under way, to see how the blob changed
        self._looks = 0
        self._is_accepted = False
        self._md5: bytes | None = None

    @property
    def _is_whole(self) -> bool:
        return self._bytes.position == 0 and self._bytes.end == self._request.blob.size and not self._has_grown

    def exchange(self) -> Exchange:
        if reason := reason_not_to_ask(self.name):
            raise ServiceFailed(
                f"'{self.name}' cannot be asked for: {reason}.", hint="Let whoever wrote it give it another name."
            )
        signed = self.sign()
        if self._is_looking:
            return Exchange(signed.url, [*signed.headers], "HEAD")
        headers = [*signed.headers]
        if self._etag:
            headers.append(f'If-Match: "{self._etag}"')
        self._is_accepted = False
        if self._bytes.is_complete:
            return Exchange(signed.url, headers, "HEAD")
        if self._checked is not None:
            self._checked.ask()
            headers.append(WITH_MD5)
        if self._checked is not None or not self._is_whole:
            headers.append(f"Range: bytes={self._bytes.position}-{self._bytes.stop - 1}")
        return Exchange(signed.url, headers, in_pieces=self._bytes.come_in_pieces)

    def part(self, line: Line) -> None:
        if not self._is_accepted:
            self._accept(line)
        self._deliver(line)

    def _accept(self, line: Line) -> None:
        """Look at the answer's head before any of its bytes count. Raises WrongAnswer."""
        status = line.status
        if status not in (200, 206):
            raise WrongAnswer(self._refused(line))
        if self._etag and etag_of(line) not in ("", self._etag):
            raise WrongAnswer(Failure(BlobChanged(f"'{self.name}' changed while it was read.")))
        if self._bytes.is_complete:  # a HEAD, for no bytes at all
            pass
        elif status == 206:
            start = line.header(b"content-range").removeprefix("bytes ").partition("-")[0]
            if start != str(self._bytes.position):
                raise WrongAnswer(self._other_bytes())
            if self._is_of_another_size(line):
                raise WrongAnswer(Failure(BlobChanged(f"'{self.name}' has another size than it was listed with.")))
        elif self._bytes.position != 0:
            raise WrongAnswer(self._other_bytes())
        if (
            self._checked is not None
            and not self._bytes.is_complete
            and not self._checked.expect(md5_from(line.header(b"content-md5")))
        ):
            raise WrongAnswer(self._unproven())
        if not self._has_grown:
            self._md5 = whole_md5(line)
        self._is_accepted = True

    def _is_of_another_size(self, line: Line) -> bool:
        """Whether a part of the very blob that was listed tells another size of the whole."""
        total = line.header(b"content-range").rpartition("/")[2]
        return (
            bool(self._etag)
            and not self._has_grown
            and total.isdecimal()
            and size_from(total) != self._request.blob.size
        )

    def _other_bytes(self) -> Failure:
        return Failure(
            ServiceFailed(f"{self.access.place.host} sent other bytes of '{self.name}' than were asked for."),
            may_pass=True,
        )

    def _unproven(self) -> Failure:
        said = f"{self.access.place.host} told no checksum with the bytes of '{self.name}'."
        return Failure(
            ServiceFailed(said, hint="Is there a proxy in between that drops the header Content-MD5?"),
            may_pass=True,
            max_attempts=FEW,
        )

    def _damaged(self) -> Failure:
        said = (
            f"'{self.name}' in {self.access.place.label} came damaged time and again: its bytes do not match their "
            "checksum."
        )
        hint = "Something on the way changes data: a proxy, say. What came before is complete."
        return Failure(IntegrityFailed(said, hint=hint), may_pass=True, max_attempts=FEW)

    def _deliver(self, line: Line) -> None:
        data = line.take()
        if not self._bytes.has_room_for(data):
            raise WrongAnswer(self._other_bytes())
        try:
            if self._bytes.take(data):
                self.moved()
        except Damaged:
            raise WrongAnswer(self._damaged()) from None

    def broke_off(self, line: Line) -> None:
        if line.chunks and line.status in (200, 206) and not self._is_looking:
            self.part(line)

    def answered(self, line: Line) -> float | None:
        if self._is_looking:
            return self._looked(line)
        if line.status == 412 and self._looks < LOOKS and line.header(b"x-ms-error-code") in ("ConditionNotMet", ""):
            self._looks += 1
            self._is_looking = True
            return 0.0
        self.part(line)
        if self._bytes.position != self._bytes.stop:
            raise WrongAnswer(Failure(BlobChanged(f"'{self.name}' is shorter than it was listed.")))
        self.moved()
        if not self._bytes.is_complete:
            return 0.0
        self._sink.finish(self._request, self._md5)
        return None

    def _refused(self, line: Line) -> Failure:
        fault = self.fault(line)
        if isinstance(fault.error, BlobNotFound):
            return Failure(BlobChanged(f"'{self.name}' is no longer in {self.access.place.label}."))
        return fault

    def _looked(self, line: Line) -> float | None:
        """The blob is another than was listed: go on if it has only grown."""
        self._is_looking = False
        if line.status != 200:
            return self.after(self._refused(line))
        now = properties_of(line, self.name)
        if not self._only_grew(now):
            self.fail(
                BlobChanged(
                    f"'{self.name}' changed while it was read.", hint="Run the command again when nothing writes to it."
                )
            )
            return None
        self._has_grown, self._etag, self._md5 = True, now.blob.etag, None
        return 0.0

    def _only_grew(self, now: Properties) -> bool:
        blob = self._request.blob
        if now.blob.size < blob.size or blob.md5 is not None:
            return False
        if now.is_append_blob and blob.modified is not None and now.created is not None:
            return now.created <= blob.modified + timedelta(seconds=1)  # else it was deleted and begun anew
        return self._may_grow

    def fail(self, error: HimlError) -> None:
        self._sink.fail(self._request, error)
