"""How failures look: one line and a hint on stderr, or one JSON object."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from himl_cli.core.errors import BadUsage, DiskFailed, HimlError, ServiceFailed
from himl_cli.core.redaction import redact
from himl_cli.core.text import NEAR_OPTION, did_you_mean, shorten
from himl_cli.render.terminal import allows_colour


class ReaderGone(Exception):
    """Whoever read our stdout closed it (`himl runs list | head`); nothing is wrong, and nothing more is wanted."""


class InternalError(HimlError):
    code = "internal"


def as_himl_error(failure: Exception, *, verbose: bool = False) -> HimlError:
    """What to tell the user about *failure*: our own errors as they are, the parser's as `BadUsage`, the rest as what
    they are."""
    if isinstance(failure, HimlError):
        return failure
    if isinstance(failure, typer.TyperException):
        context, option = getattr(failure, "ctx", None), getattr(failure, "option_name", None)
        message, hint = failure.format_message(), f"See '{context.command_path} --help'." if context is not None else ""
        if option is not None and hasattr(failure, "possibilities"):
            near = did_you_mean(option, failure.possibilities or (), cutoff=NEAR_OPTION)
            message = f"No such option '{option}'. {near}".strip()
        return BadUsage(message, hint=hint)
    if (
        isinstance(failure, FileNotFoundError) and failure.filename is None
    ):  # only asking for the current folder fails without a name
        return DiskFailed("The current folder does not exist any more.", hint="Change to one that does.")
    notes = [str(note) for note in getattr(failure, "__notes__", ())]
    hint = " ".join([*([] if verbose else ["Run the command again with --verbose to see where it happened."]), *notes])
    if isinstance(failure, OSError) and failure.strerror:
        where = f": '{failure.filename}'" if failure.filename is not None else ""
        kind = ServiceFailed if isinstance(failure, (ConnectionError, TimeoutError)) else DiskFailed
        return kind(f"{failure.strerror}{where}.", hint=hint)
    return InternalError(f"This is a bug in himl: {type(failure).__name__}: {failure}", hint=hint)


def print_error(error: HimlError, *, as_json: bool, traceback_of: Exception | None = None) -> None:
    """Print *error* on stderr; with *traceback_of*, what led to it comes first."""
    if traceback_of is not None and not as_json:
        import traceback

        typer.echo(redact("".join(traceback.format_exception(traceback_of))), err=True, nl=False)
    # It may have a text in it that somebody gave: so much is looked through for secrets, and so much is shown
    message, hint = (shorten(redact(one_line(shorten(text, 50_000))), 3000) for text in (str(error), error.hint))
    if as_json:
        import json

        typer.echo(json.dumps({"error": {"code": error.code, "message": message, "hint": hint}}), err=True)
        return
    colour = None if allows_colour() else False
    typer.echo(f"{typer.style('error:', fg='red', bold=True)} {message}", err=True, color=colour)
    if hint:
        typer.echo(f"{typer.style('hint:', fg='cyan', bold=True)} {hint}", err=True, color=colour)


def one_line(text: str) -> str:
    """*text* with every run of white space and control characters as one space."""
    return " ".join(
        "".join(
            character if character.isprintable() or 0xDC80 <= ord(character) <= 0xDCFF else " " for character in text
        ).split()
    )


@contextmanager
def noticing_gone_reader() -> Iterator[None]:
    """Within it, a write to a pipe that its reader has closed raises ReaderGone; Windows calls that an invalid
    argument."""
    try:
        yield
    except OSError as err:
        is_invalid = sys.platform == "win32" and err.errno == errno.EINVAL and err.filename is None
        if err.errno == errno.EPIPE or is_invalid:
            raise ReaderGone from err
        raise
