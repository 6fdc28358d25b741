"""Names from a store are untrusted: which of them can be a file below the target folder, and where."""

from __future__ import annotations

import hashlib
import re
import sys
import unicodedata

from himl_cli.core.files import PART_SUFFIX, is_bookkeeping

LONGEST = 255
PLAIN = re.compile(
    r"(?:[\w-][\w.=+-]{0,254}/)*[\w-][\w.=+-]{0,254}", re.ASCII
)  # names that need no closer look but on Windows
DRIVE = re.compile(r"[A-Za-z]:")
WINDOWS_DEVICES = re.compile(r"con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[1-9¹²³]", re.IGNORECASE)


class UnsafeName(ValueError):
    """The name cannot be a file below the target folder; the text says why, for the end of a sentence."""


def safe_relative(name: str, *, windows: bool = sys.platform == "win32") -> tuple[str, ...]:
    """The folders and the file name of *name* below the target folder, spelt as they are.

    Raises UnsafeName for what could land elsewhere (absolute, `..`, drives, backslashes that some system follows), for
    what the file system cannot hold (control characters, parts over 255 bytes, on Windows its reserved names), and for
    names that himl keeps for its own files.
    """
    if not name:
        raise UnsafeName("it is empty")
    parts = tuple(name.split("/"))
    if not windows and PLAIN.fullmatch(name):
        return parts
    for part in parts:
        _check_part(part, windows)
    if DRIVE.fullmatch(parts[0]):
        raise UnsafeName("it names a drive")
    return parts


def _check_part(part: str, windows: bool) -> None:
    if part == "":
        raise UnsafeName("it is absolute, or has an empty folder name in it")
    if any(piece in (".", "..") for piece in part.split("\\")):
        raise UnsafeName("it has '.' or '..' in it")
    if part.startswith("\\") or ("\\" in part and DRIVE.match(part)):
        raise UnsafeName("it is an absolute path on Windows")
    if is_bookkeeping(part):
        raise UnsafeName("himl keeps this name for its own files")
    if any(unicodedata.category(sign) == "Cc" for sign in part):
        raise UnsafeName("it has control characters in it")
    try:
        if len(part.encode("utf-8", "surrogateescape")) > LONGEST:
            raise UnsafeName(f"a part of it is longer than {LONGEST} bytes")
    except UnicodeEncodeError:
        raise UnsafeName("it is not valid Unicode") from None
    if windows and set('<>:"|?*\\') & set(part):
        raise UnsafeName("it has signs in it that Windows does not allow")
    if windows and part.endswith((".", " ")):
        raise UnsafeName("a part of it ends in a dot or a space, which Windows drops")
    if windows and WINDOWS_DEVICES.fullmatch(part.split(".")[0].rstrip(" ")):
        raise UnsafeName("it is the name of a device on Windows")


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
