"""Local files: valid names, errors and writes. The functions share little code, as each is one operation of a transfer.

Names from a store are untrusted. A name may lead out of the target folder, or be invalid in this file system.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

from himl_cli.core.blobs import Bytes
from himl_cli.core.errors import FULL_DISK, DiskFailed, shortage
from himl_cli.core.files import BINARY, PART_SUFFIX, PLAIN_NAME, is_bookkeeping
from himl_cli.core.patterns import lazy_pattern

OPEN_FLAGS = os.O_WRONLY | os.O_CREAT | BINARY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
LONGEST = 255  # bytes of a part of a name
DEEPEST_FOLDER = 2000  # nested folders. Azure allows 254, and Linux 2,047 in a path.
DRIVE = lazy_pattern(r"[A-Za-z]:")
WINDOWS_DEVICES = lazy_pattern(r"con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[1-9¹²³]", re.IGNORECASE)


class UnsafeName(ValueError):
    """A name that cannot be a file below the target folder. The text is the reason, without a capital or a period."""


def safe_relative(name: str, *, windows: bool = sys.platform == "win32") -> tuple[str, ...]:
    """Split *name* into folders and a file name below the target folder, with unchanged spelling.

    Raises UnsafeName for a name that could lead elsewhere (absolute, `..`, drives, backslashes that some system
    interprets), that the file system cannot store (control characters, parts over 255 bytes, too many folders,
    reserved names on Windows), or that himl reserves for its own files.
    """
    if not name:
        raise UnsafeName("it is empty")
    parts = tuple(name.split("/"))
    if len(parts) - 1 > DEEPEST_FOLDER:
        raise UnsafeName(f"it is nested in more than {DEEPEST_FOLDER} folders")
    if not windows and PLAIN_NAME.fullmatch(name):
        return parts
    for part in parts:
        _check_part(part, windows)
    if DRIVE.fullmatch(parts[0]):
        raise UnsafeName("it starts with a drive")
    return parts


def _check_part(part: str, windows: bool) -> None:
    import unicodedata  # takes a millisecond, and few names need the check

    try:
        size = len(part.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        raise UnsafeName("it is not valid Unicode") from None
    reasons = {
        "it is absolute, or contains an empty folder name": part == "",
        "it contains '.' or '..'": any(piece in (".", "..") for piece in part.split("\\")),
        "it is an absolute path on Windows": part.startswith("\\") or ("\\" in part and DRIVE.match(part)),
        "himl reserves this name for its own files": is_bookkeeping(part),
        "it contains control characters": any(unicodedata.category(sign) == "Cc" for sign in part),
        f"a part of it is longer than {LONGEST} bytes": size > LONGEST,
        "it contains characters that Windows does not allow": windows and set('<>:"|?*\\') & set(part),
        "a part of it ends in a dot or a space, which Windows removes": windows and part.endswith((".", " ")),
        "it is the name of a device on Windows": windows and WINDOWS_DEVICES.fullmatch(part.split(".")[0].rstrip(" ")),
    }
    for reason, holds in reasons.items():
        if holds:
            raise UnsafeName(reason)


def part_name(base: str, mark: str) -> str:
    """Temporary name beside the file *base*, within the file system's limit. Each *mark* gives another name."""
    end = f".{mark}{PART_SUFFIX}"
    plain = f".{base}{end}"
    if len(plain) * 4 <= LONGEST or len(plain.encode("utf-8", "surrogateescape")) <= LONGEST:
        return plain
    raw = base.encode("utf-8", "surrogateescape")
    import hashlib

    digest = hashlib.sha256(raw).hexdigest()[:16]
    start = raw[: LONGEST - len(digest) - len(end) - 2].decode("utf-8", "ignore")
    return f".{start}.{digest}{end}"


def folded(target: str) -> str:
    """One spelling for all names that a file system which ignores case and Unicode forms treats as equal."""
    import unicodedata

    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", target).casefold())


class DiskFull(DiskFailed):
    """The disk is full. The whole transfer stops, because no other file would fit."""

    code = "disk_full"


def disk_error(err: OSError, what: str) -> DiskFailed:
    """Convert *err*. *what* is the beginning of the sentence, such as `Cannot write 'x'`."""
    if lack := shortage(str(err), os.path.dirname(os.fsdecode(err.filename)) if err.filename else ""):
        return (DiskFull if err.errno in FULL_DISK else DiskFailed)(f"{what}: {lack[0]}.", hint=lack[1])
    if err.errno in FULL_DISK:
        return DiskFull(
            f"{what}: no space left on the disk.",
            hint="Free some space and run the command again. himl skips complete files.",
        )
    return DiskFailed(f"{what}: {err.strerror or err}.", hint="Check the path and its permissions.")


def open_new(path: str) -> int:
    """Open a new file at *path* for writing, after removing a file or link with that name. Raises OSError."""
    try:
        return os.open(path, OPEN_FLAGS | os.O_EXCL, 0o666)
    except FileExistsError:
        os.unlink(path)
        return os.open(path, OPEN_FLAGS | os.O_EXCL, 0o666)


def write_all(descriptor: int, data: Bytes) -> None:
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, memoryview(data)[written:])


class BackgroundFlush:
    """Writes a file that is still being written to the disk, in a thread."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._ranges: Sequence[tuple[int, int]] = ()
        self._is_written = False

    @property
    def is_idle(self) -> bool:
        return self._thread is None or not self._thread.is_alive()

    def start(self, descriptor: int, ranges: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
        """Start to flush *ranges*, those which the file has now, while it is idle. Returns the ranges that are on the
        disk since the last call."""
        flushed = self._ranges if self._is_written else ()
        self._ranges, self._is_written = ranges, False

        def work(copy: int) -> None:
            with suppress(OSError):
                os.fsync(copy)
                self._is_written = True
            os.close(copy)

        with suppress(OSError, RuntimeError):  # no handle or thread is left. Unrecorded ranges are requested again.
            self._thread = threading.Thread(target=work, args=(os.dup(descriptor),), name="flush", daemon=True)
            self._thread.start()
        return flushed
