"""The other end of a connection: calls of a client, answered by the local workspace of this machine.

It does what the client's user may do here, and ends when its standard input does.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from io import BufferedReader, BufferedWriter, FileIO
from pathlib import Path
from typing import Any

from himl_cli import __version__
from himl_cli.core.blobs import BlobInfo, Bytes, FetchRequest, StoreRequest
from himl_cli.core.documents import from_document
from himl_cli.core.errors import BadUsage, HimlError, WorkspaceNotFound
from himl_cli.core.files import named_folder
from himl_cli.core.jobs import DataSpec, JobSpec, PipelineSpec, StoredJob
from himl_cli.workspaces.base import BlobStore, StoredPipeline
from himl_cli.workspaces.local.file_blobs import FileStore
from himl_cli.workspaces.local.workspace import LocalWorkspace
from himl_cli.workspaces.remote.channel import (
    ALIVE_EVERY,
    BYTES_AT_ONCE,
    GREETING,
    LONGEST_WORK,
    OF_STORE,
    OF_WORKSPACE,
    PREPARE,
    RESUME,
    STORES,
    SUBMIT,
    Call,
    CallFailure,
    Channel,
    FrameKind,
    Greeting,
    PieceSender,
    SentFile,
    StoredFile,
    StoreFacts,
    StreamEnded,
    converted,
    packed,
    pieces_from,
    types_of_call,
    unpacked,
)
from himl_cli.workspaces.remote.sent_jobs import send_notice, submit_sent

RUNS_PER_PAGE = 500


def serve() -> None:
    """Answer the calls that come over standard input, until it ends."""
    reader, writer = _own_streams()
    with suppress(BrokenPipeError, StreamEnded):
        writer.write(GREETING)
        channel = Channel(reader, writer)
        channel.send(FrameKind.result, packed(Greeting(version=__version__)))
        logging.getLogger("himl_cli").addHandler(_Warnings(channel))
        asked = unpacked(Greeting, channel.receive()[1])
        with closing(_opened(asked)) as workspace:
            agent = _Agent(channel, workspace)
            while True:
                kind, body = channel.receive()
                if kind == FrameKind.call:
                    with _signs_of_life(channel):
                        agent.answer(unpacked(Call, body))


@contextmanager
def _signs_of_life(channel: Channel) -> Iterator[None]:
    """Send the client a sign of life every few seconds, until the call ends or nothing has moved for an hour."""
    is_done = threading.Event()

    def send() -> None:
        with suppress(OSError, ValueError):  # the connection is lost
            while not is_done.wait(ALIVE_EVERY) and time.monotonic() - channel.moved < LONGEST_WORK:
                channel.send_alive()

    threading.Thread(target=send, daemon=True).start()
    try:
        yield
    finally:
        is_done.set()


def _own_streams() -> tuple[BufferedReader, BufferedWriter]:
    """The streams of this process, which prints of other code and its children do not use any more."""
    source, target = FileIO(os.dup(0), "rb"), FileIO(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.dup2(2, 1)
    os.close(nowhere)
    return BufferedReader(source, BYTES_AT_ONCE), BufferedWriter(target, BYTES_AT_ONCE)


class _Warnings(logging.Handler):
    """Sends warnings to the client."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(logging.WARNING)
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        self._channel.send(FrameKind.warning, packed(record.getMessage()))


def _opened(asked: Greeting) -> LocalWorkspace:
    return LocalWorkspace(named_folder(asked.folder), asked.label)


class _Agent:
    def __init__(self, channel: Channel, workspace: LocalWorkspace) -> None:
        self._channel, self._workspace = channel, workspace
        self._stores: dict[tuple[str | None, ...], BlobStore] = {}

    def answer(self, call: Call) -> None:
        """Answer one call with its result or its error."""
        try:
            if call.method == SUBMIT:
                kind: type[JobSpec | PipelineSpec] = PipelineSpec if call.arguments["is_pipeline"] else JobSpec
                spec = from_document(kind, call.arguments["spec"])
                files = converted(Sequence[SentFile], call.arguments["files"])
                return submit_sent(self._channel, self._workspace, spec, files)
            if call.method != PREPARE and not self._workspace.folder.is_dir():
                label = self._workspace.label
                hint = f"A job creates it: himl submit SCRIPT -w {label.removeprefix('workspace ')}"
                raise WorkspaceNotFound(f"There is no folder '{self._workspace.folder}' in {label}.", hint=hint)
            self._answer(call)
        except HimlError as err:
            self._channel.send(FrameKind.error, packed(CallFailure.of(err)))

    def _answer(self, call: Call) -> None:
        if call.method in STORES:
            store = self._store([call.method, *call.arguments.values()])
            self._result(None if store is None else StoreFacts(store.label, store.origin))
        elif call.store and call.method in OF_STORE:
            store = self._store(call.store)
            assert store is not None
            self._ask_store(store, call.method, _arguments(call, of_store=True))
        elif not call.store and call.method in OF_WORKSPACE:
            self._ask_workspace(call.method, _arguments(call, of_store=False))
        else:
            raise BadUsage(
                f"himl {__version__} has no call '{call.method}'.",
                hint="Install the same version at both ends: himl init --ssh HOST",
            )

    def _ask_workspace(self, method: str, arguments: dict[str, Any]) -> None:
        if method == "results":
            names = arguments.pop("names", None)
            arguments["wanted"] = (lambda _: True) if names is None else set(names).__contains__
        if method in (PREPARE, RESUME):
            arguments["notify"] = partial(send_notice, self._channel)
        found = getattr(self._workspace, method)(**arguments)
        if isinstance(found, StoredJob):
            found = replace(found, spec=self._with_names(found.spec))
        elif isinstance(found, StoredPipeline):
            steps = [replace(step, job=self._with_names(step.job)) for step in found.spec.steps]
            found = replace(found, spec=replace(found.spec, steps=steps))
        if method == "runs":
            page = []
            for run in found:
                page.append(run)
                if len(page) == RUNS_PER_PAGE:
                    self._channel.send(FrameKind.page, packed(page))
                    page = []
            self._channel.send(FrameKind.page, packed(page))
            found = None
        self._result(found)

    def _with_names(self, job: JobSpec) -> JobSpec:
        """*job* with the names of inputs in datastores in place of their paths, which mean nothing to the client."""
        places = {Path(store.location): store.name for store in self._workspace.datastores()}

        def named(item: DataSpec) -> DataSpec:
            path = Path(item.local or "")
            place = next((place for place in places if item.local and path.is_relative_to(place)), None)
            if place is None:
                return item
            name = path.relative_to(place).as_posix()
            return replace(item, local=None, name=name, datastore=places[place], is_folder=True)

        return replace(job, inputs=[named(item) for item in job.inputs])

    def _ask_store(self, store: BlobStore, method: str, arguments: dict[str, Any]) -> None:
        if method == "fetch":
            sender = _Sender(self._channel, arguments["requests"])
            store.fetch(arguments["requests"], sender, workers=1)
            sender.send()
            self._result(None)
        elif method == "store":
            assert isinstance(store, FileStore)
            source, sink = _Arriving(self._channel), _Landed(arguments["requests"])
            store.store(source.requested(arguments["requests"]), sink, workers=1, source_of=lambda _: source)
            self._result(sink.outcomes)
        elif method == "list":
            for page in store.list(**arguments):
                self._channel.send(FrameKind.page, packed(page))
            self._result(None)
        elif method == "read":
            for piece in store.read(**arguments):
                self._channel.send(FrameKind.data, piece)
            self._result(None)
        else:
            self._result(getattr(store, method)(**arguments))

    def _store(self, opened: Sequence[str | None]) -> BlobStore | None:
        key = tuple(opened)
        if key not in self._stores:
            name, *arguments = opened
            if name not in STORES:
                raise BadUsage(f"himl {__version__} has no store '{name}'.")
            store = getattr(self._workspace, name)(*arguments)
            store = store[0] if isinstance(store, tuple) else store
            if store is None:
                return None
            self._stores[key] = store
        return self._stores[key]

    def _result(self, value: Any) -> None:
        self._channel.send(FrameKind.result, packed(value))


def _arguments(call: Call, *, of_store: bool) -> dict[str, Any]:
    types: Mapping[str, Any] = types_of_call(call.method, of_store=of_store)
    try:
        return {
            name: converted(types[name], value) if name in types else value for name, value in call.arguments.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as err:
        raise BadUsage(f"The arguments of the call '{call.method}' are invalid: {err}.") from err


class _Sender(PieceSender):
    """Sends the bytes of a fetch."""

    def __init__(self, channel: Channel, requests: Sequence[FetchRequest]) -> None:
        super().__init__(channel)
        self._numbers = {id(request): number for number, request in enumerate(requests)}

    def write(self, request: FetchRequest, offset: int, data: Bytes) -> None:
        self.add(self._numbers[id(request)], offset, data)

    def finish(self, request: FetchRequest, md5: bytes | None) -> None:
        self.end(self._numbers[id(request)], md5)

    def fail(self, request: FetchRequest, error: HimlError) -> None:
        self.send()
        failure = self._numbers[id(request)], CallFailure.of(error)
        self._channel.send(FrameKind.failed, packed(failure), flush=False)


class _Arriving:
    """The file of a store that the client sends."""

    def __init__(self, channel: Channel) -> None:
        self._pieces = pieces_from(channel)
        self._is_over = True
        self._md5: bytes | None = None

    def requested(self, requests: Sequence[StoreRequest]) -> Iterator[StoreRequest]:
        """The requests, each when its file comes next."""
        for request in requests:
            self._is_over = False
            yield request
            for _ in self:  # what is left of a file that cannot be stored
                pass

    def __iter__(self) -> Iterator[memoryview]:
        while not self._is_over and (found := next(self._pieces, None)) is not None:
            self._is_over, self._md5 = found[0].is_end, found[0].md5
            yield found[1]

    def is_whole(self, md5: bytes) -> bool:
        return md5 == self._md5


class _Landed:
    """The outcomes of a store."""

    def __init__(self, requests: Sequence[StoreRequest]) -> None:
        self._numbers = {request.name: number for number, request in enumerate(requests)}
        self.outcomes: list[StoredFile] = []

    def advance(self, request: StoreRequest, amount: int) -> None:
        return None

    def finish(self, request: StoreRequest, stored: BlobInfo) -> None:
        self.outcomes.append(StoredFile(self._numbers[request.name], stored))

    def fail(self, request: StoreRequest, error: HimlError) -> None:
        self.outcomes.append(StoredFile(self._numbers[request.name], failure=CallFailure.of(error)))
