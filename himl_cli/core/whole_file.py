"""Small files that are there whole or not at all, also when the machine goes down."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, text: str, *, is_private: bool = False) -> None:
    """Write *text* (UTF-8) to *path*, in place of what is there; a private file can be read by its owner only, from the
    start. Raises OSError."""
    with (
        replacing(path, is_private=is_private) as temporary,
        open(temporary, "w", encoding="utf-8", newline="\n") as stream,
    ):
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def replacing(path: Path, *, is_private: bool = False) -> Iterator[str]:
    """The name of a new, empty file beside *path*, which takes its place once this ends well, and else is gone. Raises
    OSError."""
    handle, temporary = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name[:40]}."
    )  # a name may be as long as the disk takes
    os.close(handle)
    try:
        yield temporary
        if not is_private:
            os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    """The process's mask for new files, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
