"""A workspace on another machine, whose methods are calls over SSH."""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, cast

from himl_cli.core.blobs import BlobInfo, FetchRequest, StoreRequest
from himl_cli.core.errors import BadUsage, DiskFailed, HimlError, RunNotFound, ServiceFailed, WorkspaceNotFound
from himl_cli.core.events import Notice, Notify, Starting
from himl_cli.core.jobs import JobSpec, PipelineSpec, Resumption
from himl_cli.core.logged import RunResults
from himl_cli.core.runs import Run, RunQuery, new_run_id
from himl_cli.workspaces.base import (
    BlobStore,
    FetchSink,
    JobTaker,
    ManagedWorkspace,
    RunRecorder,
    StoredPipeline,
    StoreSink,
    Workspace,
)
from himl_cli.workspaces.remote.address import PREFIX, RemoteAddress
from himl_cli.workspaces.remote.channel import (
    BYTES_PER_FRAME,
    PREPARE,
    RESUME,
    Call,
    CallFailure,
    FrameKind,
    Piece,
    PieceSender,
    PipelineFacts,
    SentFile,
    StoredFile,
    StoreFacts,
    packed,
    pieces_in,
    types_of_call,
    unpacked,
)
from himl_cli.workspaces.remote.connection import ChannelClosed, NotConnected, SshConnection, answer, sent_files
from himl_cli.workspaces.remote.pointers import Pointers

OF_FETCH = (FrameKind.pieces, FrameKind.failed, FrameKind.result)
NOT_REQUESTED = "The other end sent bytes that himl did not request."
Arrived = tuple[FetchRequest, Piece, memoryview, HimlError | None]
Method = TypeVar("Method", bound=Callable[..., Any])

# Files of one call. Both ends work at once within a call. Which files are stored is known at its end
FETCHED_PER_CALL, STORED_PER_CALL = 2000, 200
# What arrives before the caller gets the first of it, so that the caller's own calls can use the same connection
FIRST_RUNS, FIRST_PAGES = 1000, 20
# A transfer that a lost connection interrupted goes on after each of these pauses in seconds, if it had moved bytes
PAUSES = (0.0, 1.0, 5.0, 15.0)


def _arguments(method: Callable[..., Any], *args: Any, **options: Any) -> dict[str, Any]:
    bound = inspect.signature(method).bind(None, *args, **options).arguments
    return {name: value for name, value in bound.items() if name != "self"}


def _asked(method: Method) -> Method:
    """*method* as a call of the same method at the other end."""

    @wraps(method)
    def ask(self: RemoteWorkspace, *args: Any, **options: Any) -> Any:
        name = method.__name__
        kind = types_of_call(name, of_store=False)["return"]
        return self.connection.call(kind, name, _arguments(method, *args, **options))

    return cast("Method", ask)


class RemoteWorkspace(ManagedWorkspace, JobTaker):
    """The workspace at *address*, whose runs that are submitted from here get *pointers*. Opening it sends nothing."""

    poll_interval = (0.2, 1.0)

    def __init__(self, address: RemoteAddress, pointers: Pointers | None = None) -> None:
        self.connection = SshConnection(address)
        self._pointers = pointers

    @property
    def place(self) -> str:
        return PREFIX + self.address.name

    @property
    def address(self) -> RemoteAddress:
        return self.connection.address

    @property
    def label(self) -> str:
        return self.address.label

    run = _asked(Workspace.run)
    known_ids = _asked(Workspace.known_ids)
    experiments = _asked(Workspace.experiments)
    tag = _asked(Workspace.tag)
    rename = _asked(Workspace.rename)
    archive = _asked(Workspace.archive)
    cancel = _asked(Workspace.cancel)
    metrics = _asked(Workspace.metrics)
    values = _asked(Workspace.values)
    parameters = _asked(Workspace.parameters)
    log_position = _asked(Workspace.log_position)
    environment = _asked(Workspace.environment)
    stored_job = _asked(Workspace.stored_job)
    datastores = _asked(Workspace.datastores)
    refresh = _asked(Workspace.refresh)
    delete_rest = _asked(Workspace.delete_rest)
    start_run = _asked(RunRecorder.start_run)
    log = _asked(RunRecorder.log)
    log_parameters = _asked(RunRecorder.log_parameters)
    end_run = _asked(RunRecorder.end_run)

    def runs(self, query: RunQuery) -> Iterator[Run]:
        pages = self.connection.pages(Sequence[Run], "runs", {"query": query})
        found = (run for page in pages for run in page)
        yield from [*islice(found, FIRST_RUNS)]
        yield from found

    def results(self, runs: Sequence[Run], *, wanted: Callable[[str], bool], whole: bool) -> Mapping[str, RunResults]:
        """Asks for the names first, and then for the values of those that are wanted."""

        def ask(**more: Any) -> Mapping[str, RunResults]:
            found: Mapping[str, RunResults] = self.connection.call(
                Mapping[str, RunResults], "results", {"runs": runs, **more}
            )
            return found

        known = ask(whole=False)
        names = {name for found in known.values() for name in (*found.last, *found.parameters)}
        if not whole and all(map(wanted, names)):
            return known
        return ask(whole=whole, names=[name for name in names if wanted(name)])

    def refresh_within(self, runs: Sequence[Run], seconds: float) -> Mapping[str, tuple[Run, RunResults]]:
        """As `refresh`, within *seconds*, and without a question to the user. Raises ServiceFailed."""
        kind = types_of_call("refresh", of_store=False)["return"]
        found: Mapping[str, tuple[Run, RunResults]]
        found = self.connection.call(kind, "refresh", {"runs": runs}, seconds=seconds)
        asked = {run.id for run in runs}
        return {  # by its own words it could be a run of another workspace
            run_id: (replace(run, workspace=self.label), results)
            for run_id, (run, results) in found.items()
            if run_id == run.id and run_id in asked
        }

    def delete(self, run_id: str, *, force: bool = False) -> None:
        self.connection.call(None, "delete", {"run_id": run_id, "force": force})
        self.forget(run_id)

    def prepare(self, notify: Notify) -> None:
        self.connection.call(None, PREPARE, {}, notify=notify)

    def resume(self, run_id: str, resumption: Resumption, *, notify: Notify) -> Run:
        """As `ManagedWorkspace.resume`, without new code. After a lost connection the run may continue."""
        assert resumption.code is None
        arguments = {"run_id": run_id, "resumption": resumption}
        try:
            found: Run = self.connection.call(Run, RESUME, arguments, notify=notify)
        except ChannelClosed as err:
            err.hint = f"{err.hint} The run may continue: himl runs show {run_id}".strip()
            raise
        return found

    def submit(self, spec: JobSpec, *, notify: Notify) -> Run:
        """As `JobTaker.submit`. Notes the run here before it exists, so that it is found after any interruption, and
        sends the files that the other end lacks. After a lost connection, asks whether the run exists, and sends the
        rest if it does not. Inputs must be there. Raises BadUsage for options that need this machine."""
        return self._submit(self._of_there(spec), notify)

    def submit_pipeline(self, spec: PipelineSpec, *, notify: Notify) -> Run:
        """As `submit`."""
        for step in spec.steps:
            for item in step.job.inputs:
                if item.local and item.key not in step.takes:
                    hint = f"Upload the data: himl datastore upload DIR NAME -w {self.place}"
                    raise BadUsage(f"{step.key}: a pipeline on another machine has no local inputs.", hint=hint)
        steps = [replace(step, job=self._of_there(step.job)) for step in spec.steps]
        return self._submit(replace(spec, steps=steps), notify)

    def _of_there(self, job: JobSpec) -> JobSpec:
        """The *job* with the settings of the machine. Raises BadUsage."""
        for name in (name for name, is_given in {"--in_place": job.in_place, "--tty": job.tty}.items() if is_given):
            raise BadUsage(f"{name} cannot be used on another machine.", hint="Omit it.")
        job = replace(job, python=self.address.python)
        return job if job.engine else replace(job, setup=self.address.setup, run_with=self.address.run_with)

    def _submit(self, spec: JobSpec | PipelineSpec, notify: Notify) -> Run:
        spec = replace(spec, run_id=spec.run_id or new_run_id(spec.experiment))
        files = sent_files(spec)
        self._note(Run(spec.run_id, spec.experiment, display_name=spec.display_name, workspace=self.label), notify)
        notify(Starting(spec.run_id))
        try:
            run = self._start(spec, files, notify)
        except ServiceFailed:  # the job may have started
            raise
        except HimlError:
            self.forget(spec.run_id)
            raise
        self._note(run, notify, is_seen=True)
        return run

    def _note(self, run: Run, notify: Notify, *, is_seen: bool = False) -> None:
        if self._pointers is None:
            return
        try:
            if not self._pointers.workspace.is_dir():
                from himl_cli.workspaces.local.workspace import LocalWorkspace

                LocalWorkspace(self._pointers.workspace).prepare(notify)
            self._pointers.put(self.place, run, is_seen=is_seen)
        except (DiskFailed, OSError) as err:
            text = f"himl will find run '{run.id}' only with -w {self.place}, since it cannot note it"
            notify(Notice(f"{text} in '{self._pointers.workspace}': {err}"))

    def forget(self, run_id: str) -> bool:
        with suppress(OSError):
            return self._pointers is not None and self._pointers.remove(run_id)
        return False

    def _start(self, spec: JobSpec | PipelineSpec, files: Sequence[tuple[Path, SentFile]], notify: Notify) -> Run:
        pauses, is_again = iter(PAUSES), False
        while True:
            try:
                return self.connection.submit(spec, files, notify)
            except ChannelClosed as err:
                if isinstance(err, NotConnected) and not is_again:  # nothing was sent
                    self.forget(spec.run_id)
                    raise
                pause = next(pauses, None)
                if pause is None:
                    err.hint = f"{err.hint} The job may have started: himl runs show {spec.run_id}".strip()
                    raise
                if (found := self._started(spec.run_id, [pause])) is not None:
                    return found
                is_again = True
            except HimlError:
                # The process of the lost call may go on, and has made the run's folder then
                found = self._started(spec.run_id, PAUSES) if is_again else None
                if found is None:
                    raise
                return found

    def _started(self, run_id: str, pauses: Sequence[float]) -> Run | None:
        """The run, if it is recorded after one of the *pauses* in seconds."""
        for pause in pauses:
            time.sleep(pause)
            with suppress(RunNotFound, WorkspaceNotFound, ChannelClosed):
                return self.run(run_id)
        return None

    def settle(self, run_id: str, seconds: float = 60.0) -> None:
        """Return at once, since all stored values can be read."""
        self.run(run_id)

    def run_files(self, run_id: str) -> BlobStore:
        return self._store("run_files", run_id)

    def stored_pipeline(self, run_id: str) -> StoredPipeline | None:
        facts = self.connection.call(PipelineFacts | None, "stored_pipeline", {"run_id": run_id})
        if facts is None:
            return None
        code = {Path(root): self._store("pipeline_code", run_id, root) for root in facts.roots}
        return StoredPipeline(facts.spec, facts.missing, code)

    def code_files(self, run_id: str) -> tuple[BlobStore, Container[str] | None] | None:
        opened = self._opened("code_files", run_id)
        return None if opened is None else (opened, None)

    def output_files(self, run_id: str, key: str) -> BlobStore:
        return self._store("output_files", run_id, key)

    def datastore(self, name: str | None = None) -> BlobStore:
        return self._store("datastore", name)

    def _store(self, method: str, *arguments: str | None) -> RemoteStore:
        opened = self._opened(method, *arguments)
        assert opened is not None
        return opened

    def _opened(self, method: str, *arguments: str | None) -> RemoteStore | None:
        names = dict(enumerate(arguments))
        facts = self.connection.call(StoreFacts | None, method, {str(number): each for number, each in names.items()})
        return None if facts is None else RemoteStore(self.connection, facts, (method, *arguments))

    def close(self) -> None:
        self.connection.close()


class RemoteStore:
    """The files of a store of a workspace on another machine."""

    def __init__(self, connection: SshConnection, facts: StoreFacts, opened: Sequence[str | None]) -> None:
        self._connection, self._opened = connection, opened
        self.label, self.origin = facts.label, f"ssh:{connection.address.host}:{facts.origin}"

    def list(self, prefix: str = "") -> Iterator[Sequence[BlobInfo]]:
        pages = self._connection.pages(Sequence[BlobInfo], "list", {"prefix": prefix}, self._opened)
        yield from [*islice(pages, FIRST_PAGES)]
        yield from pages

    def stat(self, name: str) -> BlobInfo | None:
        found: BlobInfo | None = self._connection.call(BlobInfo | None, "stat", {"name": name}, self._opened)
        return found

    def md5(self, blob: BlobInfo) -> bytes | None:
        found: bytes | None = blob.md5 or self._connection.call(bytes | None, "md5", {"blob": blob}, self._opened)
        return found

    def read(self, name: str, offset: int = 0) -> Iterator[bytes]:
        pieces = self._connection.pages(bytes, "read", {"name": name, "offset": offset}, self._opened)
        first = next(pieces, b"")  # raises NotFound now, as other stores do

        def rest() -> Iterator[bytes]:
            yield from filter(None, [first])
            yield from pieces

        return rest()

    def fetch(self, requests: Iterable[FetchRequest], sink: FetchSink, *, workers: int) -> None:
        """Fetch the files of one call after the other, since *workers* would share one connection. After a lost
        connection, the transfer goes on at the byte where it ended."""
        left = iter(requests)
        while batch := [*islice(left, FETCHED_PER_CALL)]:
            _Fetch(batch, sink).run(self._connection, self._opened)

    def store(self, requests: Iterable[StoreRequest], sink: StoreSink, *, workers: int) -> None:
        """Store the files of one call after the other."""
        left = iter(requests)
        while batch := [*islice(left, STORED_PER_CALL)]:
            _Store(batch, sink).run(self._connection, self._opened)


class _Fetch:
    """The requests of one call, and how many bytes of each have arrived."""

    def __init__(self, requests: Sequence[FetchRequest], sink: FetchSink) -> None:
        self._requests, self._sink = requests, sink
        self._done = [0] * len(requests)
        self._open = dict.fromkeys(range(len(requests)))

    def run(self, connection: SshConnection, opened: Sequence[str | None]) -> None:
        pauses, before = iter(PAUSES), -1
        while self._open:
            try:
                with closing(self._arrivals(connection, opened)) as found:
                    for request, piece, data, error in found:
                        if data:
                            self._sink.write(request, piece.offset, data)
                        if error is not None:
                            self._sink.fail(request, error)
                        elif piece.is_end:
                            self._sink.finish(request, piece.md5)
            except _Lost as lost:
                if sum(self._done) > before:
                    pauses = iter(PAUSES)
                before, pause = sum(self._done), next(pauses, None)
                if pause is None or not isinstance(lost.error, ChannelClosed):
                    for number in [*self._open]:
                        self._sink.fail(self._end(number), lost.error)
                else:
                    time.sleep(pause)

    def _end(self, number: int) -> FetchRequest:
        del self._open[number]
        return self._requests[number]

    def _arrivals(self, connection: SshConnection, opened: Sequence[str | None]) -> Generator[Arrived, None, None]:
        """What arrives. Raises _Lost."""
        numbers = [*self._open]
        with _losses(), connection.channel() as channel:
            rest = [self._rest_of(number) for number in numbers]
            channel.send(FrameKind.call, packed(Call("fetch", {"requests": rest}, opened)))
            while (found := answer(channel, *OF_FETCH))[0] != FrameKind.result:
                yield from self._arrived(numbers, *found)
            if self._open:
                raise ServiceFailed("The other end did not send all requested bytes.")

    def _rest_of(self, number: int) -> FetchRequest:
        request, done = self._requests[number], self._done[number]
        return replace(request, offset=request.offset + done, length=request.length - done) if done else request

    def _arrived(self, numbers: Sequence[int], kind: FrameKind, body: memoryview) -> Iterator[Arrived]:
        """The content of a frame, checked. Raises ServiceFailed."""
        if kind == FrameKind.failed:
            at, failure = unpacked(tuple[int, CallFailure], body)
            yield self._end(self._number(numbers, at)), Piece(at, 0, 0), memoryview(b""), failure.error()
            return
        for piece, data in pieces_in(body):
            number = self._number(numbers, piece.number)
            request, before = self._requests[number], self._done[number]
            end = self._done[number] = before + piece.length
            if (data and piece.offset != request.offset + before) or end > request.length:
                raise ServiceFailed(NOT_REQUESTED)
            error = None
            if piece.is_end:
                self._end(number)
                if end < request.length:
                    error = ServiceFailed(f"The bytes of '{request.blob.name}' are incomplete.")
            yield request, piece, data, error

    def _number(self, numbers: Sequence[int], at: int) -> int:
        """The number of the request at the place *at* of the call. Raises ServiceFailed for one that has ended."""
        if not (0 <= at < len(numbers) and numbers[at] in self._open):
            raise ServiceFailed(NOT_REQUESTED)
        return numbers[at]


class _Store:
    """The requests of one call."""

    def __init__(self, requests: Sequence[StoreRequest], sink: StoreSink) -> None:
        self._open, self._sink = dict(enumerate(requests)), sink
        self._problems = dict[int, HimlError]()  # of files that cannot be sent
        self._outcomes: Sequence[StoredFile] = ()

    def run(self, connection: SshConnection, opened: Sequence[str | None]) -> None:
        error: HimlError = ServiceFailed("The other end did not store the file.")
        try:
            with closing(self._moves(connection, opened)) as moves:
                for request, amount in moves:
                    self._sink.advance(request, amount)
        except _Lost as lost:
            error = lost.error
        for found in self._outcomes:
            if found.failure is not None:
                self._problems.setdefault(found.number, found.failure.error())
        stored = {found.number: found.stored for found in self._outcomes}
        for number, request in self._open.items():
            blob = stored.get(number)
            if blob is None or number in self._problems:
                self._sink.fail(request, self._problems.get(number, error))
            else:
                self._sink.finish(request, blob)

    def _moves(
        self, connection: SshConnection, opened: Sequence[str | None]
    ) -> Generator[tuple[StoreRequest, int], None, None]:
        """Send the files, and yield the numbers of bytes. Raises _Lost."""
        with _losses(), connection.channel() as channel:
            channel.send(FrameKind.call, packed(Call("store", {"requests": [*self._open.values()]}, opened)))
            sender = PieceSender(channel)
            for number, request in self._open.items():
                for amount in self._sent(sender, number, request):
                    yield request, amount
            sender.send(flush=True)
            self._outcomes = unpacked(list[StoredFile], answer(channel, FrameKind.result)[1])

    def _sent(self, sender: PieceSender, number: int, request: StoreRequest) -> Iterator[int]:
        """Send the bytes of a file. If they cannot be read, or are not those of the request, its end has an MD5 that no
        file has."""
        digest, size = hashlib.md5(usedforsecurity=False), 0
        try:
            for piece in _pieces(request):
                sender.add(number, size, piece)
                size += len(piece)
                if request.md5 is None:
                    digest.update(piece)
                yield len(piece)
        except DiskFailed as err:
            self._problems[number] = err
        if size != request.size:
            hint = "Run the command again when nothing writes to it."
            self._problems.setdefault(number, HimlError(f"'{request.path}' changed while himl stored it.", hint=hint))
        sender.end(number, b"" if number in self._problems else request.md5 or digest.digest())


class _Lost(Exception):
    """An error of the other end or of the connection, as distinct from those of a sink."""

    def __init__(self, error: HimlError) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def _losses() -> Iterator[None]:
    try:
        yield
    except HimlError as err:
        raise _Lost(err) from err


def _pieces(request: StoreRequest) -> Iterator[bytes]:
    """The bytes of the file, at most one more than its size. Raises DiskFailed."""
    left = request.size + 1
    try:
        with open(request.path, "rb", buffering=0) as source:
            while left and (piece := source.read(min(left, BYTES_PER_FRAME))):
                left -= len(piece)
                yield piece
    except OSError as err:
        raise DiskFailed(f"Cannot read '{request.path}': {err.strerror or err}.") from err
