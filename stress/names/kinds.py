"""The names that somebody else may give a file, and what may be planted where files are to come."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from himl_cli.core.files import PART_SUFFIX, RANKS_NAME, STATE_NAME

EVERYWHERE = ("datastore", "download", "tb", "checkpoint")
FILES = ("datastore", "download", "tb")
FOUND = ("download", "datastore")
LONGEST_PART, LONGEST_NAME = 255, 1024
AMBIGUOUS = frozenset({0, 1, 5})
"""Names that Azure Storage would take for other ones cannot be asked for: the service has failed."""

Names = Callable[[random.Random], Sequence[str]]


@dataclass(frozen=True)
class Kind:
    """`names` are those of one case. `refused`: none of them may become a file, whatever its place; else each is one at its own place, or is named.

    `commands` are those that meet it. A command may end with one of `codes`.
    """

    name: str
    names: Names
    refused: bool = True
    commands: Sequence[str] = EVERYWHERE
    codes: frozenset[int] = frozenset({0, 1})


def _some(*names: str) -> Names:
    """One to three of *names*."""
    return lambda dice: dice.sample(names, dice.randint(1, min(3, len(names))))


def _framed(signs: Sequence[str], *frames: str) -> Names:
    """*frames*, each with one of *signs* for its `@`."""
    return lambda dice: [frame.replace("@", dice.choice(signs)) for frame in dice.sample(frames, dice.randint(1, len(frames)))]


def _long_part(dice: random.Random) -> Sequence[str]:
    sign = dice.choice("aä漢")
    return [sign * -(-dice.randint(LONGEST_PART + 1, 320) // len(sign.encode())) + dice.choice(["", "/in it"])]


def _long_name(dice: random.Random) -> Sequence[str]:
    """Up to what a blob may have, and beyond."""
    part = dice.choice("aä") * dice.randint(1, 100)
    return [("/".join([part] * LONGEST_NAME))[: length - 1] + "z" for length in (dice.randint(900, LONGEST_NAME - 100), dice.randint(5000, 9000))]


def _case(dice: random.Random) -> Sequence[str]:
    name = dice.choice(["model", "straße", "σίσυφος", "Iı"])
    return sorted({name, name.upper(), name.capitalize(), f"{name}/in it".title() if dice.random() < 0.5 else name})


def _prefixes(dice: random.Random) -> Sequence[str]:
    return ["both", "both/in it", *dice.sample(["both/in it/deep", "both-", "both.x", "both/"], 2)]


CONTROLS = ["\0", "\x01", "\t", "\n", "\r", "\r\n", "\x08", "\x1b", "\x7f", "\x85", "\x9b"]
SHOWN = ["\u202etxt.exe", "\u2066\u2069", "\u200b", "\u2028", "\ufeff", "\x1b[2J", "\x1b]0;t\x07", "\x9b31m", "\x1b]52;c;aGk=\x07", "\x07", "\u061c"]
OWN = [*(f"{STATE_NAME}{end}" for end in (".db", ".db-wal", ".db-journal", ".lock")), STATE_NAME.upper(), f"{RANKS_NAME}/x", f".x{PART_SUFFIX}"]
DOTS = ["..", ".", "../..", "../../..", "sub/../..", "./.."]

KINDS: Sequence[Kind] = (
    Kind("dots", _framed(DOTS, "@/escaped", "sub/@/escaped", "sub/@")),
    Kind(
        "dots-spelt",
        _some("%2e%2e/escaped", "..%2fescaped", "..;/escaped", ".. /escaped", ".../escaped", "\uff0e\uff0e/escaped"),
        refused=False,
        codes=AMBIGUOUS,
    ),
    Kind("absolute", _framed(["/escaped", "//escaped", "/OUTSIDE/escaped", "/proc/self/cwd/escaped", "///", "/dev/shm/escaped"], "@")),
    Kind("drive", _framed(["C:\\escaped", "C:/escaped", "c:\\..\\escaped", "Z:\\"], "@"), commands=("datastore", "tb")),
    Kind("drive-like", _some("C:escaped", "sub/C:escaped", "a:b/c", "file:stream:$DATA", "sub/C:/escaped"), refused=False, commands=FOUND),
    Kind("unc", _framed(["\\\\host\\share\\escaped", "\\\\?\\C:\\escaped", "\\escaped", "\\\\.\\pipe\\escaped", "//host/share/escaped"], "@")),
    Kind("backslash-dots", _framed(["..\\escaped", "sub\\..\\..\\escaped", "..\\", ".\\escaped"], "@", "sub/@")),
    Kind("backslash", _some("sub\\file", "sub/one\\two", "file\\"), refused=False, commands=FOUND, codes=AMBIGUOUS),
    Kind("control", _framed(CONTROLS, "file@x", "@file", "sub@x/file", "file@")),
    Kind("long-part", _long_part),
    Kind("long-name", _long_name, refused=False, commands=FOUND, codes=AMBIGUOUS),
    Kind("ends", _some("file.", "sub./file", "file ", "sub /file", " file", "file. .", "file..."), refused=False, codes=AMBIGUOUS),
    Kind("devices", _some("CON", "sub/nul.txt", "COM1", "lpt9.ckpt", "aux/file", "CONIN$", "COM¹"), refused=False, commands=FOUND),
    Kind("case", _case, refused=False, commands=FILES),
    Kind("forms", lambda dice: ["caf\u00e9", "cafe\u0301", "\u212bngstr\u00f6m", "\u00c5ngstr\u00f6m"][: dice.choice([2, 4])], refused=False, commands=FILES),
    Kind("prefix", _prefixes, refused=False),
    Kind("own", _framed(OWN, "@", "sub/@")),
    Kind("shown", _framed(SHOWN, "file@x", "@", "sub/x@/file"), refused=False),
    Kind("empty", _some("", "sub//file", "/", "sub/", "//", "sub//"), refused=False, commands=FOUND),
    Kind("options", _some("-rf", "--overwrite", "sub/-x", "~/escaped", "$(escaped)", "`escaped`", "*", "?", "[a]", "'", '"; escaped'), refused=False),
    Kind("no-text", _framed(["\ufffd", "\ufffe", "\ue000", "\U0001f4a9", "\u0301", "\u200d"], "file@", "@"), refused=False, commands=FOUND),
)
