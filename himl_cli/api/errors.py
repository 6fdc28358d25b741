"""Errors that are himl's and also the built-in ones that hi-ml's users catch."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from himl_cli.core.errors import BadUsage, HimlError, NotFound, WorkspaceNotFound


class NoWorkspace(WorkspaceNotFound, ValueError):
    """No workspace was given, and none is configured (hi-ml: ValueError)."""


class ConfigNotFound(WorkspaceNotFound, FileNotFoundError):
    """The config file that was given is not there (hi-ml: FileNotFoundError)."""


class NotThere(NotFound, FileNotFoundError):
    """The files that are meant, or the datastore or folder that should hold them, are not there (hi-ml:
    FileNotFoundError)."""


class NoRecoveryId(BadUsage, ValueError):
    """The text is no recovery id of a run (hi-ml: ValueError)."""


class NoChildren(BadUsage, ValueError):
    """A run that has children is meant, and this one has none, or none is given (hi-ml: ValueError)."""


class PackageMissing(BadUsage, ImportError):
    """A package that himl does not bring along is not installed; the hint says how to."""


_WORDS = re.compile(r"--(select|metric|goal|expiry_days|overwrite)\b")


@contextmanager
def naming_arguments() -> Iterator[None]:
    """Within it, or in what it decorates, errors of himl name Python's arguments of checkpoints where they name the
    commands' options."""
    try:
        yield
    except HimlError as err:
        err.args = (_WORDS.sub(r"\1", str(err)),)
        err.hint = _WORDS.sub(r"\1", err.hint)
        raise


@contextmanager
def raising(ours: type[NotFound | BadUsage], both: type[NotFound | BadUsage]) -> Iterator[None]:
    """Within it, errors of exactly the kind *ours* (by their code) are raised as *both*, with the same words."""
    try:
        yield
    except ours as err:
        if err.code != ours.code:
            raise
        raise both(str(err), hint=err.hint) from err


@contextmanager
def one_line_if_uncaught() -> Iterator[None]:
    """Within it, errors of himl are raised as they are; one that nothing catches ends the program in one line and a
    hint, with its exit code.

    Debuggers and notebooks, which show exceptions themselves, show its traceback as before.
    """
    try:
        yield
    except HimlError as err:
        error, before = err, sys.excepthook

        def hook(kind: type[BaseException], failure: BaseException, trace: TracebackType | None) -> None:
            if failure is not error:
                before(kind, failure, trace)
                return
            from himl_cli.render.errors import print_error  # only here: it imports Typer

            print_error(error, as_json=False)
            if not (sys.flags.inspect or hasattr(sys, "ps1")):  # Python's prompt goes on
                sys.exit(error.exit_code)

        sys.excepthook = hook
        raise
