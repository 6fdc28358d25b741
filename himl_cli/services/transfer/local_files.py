"""Files on this machine: what they can be called, errors and writing, and MD5s of complete files and of those that
arrive in any order.

Names from a store are untrusted: one may lead out of the target folder, or be none that this file system can hold.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import threading
import unicodedata
from pathlib import Path
from queue import SimpleQueue

from himl_cli.core.errors import FULL_DISK, DiskFailed
from himl_cli.core.files import PART_SUFFIX, is_bookkeeping

CHUNK = 1 << 20
SMALL_READ = 32 << 10
OPEN_FLAGS = (
    os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
)
LONGEST = 255  # bytes of a part of a name
DEEPEST = 500  # folders, one in another: Azure allows 254, Python makes some 900
# Names that need no closer look but on Windows
PLAIN = re.compile(r"(?:[\w-][\w.=+-]{0,254}/)*[\w-][\w.=+-]{0,254}", re.ASCII)
DRIVE = re.compile(r"[A-Za-z]:")
WINDOWS_DEVICES = re.compile(r"con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[1-9¹²³]", re.IGNORECASE)


class UnsafeName(ValueError):
    """The name cannot be a file below the target folder; the text says why, for the end of a sentence."""


def safe_relative(name: str, *, windows: bool = sys.platform == "win32") -> tuple[str, ...]:
    """The folders and the file name of *name* below the target folder, spelt as they are.

    Raises UnsafeName for what could land elsewhere (absolute, `..`, drives, backslashes that some system follows), for
    what the file system cannot hold (control characters, parts over 255 bytes, too many folders, on Windows its
    reserved names), and for names that himl keeps for its own files.
    """
    if not name:
        raise UnsafeName("it is empty")
    parts = tuple(name.split("/"))
    if len(parts) - 1 > DEEPEST:
        raise UnsafeName(f"it lies in more than {DEEPEST} folders")
    if not windows and PLAIN.fullmatch(name):
        return parts
    for part in parts:
        _check_part(part, windows)
    if DRIVE.fullmatch(parts[0]):
        raise UnsafeName("it names a drive")
    return parts


def _check_part(part: str, windows: bool) -> None:
    try:
        size = len(part.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        raise UnsafeName("it is not valid Unicode") from None
    reasons = {
        "it is absolute, or has an empty folder name in it": part == "",
        "it has '.' or '..' in it": any(piece in (".", "..") for piece in part.split("\\")),
        "it is an absolute path on Windows": part.startswith("\\") or ("\\" in part and DRIVE.match(part)),
        "himl keeps this name for its own files": is_bookkeeping(part),
        "it has control characters in it": any(unicodedata.category(sign) == "Cc" for sign in part),
        f"a part of it is longer than {LONGEST} bytes": size > LONGEST,
        "it has signs in it that Windows does not allow": windows and set('<>:"|?*\\') & set(part),
        "a part of it ends in a dot or a space, which Windows drops": windows and part.endswith((".", " ")),
        "it is the name of a device on Windows": windows and WINDOWS_DEVICES.fullmatch(part.split(".")[0].rstrip(" ")),
    }
    for reason, holds in reasons.items():
        if holds:
            raise UnsafeName(reason)


def part_name(base: str, mark: str) -> str:
    """The temporary name beside the file called *base*, no longer than a file system allows. Who has another *mark*
    writes to another file."""
    end = f".{mark}{PART_SUFFIX}"
    plain = f".{base}{end}"
    if len(plain.encode("utf-8", "surrogateescape")) <= LONGEST:
        return plain
    raw = base.encode("utf-8", "surrogateescape")
    digest = hashlib.sha256(raw).hexdigest()[:16]
    start = raw[: LONGEST - len(digest) - len(end) - 2].decode("utf-8", "ignore")
    return f".{start}.{digest}{end}"


def folded(target: str) -> str:
    """One spelling for all names that a file system which folds case and Unicode forms takes for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", target).casefold())


def short_hash(text: str) -> str:
    """A name for *text* that every file system takes."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


class DiskFull(DiskFailed):
    """No room is left: the whole transfer stops, for no other file would fit."""

    code = "disk_full"


def disk_error(err: OSError, what: str) -> DiskFailed:
    """*err* as ours; *what* is the sentence's beginning, such as `Cannot write 'x'`."""
    if err.errno in FULL_DISK:
        return DiskFull(
            f"{what}: no space left on the disk.",
            hint="Free some space and run the command again: what is complete is kept.",
        )
    return DiskFailed(f"{what}: {err.strerror or err}.", hint="Check the path and its permissions.")


def open_new(path: str) -> int:
    """A descriptor for writing a new file at *path*; what has that name, also a link, is removed first. Raises
    OSError."""
    try:
        return os.open(path, OPEN_FLAGS | os.O_EXCL, 0o666)
    except FileExistsError:
        os.unlink(path)
        return os.open(path, OPEN_FLAGS | os.O_EXCL, 0o666)


def write_all(descriptor: int, data: bytes) -> None:
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, memoryview(data)[written:])


def md5_of(path: str | Path) -> bytes:
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb", buffering=0) as source:
        piece = source.read(SMALL_READ)
        digest.update(piece)
        if len(piece) == SMALL_READ:
            # One buffer for all: memory that is new each time costs as much as reading into it
            buffer = memoryview(bytearray(CHUNK))
            while length := source.readinto(buffer):
                digest.update(buffer[:length])
    return digest.digest()


class FileDigest:
    """The MD5 of one file that is being written. It is read back from the file, so what is checked is what lies
    there.

    `is_ready` is set once, by one thread at a time. Ctrl-C that strikes within that holds up nobody, unlike within an
    `Event`.
    """

    def __init__(self, path: str, size: int, queue: SimpleQueue[FileDigest | None]) -> None:
        self.path = path
        self.size = size
        self.position = 0
        self.is_ready = False
        self._is_cancelled = False
        self._queue = queue
        self._front = 0  # where the last part begins that is there without a gap before it
        self._ends: dict[int, int] = {}
        self._is_queued = False
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._error: OSError | None = None
        self._reading = threading.Lock()
        self._unready = threading.Lock()  # until it is ready
        self._unready.acquire()

    def written(self, start: int, stop: int) -> None:
        """The file holds its bytes from *start*, where one of its parts begins, to *stop*."""
        if stop > start:
            self._ends[start] = stop
        there = self._available()
        if not self._is_queued and (there >= self.size or there - self.position >= CHUNK):
            self._is_queued = True
            self._queue.put(self)

    def _available(self) -> int:
        """Up to where the file is there without a gap. Goes on from where it was the last time, so that many parts cost
        no more than few."""
        front = self._front
        stop = self._ends.get(front, front)
        while stop in self._ends:
            front, stop = stop, self._ends[stop]
        self._front = front
        return stop

    def result(self) -> bytes:
        """The MD5 once it is ready. Raises OSError when the file could not be read."""
        with self._unready:
            pass
        if self._error is not None:
            raise self._error
        return self._md5.digest()

    def cancel(self) -> None:
        """The file may go: once this returns, the thread does not have it open."""
        self._is_cancelled = True
        with self._reading:
            self._set_ready()

    def _set_ready(self) -> None:
        if not self.is_ready:
            self.is_ready = True
            self._unready.release()

    def catch_up(self, buffer: memoryview) -> None:
        """Digest what is there, by way of *buffer*; called on the thread."""
        self._is_queued = False
        with self._reading:
            if self.is_ready:
                return
            try:
                with open(self.path, "rb", buffering=0) as source:
                    source.seek(self.position)
                    while not self._is_cancelled and self.position < (stop := self._available()):
                        length = source.readinto(buffer[: stop - self.position])
                        if not length:
                            raise OSError(f"'{self.path}' is shorter than what was written to it")
                        self._md5.update(buffer[:length])
                        self.position += length
            except OSError as err:
                self._error = err
            if self._error is not None or self.position >= self.size:
                self._set_ready()


class DigestThread:
    def __init__(self) -> None:
        self._queue: SimpleQueue[FileDigest | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._last: set[FileDigest] = set()

    def close(self) -> None:
        """Cancel what is not ready."""
        for digest in self._last:
            digest.cancel()
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()

    def follow(self, path: str, size: int) -> FileDigest:
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="md5", daemon=True)
            thread.start()  # Ctrl-C may strike here: only a thread that runs is waited for
            self._thread = thread
        digest = FileDigest(path, size, self._queue)
        self._last = {known for known in self._last if not known.is_ready} | {digest}
        return digest

    def _work(self) -> None:
        buffer = memoryview(bytearray(CHUNK))
        while (digest := self._queue.get()) is not None:
            digest.catch_up(buffer)
