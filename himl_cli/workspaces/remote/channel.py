"""The messages between himl here and himl at the other end of an SSH connection, and the calls that both ends know.

A frame is its kind (one byte), the length of its body (four bytes, big-endian) and the body, in MessagePack except for
the bytes of files. A channel carries one call at a time: a call, then pages, data and warnings, then the result or
an error. Several calls at once use several channels, which OpenSSH carries over one connection. The pipes stop a sender
whose receiver is slow. While the other end works on a call, it says every few seconds that it is alive. The other end
is not trusted: its results must have the types of the protocols in `workspaces/base.py`. Frames and calls share little
code, and stay together because both ends must agree on both.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from functools import cache
from io import BufferedReader
from pathlib import Path
from typing import IO, Annotated, Any, TypeVar, get_args, get_type_hints

import msgspec

from himl_cli.core import errors
from himl_cli.core.blobs import BlobInfo, Bytes, FetchRequest, StoreRequest
from himl_cli.core.documents import from_document, to_document
from himl_cli.core.errors import HimlError, RunNotFound, ServiceFailed
from himl_cli.core.jobs import JobSpec, PipelineSpec, StoredJob
from himl_cli.core.records import dataclass
from himl_cli.core.runs import Run, is_run_id
from himl_cli.workspaces.base import BlobStore, ManagedWorkspace, StoredPipeline

Unpacked = TypeVar("Unpacked")

GREETING = b"\0himl remote\n"  # what the other end sends first, after anything that its shell prints
PROTOCOL = OLDEST = 1  # the newest protocol of this himl, and the oldest. Both ends speak the newest that both know
LARGEST_FRAME = 256 << 20
BYTES_PER_FRAME = 1 << 20  # bytes of a file in one frame
BYTES_AT_ONCE = 1 << 16  # that a pipe takes
ALIVE_EVERY = 10.0  # seconds
LONGEST_WORK = 3600.0  # seconds without a message other than signs of life

BYTES_TOGETHER = 1 << 18  # bytes of small files in one frame
_HEADER, _LENGTH = struct.Struct(">cI"), struct.Struct(">I")


class StreamEnded(Exception):
    """The stream ended before the end of a message. This is no HimlError, which himl at the other end would send as the
    answer to its call, although the client sends the rest over another connection."""


class Channel:
    """Frames over a pair of streams. `moved` is the time of the last byte of a frame."""

    def __init__(self, reader: BufferedReader, writer: IO[bytes]) -> None:
        self._reader, self._writer = reader, writer
        self._turn = threading.Lock()  # to write
        self._buffer = memoryview(bytearray(BYTES_AT_ONCE))
        self.moved = time.monotonic()

    def send(self, kind: FrameKind, *parts: Bytes, flush: bool = True) -> None:
        """Send a frame with a body of *parts*. Raises OSError."""
        with self._turn:
            self._writer.write(_HEADER.pack(kind.value, sum(map(len, parts))))
            for part in parts:
                for begin in range(0, len(part), BYTES_AT_ONCE):
                    self._writer.write(memoryview(part)[begin : begin + BYTES_AT_ONCE])
                    self.moved = time.monotonic()
            if flush:
                self._writer.flush()

    def send_alive(self) -> None:
        """Send a sign of life, while this end works on a call. Raises OSError."""
        with self._turn:
            self._writer.write(_HEADER.pack(FrameKind.alive.value, 0))
            self._writer.flush()

    def receive(self) -> tuple[FrameKind, memoryview]:
        """The kind and the body of the next frame, which is valid until the one after it. Raises StreamEnded, and
        ServiceFailed for something else than a frame, or if only signs of life come for too long."""
        end = time.monotonic() + LONGEST_WORK + 2 * ALIVE_EVERY  # the other end gives up first
        while True:
            kind, length = _HEADER.unpack(self._exactly(_HEADER.size))
            if length > LARGEST_FRAME:
                raise ServiceFailed(f"The other end sent a message of {length:,} bytes, which is too large.")
            try:
                found, body = FrameKind(kind), self._exactly(length)
            except ValueError as err:
                raise ServiceFailed(f"The other end sent a message of the unknown kind {kind!r}.") from err
            if found != FrameKind.alive:
                return found, body
            if time.monotonic() > end:
                raise ServiceFailed("The other end has worked on a call for more than an hour.")

    def _exactly(self, length: int) -> memoryview:
        end = 0
        if length > len(self._buffer):  # which costs more than the bytes, if it is new each time
            self._buffer = memoryview(bytearray(length))
        while end < length:
            if not (count := self._reader.readinto1(self._buffer[end:length])):
                raise StreamEnded
            end += count
            self.moved = time.monotonic()
        return self._buffer[:length]


class FrameKind(bytes, Enum):
    """The first byte of a frame. `failed` is the end of a file of a fetch."""

    call = b"C"
    result = b"R"
    page = b"P"
    error = b"E"
    warning = b"W"
    notice = b"N"
    data = b"D"
    pieces = b"X"
    failed = b"F"
    alive = b"A"


class Piece(msgspec.Struct, array_like=True):
    """What the bytes of a frame are: *length* bytes at *offset* of the file *number*, which the piece may end. `md5` is
    then that of the whole file, if it is known."""

    number: int
    offset: int
    length: Annotated[int, msgspec.Meta(ge=0)]
    is_end: bool = False
    md5: bytes | None = None


class PieceSender:
    """Sends pieces of files, those of several small files in one frame."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._pieces: list[Piece] = []
        self._parts: list[Bytes] = []
        self._size = 0

    def add(self, number: int, offset: int, data: Bytes) -> None:
        """Send *data* later, with its end, and what is there already if that is enough. Raises OSError."""
        if self._size >= BYTES_TOGETHER:
            self.send()
        self._pieces.append(Piece(number, offset, len(data)))
        self._parts.append(data)
        self._size += len(data)

    def end(self, number: int, md5: bytes | None) -> None:
        """Send the end of a file, now or later. Raises OSError."""
        if not self._pieces or self._pieces[-1].number != number:
            self._pieces.append(Piece(number, 0, 0))
        self._pieces[-1].is_end, self._pieces[-1].md5 = True, md5
        if self._size >= BYTES_TOGETHER:
            self.send()

    def send(self, *, flush: bool = False) -> None:
        """Send what is left. Raises OSError."""
        head = msgspec.msgpack.encode(self._pieces)
        self._channel.send(FrameKind.pieces, _LENGTH.pack(len(head)), head, *self._parts, flush=flush)
        self._pieces, self._parts, self._size = [], [], 0


_PIECES = msgspec.msgpack.Decoder(list[Piece])


def pieces_in(body: memoryview) -> Iterator[tuple[Piece, memoryview]]:
    """The pieces of a frame with their bytes. Raises ServiceFailed for an invalid body."""
    try:
        begin = _LENGTH.size + _LENGTH.unpack_from(body)[0]
        pieces = _PIECES.decode(body[_LENGTH.size : begin])
    except (ValueError, struct.error) as err:
        raise ServiceFailed(f"The other end sent an invalid message: {err}.") from err
    if begin + sum(piece.length for piece in pieces) != len(body):
        raise ServiceFailed("The other end sent an invalid message: pieces of another length.")
    for piece in pieces:
        end = begin + piece.length
        yield piece, body[begin:end]
        begin = end


def pieces_from(channel: Channel) -> Iterator[tuple[Piece, memoryview]]:
    """The pieces of the next frames, with their bytes. Raises StreamEnded, and ServiceFailed for another message."""
    while True:
        yield from pieces_in(channel.receive()[1])


@dataclass(frozen=True)
class Greeting:
    """The first message of each end: the range of its protocols, himl's version, and here also the *folder* of the
    workspace and its *label* in messages."""

    newest: int = PROTOCOL
    oldest: int = OLDEST
    version: str = ""
    folder: str = ""
    label: str = ""


@dataclass(frozen=True)
class Call:
    """A call of *method* with *arguments* by name: of the store that the method `store[0]` of the workspace opens with
    the arguments after it, or without a *store* of the workspace."""

    method: str
    arguments: Mapping[str, Any]
    store: Sequence[str | None] = ()


@dataclass(frozen=True)
class SentFile:
    """A file of a job: *name* in the snapshot, or the key in `JobSpec.brought` if it *is_brought*, its size in bytes,
    permissions and SHA-256. *root* is the number of its snapshot among those of `roots_of`."""

    name: str
    size: int
    mode: int
    digest: str
    is_brought: bool = False
    root: int = 0


@dataclass(frozen=True)
class StoredFile:
    """The outcome of the request *number* of a store: the stored file, or why it was not stored."""

    number: int
    stored: BlobInfo | None = None
    failure: CallFailure | None = None


@dataclass(frozen=True)
class StoreFacts:
    """`BlobStore.label` and `origin` of an opened store."""

    label: str
    origin: str


@dataclass(frozen=True)
class PipelineFacts:
    """A `StoredPipeline` with the *roots* of its snapshots, whose files the store `pipeline_code` has."""

    spec: PipelineSpec
    missing: Sequence[str]
    roots: Sequence[str]


# Records with numbers in their users' spelling and arguments of any type
_AS_DOCUMENTS = (JobSpec, PipelineSpec, StoredJob, PipelineFacts)


@dataclass(frozen=True)
class CallFailure:
    """An error, by the name of its class in `core.errors`. `similar` and those below belong to RunNotFound."""

    kind: str
    message: str
    hint: str = ""
    is_lasting: bool = False
    run: str = ""
    similar: Sequence[str] = ()
    abbreviated: Sequence[str] = ()
    is_complete: bool = True

    @classmethod
    def of(cls, error: HimlError) -> CallFailure:
        kind = next(each for each in type(error).__mro__ if getattr(errors, each.__name__, None) is each)
        found = cls(kind.__name__, str(error), error.hint, error.is_lasting)
        if isinstance(error, RunNotFound):
            names = error.similar, error.abbreviated
            found = replace(found, run=error.run, similar=names[0], abbreviated=names[1], is_complete=error.is_complete)
        return found

    def error(self) -> HimlError:
        """The error, of the class of that name, or of ServiceFailed if there is none."""
        kind = getattr(errors, self.kind, None)
        if not (isinstance(kind, type) and issubclass(kind, HimlError)):
            kind = ServiceFailed
        error = kind.__new__(kind)
        HimlError.__init__(error, self.message, hint=self.hint)
        error.is_lasting = self.is_lasting
        if isinstance(error, RunNotFound):
            error.run, error.is_complete = self.run, self.is_complete
            error.similar, error.abbreviated = tuple(self.similar), tuple(self.abbreviated)
        return error


RESUME, PREPARE = "resume", "prepare"  # calls with notices
# The methods that a client may call. Arguments that are functions do not travel
OF_WORKSPACE = {
    *("run", "known_ids", "runs", "experiments", "tag", "rename", "archive", "cancel", "metrics", "values"),
    *("parameters", "environment", "stored_job", "stored_pipeline", "datastores", "results", "refresh"),
    *("delete_rest", "delete"),
    *("start_run", "log", "log_parameters", "log_position", "end_run", PREPARE, RESUME),
}
SUBMIT = "submit"  # a call that also sends the files of the job which the other end lacks
OF_STORE = {"list", "stat", "md5", "read", "fetch", "store"}
STORES = {"run_files", "code_files", "output_files", "datastore", "pipeline_code"}
# Methods of which a second call may have another outcome
ONCE = {"delete", "delete_rest", RESUME}


@cache
def types_of_call(method: str, *, of_store: bool) -> Mapping[str, Any]:
    """The types of the arguments of *method* by name, and that of its result as `return`, of one page for a method that
    yields some."""
    found = get_type_hints(getattr(BlobStore if of_store else ManagedWorkspace, method))
    pages = {"runs": Sequence[Run], "list": Sequence[BlobInfo]}
    found["return"] = pages.get(method, found["return"])
    requests = {"fetch": Sequence[FetchRequest], "store": Sequence[StoreRequest]}
    return found | ({"requests": requests[method]} if method in requests else {})


def jobs_of(spec: JobSpec | PipelineSpec) -> Sequence[JobSpec]:
    """The job itself, or the jobs of the steps."""
    return [spec] if isinstance(spec, JobSpec) else [step.job for step in spec.steps]


def roots_of(spec: JobSpec | PipelineSpec) -> Sequence[str]:
    """The folders of the snapshots, which several steps may share."""
    return [*dict.fromkeys(str(job.snapshot.root) for job in jobs_of(spec))]


def packed(value: Any) -> bytes:
    """*value*, which may be or contain himl's records, as MessagePack."""
    if isinstance(value, StoredPipeline):
        value = PipelineFacts(value.spec, value.missing, [*map(str, value.code)])
    value = to_document(value) if isinstance(value, _AS_DOCUMENTS) else value
    return msgspec.msgpack.encode(value, enc_hook=_plain)


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, float) else str(value) if isinstance(value, Path) else list(value)


def unpacked(kind: type[Unpacked], body: Bytes) -> Unpacked:
    """The *kind* of value in *body*. Raises ServiceFailed if the body has none of that type."""
    try:
        found: Unpacked = converted(kind, msgspec.msgpack.decode(body))
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError, OverflowError) as err:
        raise ServiceFailed(f"The other end sent an invalid message: {err}.") from err
    for run in _runs_in(found):
        if not is_run_id(run.id):
            raise ServiceFailed("The other end sent a run with an invalid id.")
    return found


def _runs_in(value: Any) -> Iterator[Run]:
    if isinstance(value, Run):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _runs_in(each) if isinstance(each, (Run, tuple)) else ()


def converted(kind: Any, value: Any) -> Any:
    """*value*, which came as MessagePack, as the type *kind*. Raises TypeError, ValueError and others."""
    inner = next((each for each in (kind, *get_args(kind)) if each in _AS_DOCUMENTS), None)
    if inner is not None:
        return None if value is None else from_document(inner, value)
    return msgspec.convert(value, kind, dec_hook=lambda to, text: to(text))
