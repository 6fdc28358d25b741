"""What a snapshot's content is known by: Azure ML's own hash of code, so that whoever sent the same files before need
not be asked for them again.

The same bytes go through SHA-256 as in azure-ai-ml (`get_content_hash`, its version 202208): the number of files; then
of each `#name#` and its size in decimal; then the content of each. Files are in the order of their names in lower case.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from himl_cli.core.errors import BadUsage, DiskFailed, HimlError
from himl_cli.core.jobs import Snapshot

VERSION = "202208"
CHUNK = 1 << 20
State = tuple[int, int, int]


@dataclass(frozen=True)
class Fingerprint:
    """`sha256` in hex; `states` are size, time and inode of each file as they were when it was read."""

    sha256: str
    states: Mapping[str, State]

    def check(self, root: Path) -> None:
        """Raises HimlError where a file is no longer what was digested."""
        for name, state in self.states.items():
            if _state(root / name, name) != state:
                raise changed(name)


def fingerprint(snapshot: Snapshot) -> Fingerprint:
    """Read every file of *snapshot* once.

    Raises BadUsage for a name that is no Unicode text, DiskFailed for a file that cannot be read, HimlError for one
    that changes meanwhile.
    """
    names = _in_order(snapshot.files)
    states = {name: _state(snapshot.root / name, name) for name in names}
    digest = hashlib.sha256(str(len(names)).encode())
    for name in names:
        digest.update(f"#{name}#{states[name][0]}".encode())
    for name in names:
        if _digest(snapshot.root / name, name, digest) != states[name]:
            raise changed(name)
    return Fingerprint(digest.hexdigest(), states)


def changed(name: str) -> HimlError:
    """The error for a file that was written to while it was sent."""
    return HimlError(
        f"'{name}' changed while the code was being sent; no job was started.",
        hint="Submit again when nothing writes to it, or exclude it in an ignore file.",
    )


def _in_order(files: Sequence[str]) -> list[str]:
    """By lower case; names that differ in nothing else, which azure-ai-ml takes as the file system gives them, in plain
    order."""
    for name in files:
        try:
            name.encode()
        except UnicodeEncodeError:
            shown = name.encode("utf-8", "backslashreplace").decode()
            raise BadUsage(
                f"The name of '{shown}' is no Unicode text, which Azure ML does not take.",
                hint="Rename it, or exclude it.",
            ) from None
    return sorted(files, key=lambda name: (name.lower(), name))


def _state(path: Path, name: str) -> State:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise changed(name) from None
    except OSError as err:
        raise _unreadable(name, err) from err
    return found.st_size, found.st_mtime_ns, found.st_ino


def _digest(path: Path, name: str, digest: hashlib._Hash) -> State:
    """Feed the file to *digest* and give its state, with the number of bytes that were read for its size."""
    length = 0
    try:
        with open(path, "rb", buffering=0) as source:
            while piece := source.read(CHUNK):
                digest.update(piece)
                length += len(piece)
            now = os.fstat(source.fileno())
    except FileNotFoundError:
        raise changed(name) from None
    except OSError as err:
        raise _unreadable(name, err) from err
    return length, now.st_mtime_ns, now.st_ino


def _unreadable(name: str, err: OSError) -> DiskFailed:
    return DiskFailed(
        f"Cannot read '{name}' for the snapshot: {err.strerror or err}.",
        hint="Check its permissions, or exclude it in an ignore file.",
    )
