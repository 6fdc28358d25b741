"""A connection to himl on another machine, by the user's own ssh.

ssh reads the user's settings, asks for passwords at the terminal, and checks host keys. On systems other than Windows,
himl's connections to one host share a connection that stays for ten minutes after the last one.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, cast

from himl_cli import __version__
from himl_cli.core.blobs import Bytes
from himl_cli.core.documents import to_document
from himl_cli.core.errors import BadUsage, DiskFailed, HimlError, NotAllowed, ServiceFailed
from himl_cli.core.events import Finished, Moved, Notice, Notify, Planned, ignore
from himl_cli.core.files import cache_of, warned
from himl_cli.core.installation import PACKAGE
from himl_cli.core.jobs import JobSpec, PipelineSpec
from himl_cli.core.runs import Run
from himl_cli.workspaces.remote.address import INSTALLED, PREFIX, RemoteAddress
from himl_cli.workspaces.remote.channel import (
    BYTES_AT_ONCE,
    BYTES_PER_FRAME,
    GREETING,
    OLDEST,
    ONCE,
    PROTOCOL,
    SUBMIT,
    Call,
    CallFailure,
    Channel,
    FrameKind,
    Greeting,
    PieceSender,
    SentFile,
    StreamEnded,
    jobs_of,
    packed,
    roots_of,
    unpacked,
)

log = logging.getLogger(__name__)
KEEP_SECONDS = 600
# A lost connection, or a himl there that hangs, is noticed after this time without an answer
ALIVE_SECONDS, ALIVE_COUNT, CONNECT_SECONDS = 15, 3, 30
SILENT_SECONDS = float(ALIVE_SECONDS * ALIVE_COUNT)
LOGIN_SECONDS = 300.0  # for a login, in which the user may have to type, and the start of himl there
LONGEST_BANNER = 1 << 20  # bytes that a shell may print before himl starts
MOST_ERRORS = 16 << 20  # bytes that a connection may write to its standard error
LAST_BYTES = 1 << 16  # of the errors, which are searched for the last line
ENDLESS = "it prints without end"
LONGEST_SOCKET = 40  # bytes of a folder's path, below which ssh makes a socket with a longer temporary name


class ChannelClosed(ServiceFailed):
    """The other end ended, or the connection was lost, before the end of a call."""


class NotConnected(ChannelClosed):
    """ssh could not connect, so that nothing was sent."""


class RemoteChannel(Channel):
    """A channel to one process of himl on another machine, and the ssh process that carries it. ssh is ended if the
    other end is silent for too long."""

    def __init__(self, address: RemoteAddress, seconds: float | None = None) -> None:
        """Connect, and with *seconds* only without a question to the user."""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the channel
        self._address, self.is_used, self._why_ended = address, False, ""
        asks = [] if seconds is None else ["-oBatchMode=yes"]
        command = f"exec {shlex.quote(address.himl_python)} -I -m himl_cli.remote"
        try:
            self._process = started_ssh(address.host, command, self._errors, *asks)
        except BadUsage:
            self._errors.close()
            raise
        super().__init__(cast("BufferedReader", self._process.stdout), cast("IO[bytes]", self._process.stdin))
        self._end = float("inf")  # of the time for a call
        self._waits: FrameKind | None = None  # `call` while a message is sent, `result` while one is awaited
        self._is_closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            with self.limited(LOGIN_SECONDS if seconds is None else seconds):
                self._greet()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def limited(self, seconds: float | None) -> Iterator[None]:
        """End ssh if the block takes longer than *seconds*."""
        self._end = float("inf") if seconds is None else time.monotonic() + seconds
        try:
            yield
        finally:
            self._end = float("inf")

    def send(self, kind: FrameKind, *parts: Bytes, flush: bool = True) -> None:
        with self._waiting(FrameKind.call):
            super().send(kind, *parts, flush=flush)

    def receive(self) -> tuple[FrameKind, memoryview]:
        with self._waiting(FrameKind.result):
            return super().receive()

    @contextmanager
    def _waiting(self, what: FrameKind) -> Iterator[None]:
        self.moved, self._waits = time.monotonic(), what
        try:
            yield
        finally:
            self._waits = None

    def _watch(self) -> None:
        """End ssh after the time for a call, without a byte for too long, or if it writes too many errors. While a
        message is sent, also a sign of life counts that has arrived and is not read yet."""
        unread = 0
        while not self._is_closed.wait(0.2):
            now, waits = time.monotonic(), self._waits
            if now > self._end:
                self._why_ended = "it did not answer in time"
            elif _size_of(self._errors) > MOST_ERRORS:
                self._why_ended = ENDLESS
            elif waits is None or self._end < float("inf") or now - self.moved < SILENT_SECONDS:
                continue
            elif waits is FrameKind.call and (found := _unread_in(self._process)) != unread:
                unread, self.moved = found, now
                continue
            else:
                self._why_ended = f"himl there has not answered for {SILENT_SECONDS:.0f} seconds"
            self._process.kill()
            return

    def _greet(self) -> None:
        before = bytearray()
        while not before.endswith(GREETING):
            letter = self._reader.read(1)
            before += letter
            if len(before) > LONGEST_BANNER:
                self._why_ended = ENDLESS
                self._process.kill()
            if not letter or self._why_ended:
                raise self._not_started(before)
        asked = Greeting(version=__version__, folder=self._address.folder, label=self._address.label)
        try:
            there = self.there = unpacked(Greeting, self.receive()[1])
            self.send(FrameKind.result, packed(asked))
        except (OSError, StreamEnded) as err:
            raise self.lost() from err
        host, versions, remedy = self._address.host, (there.version, __version__), how_to_update(self._address)
        if there.newest < OLDEST or there.oldest > PROTOCOL:
            text = f"himl {versions[0]} at '{host}' and himl {versions[1]} here cannot work together."
            raise BadUsage(text, hint=f"Install the version of this machine there: {remedy}")
        if versions[0] != versions[1] and (key := Path(f"{PREFIX}{host}")) not in warned:
            warned.add(key)
            text = "himl %s runs at '%s', and himl %s here. To install this version there: %s"
            log.warning(text, versions[0], host, versions[1], remedy)

    def _not_started(self, printed: bytearray) -> HimlError:
        """The error for an ssh that ended, or printed something else, before himl's greeting."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        said = self._last_line() or printed.decode("utf-8", "replace").strip()[-200:]
        host, python, code = self._address.host, self._address.himl_python, self._process.poll()
        if (error := error_of_ssh(host, code, said)) is not None:
            return error
        name = self._address.table
        hint = f'Name a Python there that has himl: [remote.{name}] himl_python = "PATH"'
        if python == INSTALLED:
            hint = f"Install himl there: himl init --ssh {name}"
        return BadUsage(f"himl does not start at '{host}' with '{python}': {said or f'exit code {code}'}", hint=hint)

    def _last_line(self) -> str:
        return self._why_ended or last_line(self._errors)

    def lost(self) -> ChannelClosed:
        """The error for a channel that ended within a call."""
        said = self._last_line()
        why = f": {said}" if said else "."
        return ChannelClosed(f"The connection to '{self._address.host}' was lost{why}")

    def close(self) -> None:
        self._is_closed.set()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                cast("IO[bytes]", stream).close()
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:  # it is stopped
            self._process.kill()
            self._process.wait()
        self._errors.close()


def _unread_in(process: subprocess.Popen[bytes]) -> int:
    """The number of bytes in the output of *process* that wait to be read. On Windows, each call has another one."""
    if sys.platform == "win32":
        return time.monotonic_ns()
    import fcntl
    import termios

    found = fcntl.ioctl(cast("IO[bytes]", process.stdout), termios.FIONREAD, bytes(4))
    return int.from_bytes(found, sys.byteorder)


class SshConnection:
    """Channels to the workspace at *address*, opened when a call needs another one."""

    def __init__(self, address: RemoteAddress) -> None:
        self.address = address
        self._idle: list[RemoteChannel] = []
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for channel in idle:
            channel.close()

    @contextmanager
    def channel(self, seconds: float | None = None) -> Iterator[RemoteChannel]:
        """A channel for one call. After anything but the end of the call or an error of the other end, it is closed.
        With *seconds*, it may take so long, and ssh asks the user nothing.

        Raises ChannelClosed if the connection is lost, and the errors of connecting.
        """
        begin = time.monotonic()
        with self._lock:
            channel = self._idle.pop() if self._idle else None
        channel = channel or RemoteChannel(self.address, seconds)
        is_whole = False
        try:
            with channel.limited(None if seconds is None else begin + seconds - time.monotonic()):
                yield channel
            is_whole = True
        except _FromThere as err:
            is_whole = True
            raise err.error from None
        except (OSError, StreamEnded) as err:
            raise channel.lost() from err
        finally:
            channel.is_used = True
            if is_whole:
                with self._lock:
                    self._idle.append(channel)
            else:
                channel.close()

    def call(
        self,
        kind: Any,
        method: str,
        arguments: Mapping[str, Any],
        store: Sequence[str | None] = (),
        *,
        seconds: float | None = None,
        notify: Notify = ignore,
    ) -> Any:
        """The result of a call, of the type *kind*. A call that may be repeated is, once, if the connection that an
        earlier call used was lost meanwhile. *notify* receives its notices. *seconds* as in `channel`."""
        end = None if seconds is None else time.monotonic() + seconds
        for _ in range(2):
            was_used = False
            try:
                with self.channel(None if end is None else end - time.monotonic()) as channel:
                    was_used = channel.is_used
                    channel.send(FrameKind.call, packed(Call(method, arguments, store)))
                    return unpacked(kind, answer(channel, FrameKind.result, notify=notify)[1])
            except ChannelClosed:
                if method in ONCE or not was_used:
                    raise
                self.close()
        raise AssertionError

    def pages(
        self, kind: Any, method: str, arguments: Mapping[str, Any], store: Sequence[str | None] = ()
    ) -> Iterator[Any]:
        """The pages of a call, each of the type *kind*, as they arrive."""
        with self.channel() as channel:
            channel.send(FrameKind.call, packed(Call(method, arguments, store)))
            while (found := answer(channel, FrameKind.page, FrameKind.data, FrameKind.result))[0] != FrameKind.result:
                yield bytes(found[1]) if found[0] == FrameKind.data else unpacked(kind, found[1])

    def submit(self, spec: JobSpec | PipelineSpec, files: Sequence[tuple[Path, SentFile]], notify: Notify) -> Run:
        """Start the job there, and send those of its *files* that are not there. Raises ChannelClosed, after which the
        job may have started."""
        with self.channel() as channel:
            sent = [file for _, file in files]
            what = {"spec": to_document(spec), "files": sent, "is_pipeline": isinstance(spec, PipelineSpec)}
            channel.send(FrameKind.call, packed(Call(SUBMIT, what)))
            lacking = unpacked(list[int], answer(channel, FrameKind.page, notify=notify)[1])
            chosen = [files[number] for number in lacking if 0 <= number < len(files)]
            notify(Planned(len(chosen), sum(file.size for _, file in chosen)))
            sender = PieceSender(channel)
            for number, (path, file) in enumerate(chosen):
                for piece in bytes_of(path):
                    sender.add(number, 0, piece)
                    notify(Moved(file.name, len(piece)))
                sender.end(number, None)
                notify(Finished(file.name))
            if chosen:
                sender.send(flush=True)
            run = unpacked(Run, answer(channel, FrameKind.result, notify=notify)[1])
            if run.id != spec.run_id:
                raise ServiceFailed(f"The other end started run '{run.id}' instead of '{spec.run_id}'.")
            return run


def sent_files(spec: JobSpec | PipelineSpec) -> Sequence[tuple[Path, SentFile]]:
    """The files of the job, or of the steps, each once, with their paths here. Raises DiskFailed."""
    roots, places = roots_of(spec), dict[tuple[int, bool, str], Path]()
    for job in jobs_of(spec):
        number = roots.index(str(job.snapshot.root))
        places |= {(number, False, name): Path(job.snapshot.root, name) for name in job.snapshot.files}
        places |= {(number, True, name): Path(path) for name, path in job.brought.items()}
    found = list[tuple[Path, SentFile]]()
    for (number, is_brought, name), path in places.items():
        digest, size = hashlib.sha256(), 0
        for piece in bytes_of(path):
            digest.update(piece)
            size += len(piece)
        mode = path.stat().st_mode & 0o777
        found.append((path, SentFile(name, size, mode, digest.hexdigest(), is_brought, number)))
    return found


def bytes_of(path: Path) -> Iterator[bytes]:
    """The bytes of the file, in pieces. Raises DiskFailed."""
    try:
        with path.open("rb", buffering=0) as source:
            while piece := source.read(BYTES_PER_FRAME):
                yield piece
    except OSError as err:
        raise DiskFailed(f"Cannot read '{path}': {err.strerror or err}.") from err


class _FromThere(Exception):
    """An error of a call, after which the channel can be used for others."""

    def __init__(self, error: HimlError) -> None:
        self.error = error


def answer(channel: Channel, *kinds: FrameKind, notify: Notify = ignore) -> tuple[FrameKind, memoryview]:
    """The next frame of one of *kinds*. Logs warnings and passes notices to *notify* until then. Raises the error of
    the call."""
    while True:
        kind, body = channel.receive()
        if kind == FrameKind.error:
            raise _FromThere(unpacked(CallFailure, body).error())
        if kind == FrameKind.warning:
            log.warning("%s", unpacked(str, body))
        elif kind == FrameKind.notice:
            notify(Notice(unpacked(str, body)))
        elif kind in kinds:
            return kind, body
        else:
            raise ServiceFailed(f"The other end sent an unexpected message of kind '{kind.name}'.")


def how_to_update(address: RemoteAddress) -> str:
    """The command that installs this version of himl at *address*."""
    if address.himl_python == INSTALLED:
        return f"himl init --ssh {address.table}"
    return f"ssh {address.host} {shlex.quote(address.himl_python)} -m pip install {PACKAGE}=={__version__}"


def started_ssh(host: str, command: str, errors: IO[bytes], *more: str) -> subprocess.Popen[bytes]:
    """A process of ssh that runs the line *command* at *host*, with its standard error in *errors* and *more* options.
    Raises BadUsage if there is no ssh."""
    words = [*ssh_command(host, *more), command]
    log.debug("Running %s", shlex.join(words))
    try:
        return subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            bufsize=BYTES_AT_ONCE,
            pipesize=BYTES_PER_FRAME,
        )
    except FileNotFoundError as err:
        raise BadUsage("There is no ssh here.", hint="Install the client of OpenSSH.") from err


def error_of_ssh(host: str, code: int | None, said: str) -> HimlError | None:
    """The error of ssh itself, which ended with the exit code *code* after it *said* this, None if it connected."""
    if code == 255 and re.search(r"denied|verification failed|Too many auth", said):
        hint = f"Try: ssh {host} true"
        if "verification" not in said:
            hint += ". If that asks for the passphrase of a key, enter it once for all commands: ssh-add KEY"
        return NotAllowed(f"ssh cannot connect to '{host}': {said}", hint=hint)
    if code in (None, 255) or code < 0:
        return NotConnected(f"ssh cannot connect to '{host}': {said or 'it ended'}", hint=f"Try: ssh {host} true")
    return None


def _size_of(errors: IO[bytes]) -> int:
    """The bytes in the file, 0 if it is closed."""
    try:
        return os.fstat(errors.fileno()).st_size
    except (OSError, ValueError):  # also if it was closed in between
        return 0


def last_line(errors: IO[bytes]) -> str:
    """The last line of text in the file *errors*."""
    errors.seek(max(0, _size_of(errors) - LAST_BYTES))
    lines = errors.read().decode("utf-8", "replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def ssh_command(host: str, *more: str) -> list[str]:
    """The words of ssh before a command for *host*, with *more* options. Host keys are checked as the user's settings
    say."""
    options = {
        "ConnectTimeout": CONNECT_SECONDS,
        "ServerAliveInterval": ALIVE_SECONDS,
        "ServerAliveCountMax": ALIVE_COUNT,
        "LogLevel": "ERROR",
    }
    folder = socket_folder()
    if folder is not None:
        options |= {"ControlMaster": "auto", "ControlPath": f"{folder}/%C", "ControlPersist": KEEP_SECONDS}
    return ["ssh", "-T", *(f"-o{name}={value}" for name, value in options.items()), *more, "--", host]


def socket_folder() -> Path | None:
    """The folder of sockets, which only this user can enter. None where sockets have too short names, and on Windows,
    whose ssh has none."""
    if sys.platform == "win32":
        return None
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}")
    with suppress(OSError, HimlError):
        folder = runtime / "himl" if os.access(runtime, os.W_OK) else cache_of("s", "for sockets", "Set HOME.")
        folder.mkdir(mode=0o700, exist_ok=True)
        status = os.lstat(folder)
        is_own = status.st_uid == os.geteuid() and not status.st_mode & 0o077
        return folder if is_own and len(os.fsencode(folder)) <= LONGEST_SOCKET else None
    return None
