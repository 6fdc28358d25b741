"""What goes wrong with slides, in words."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tifffile import TiffFileError

from himl_cli.core.montage import SlideUnreadable

TROUBLES = (
    TiffFileError,
    OSError,
    ImportError,
    ValueError,
    RuntimeError,
    LookupError,
    ArithmeticError,
    TypeError,
    AttributeError,
    AssertionError,
    EOFError,
    MemoryError,
    SyntaxError,
    struct.error,
)
"""What the libraries raise for files that are damaged, or not what they say they are. SyntaxError is Pillow's, for a
broken PNG, ImportError imagecodecs', for a codec that it was built without."""

_LONGEST = 200


class UnknownKind(SlideUnreadable):
    """A file that may be sound, in a compression that its reader has no decoder of: another one may."""


@contextmanager
def told(what: str, path: Path | None = None) -> Iterator[None]:
    """Raises SlideUnreadable, beginning with *what*, where a library fails; *path* is taken out of the library's
    words."""
    try:
        yield
    except SlideUnreadable:
        raise
    except MemoryError as err:
        raise SlideUnreadable(f"{what}: it does not fit into memory") from err
    except TROUBLES as err:
        words = words_of(err) if path is None else words_of(err).replace(str(path), "the file")
        raise SlideUnreadable(f"{what}: {words}" if words else what) from err


def words_of(error: BaseException) -> str:
    """The message of a library's error: one line, no longer than a line should be."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = " ".join(str(error).split())
    return words if len(words) <= _LONGEST else f"{words[: _LONGEST - 3]}..."


def check_path(path: Path) -> int:
    """Its size in bytes. Raises SlideUnreadable for what is no file, has nothing in it, or may not be read."""
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise SlideUnreadable("it is a folder")
        if not stat.S_ISREG(found.st_mode):
            raise SlideUnreadable("it is no ordinary file")
        if not found.st_size:
            raise SlideUnreadable("it is empty")
        os.close(os.open(path, os.O_RDONLY))
    except OSError as err:
        raise SlideUnreadable(_refusal(err)) from err
    except ValueError as err:  # a null byte in the name
        raise SlideUnreadable("it does not exist: no file can have that name") from err
    return found.st_size


def _refusal(error: OSError) -> str:
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return "it does not exist"
    if error.errno in {errno.EACCES, errno.EPERM}:
        return "it may not be read (permission denied)"
    return f"it cannot be opened: {words_of(error)}"
