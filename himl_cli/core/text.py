"""Text that people read or write: near matches, blank options, shortened texts and lists, times and durations, text
files in UTF-8 or in UTF-16 (which Windows shells write), and files of environment variables. The functions share
little code."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

from himl_cli.core.errors import BadUsage

MOST = 3
MOST_SECONDS = 10 * 366 * 86400.0  # ten years, in effect no limit
OptionalText = TypeVar("OptionalText", bound=str | None)


def near_matches(wanted: str, known: Sequence[str]) -> list[str]:
    """Up to three similar ids among *known*: those that begin with *wanted*, in the given order, else those of similar
    spelling."""
    # Imported late, since the supervisor of a job does not need it
    from difflib import get_close_matches

    begins = [name for name in known if wanted and name.startswith(wanted)]
    return begins[:MOST] or get_close_matches(wanted, known, n=MOST, cutoff=0.5)


NEAR_OPTION = 0.75  # options all have dashes, so they must be more similar than other words


def did_you_mean(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """`Did you mean 'x'?`, or an empty text if no known word is similar."""
    from difflib import get_close_matches

    near = get_close_matches(word, list(known), n=2, cutoff=cutoff)
    return f"Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""


def non_blank(option: str, value: OptionalText) -> OptionalText:
    """*value*, unless it is blank, since an unset shell variable must not silently select something else."""
    if value is not None and not value.strip():
        raise BadUsage(f"{option} got an empty value.", hint="Is a shell variable unset?")
    return value


LONGEST_SHOWN = 200


def utc_text(time: datetime) -> str:
    """The form `2026-03-01T12:00:00.000Z`, of constant width, so that texts sort by time."""
    return time.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def iso_time(text: str) -> datetime:
    """The time or the date of a text in ISO 8601. Python 3.10 reads neither `Z` nor other fractions of seconds than
    those of three or six digits. Raises ValueError."""
    six_digits = re.sub(r"\.(\d+)", lambda found: f".{found[1][:6]:0<6}", text.strip().replace("Z", "+00:00"), count=1)
    return datetime.fromisoformat(six_digits)


def shorten(text: str, most: int = LONGEST_SHOWN) -> str:
    """*text*, without its middle if it is longer than *most* characters."""
    if len(text) <= most:
        return text
    tail = (most - 1) // 3
    return f"{text[: most - 1 - tail]}…{text[-tail:]}"


def storable(text: str) -> str:
    """*text* in a form that databases and services accept: bytes of a command line or file name that are not UTF-8
    become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


NAMED = 3  # names that a sentence lists


def named(names: Sequence[str]) -> str:
    """A few of *names* in quotes, and the number of the others."""
    return listed([f"'{name}'" for name in names])


def with_and(names: Sequence[str]) -> str:
    """All *names*: `a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def listed(texts: Sequence[str]) -> str:
    """A few of *texts*, and the number of the others."""
    more = f" and {len(texts) - NAMED:,} more" if len(texts) > NAMED else ""
    return ", ".join(texts[:NAMED]) + more


def inert(text: str) -> str:
    """*text*, after a quote if a spreadsheet would take it for a formula, such as `=cmd()`."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")  # the writer of CSV quotes only these
    is_formula = text.startswith(("=", "+", "@", "\t", "\n"))
    if text.startswith("-"):
        try:
            float(text)
        except ValueError:
            is_formula = True
    return f"'{text}" if is_formula else text


def quoted_choice(value: object, text: str) -> str:
    """*text*, that of *value*, as one value of a list for `--sweep`. A text with commas or of digits needs quotes."""
    is_plain = not isinstance(value, str) or re.fullmatch(r"[A-Za-z_][\w./-]*", text)
    return text if is_plain else '"' + text.replace('"', '""') + '"'


YAML_ENDINGS = (".yml", ".yaml")
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path, what: str) -> str:
    """The text of *path*, which the option *what* names. Raises BadUsage if there is no file, or it is not text."""
    try:
        content = path.read_bytes()
        return content.decode("utf-16" if content.startswith(UTF16_MARKS) else "utf-8-sig")
    except UnicodeDecodeError as err:
        raise BadUsage(f"'{path}' is not UTF-8 text (byte {err.start}).", hint="Save it as UTF-8.") from err
    except ValueError as err:  # a null byte, or a lone surrogate
        raise BadUsage(f"{what}: '{path}' is not a valid file name.", hint="Check the path.") from err
    except FileNotFoundError as err:
        raise BadUsage(
            f"{what}: there is no file '{path}'.", hint="Check the path, which is relative to the current folder."
        ) from err
    except OSError as err:
        raise BadUsage(f"{what}: cannot read '{path}': {err.strerror}.") from err


def parse_dotenv(text: str, path: Path) -> dict[str, str]:
    """The environment variables in *text*, the content of *path*, as python-dotenv reads them. The last value for a
    name counts, and a name without `=` has none. Raises BadUsage naming an invalid line without its content."""
    from io import StringIO

    from dotenv import dotenv_values
    from dotenv.parser import parse_stream

    for found in parse_stream(StringIO(text)):
        if found.error:  # the library skips it
            blank = found.original.string[: -len(found.original.string.lstrip())]
            raise BadUsage(
                f"'{path}', line {found.original.line + len(blank.splitlines())}: not NAME=value.",
                hint="Close quotes, and write comments after '#'.",
            )
    return {name: value for name, value in dotenv_values(stream=StringIO(text)).items() if value is not None}


def parse_duration(text: str, option_name: str = "") -> float:
    """Seconds of `30s`, `30m`, `1.5d`, `1h30m` or `2 hours`. Raises BadUsage, with *option_name* at the start of the
    message."""
    part = r"(\d+(?:\.\d+)?)\s*(s(?:ec(?:ond)?s?)?|m(?:in(?:ute)?s?)?|h(?:(?:ou)?rs?)?|d(?:ays?)?)(?![a-z])\s*"
    words = text.strip().lower()
    found = re.findall(part, words, re.ASCII) if re.fullmatch(f"(?:{part})+", words, re.ASCII) else []
    seconds = sum(float(number) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit[0]] for number, unit in found)
    if not 0 < seconds <= MOST_SECONDS:
        problem, hint = "is not a duration.", "Write a number and a unit: 30s, 30m, 2h, 1h30m or 1.5d."
        if found and not seconds:
            problem = "must be positive."
        elif seconds:
            problem, hint = "is longer than ten years.", "To set no limit, omit it."
        raise BadUsage(f"{option_name} '{text}' {problem}".strip(), hint=hint)
    return seconds
