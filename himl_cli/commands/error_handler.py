"""The error edge: the one place where failures become words and an exit code. For `himl` itself, and for tools made
with `himl_cli.cli`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import typer

from himl_cli.commands.groups import HimlCommand, HimlGroup, before_double_dash
from himl_cli.core.errors import BadUsage, DiskFailed, HimlError, Interrupted, ServiceFailed
from himl_cli.core.text import NEAR_OPTION, did_you_mean
from himl_cli.render.output import ReaderGone, allows_colour, print_error

Kinds = tuple[type[Exception], ...]
OF_USERS: Kinds = (HimlError, typer.TyperException)
"""Failures that a user can act on. In a tool all else is a bug of the tool, which its author wants to see with its
traceback."""


@contextmanager
def edge(tokens: Sequence[str], handled: Kinds) -> Iterator[SimpleNamespace]:
    """Within it a failure of the kinds *handled*, or that nobody reads stdout any more, ends in the `code` of what is
    yielded, which is to be the exit code; the former is said.

    *tokens* is the command line. Failures of other kinds go on.
    """
    ending = SimpleNamespace(code=0)
    try:
        yield ending
        sys.stdout.flush()
    except (ReaderGone, BrokenPipeError):
        # Python's own flush at exit then has nothing to complain about; a stdout without a file (tests) has none
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        ending.code = 141  # what a shell reports of a program that a closed pipe ended (128 + SIGPIPE)
    except handled as err:
        ending.code = report_failure(err, before_double_dash(tokens))


@contextmanager
def giving_up() -> Iterator[None]:
    """Within it, Ctrl-C raises Interrupted, and `typer.Abort` HimlError."""
    try:
        yield
    except KeyboardInterrupt as err:
        raise Interrupted("Interrupted.") from err
    except typer.Abort as err:
        raise HimlError("Aborted.") from err
    except RuntimeError as err:
        # a class was being made, by Python 3.10 or 3.11: they wrap what comes out of __set_name__
        if isinstance(err.__cause__, KeyboardInterrupt):
            raise Interrupted("Interrupted.") from err
        raise


class _Edged:
    """A command or group that is a whole program: what fails in it is said, and is its exit code."""

    program: str | None = None
    """What usage lines call it; None: the name it was started by."""
    handled: Kinds = OF_USERS

    def invoke(self, ctx: Any) -> Any:
        with giving_up():
            return super().invoke(ctx)  # type: ignore[misc]  # of the command or group beside it

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = False,  # a pattern such as --include '*.ckpt' is ours to match
        **extra: Any,
    ) -> Any:
        extra |= {"prog_name": prog_name or self.program, "complete_var": complete_var}
        return run_at_edge(super().main, args, self.handled, standalone_mode, extra)  # type: ignore[misc]


class EdgedGroup(_Edged, HimlGroup):
    """A group that is a whole program."""


class EdgedCommand(_Edged, HimlCommand):
    """A command that is a whole program, or one of an `EdgedGroup`."""


def run_at_edge(
    program: Callable[..., Any],
    args: Sequence[str] | None,
    handled: Kinds,
    standalone_mode: bool,
    extra: dict[str, Any],
) -> int:
    """Call *program*, the method `main` of a command, with *args* (default: those of the process) and *extra*.

    Exits with its code, or gives that where it does not stand alone. Raises failures that are not *handled*.
    """
    tokens = list(sys.argv[1:] if args is None else args)
    extra.setdefault("color", None if allows_colour() else False)
    with edge(tokens, handled) as ending:
        result = program(args=tokens, standalone_mode=False, windows_expand_args=False, **extra)
        ending.code = result if isinstance(result, int) else 0  # else it is what a tool's function returned
    if standalone_mode:
        sys.exit(ending.code)
    return int(ending.code)


def report_failure(failure: Exception, tokens: Sequence[str]) -> int:
    """Print *failure* on stderr in the form that *tokens* ask for, and give the exit code.

    The tokens are read here once more because the parser may have failed before it came to `--json` or `--verbose`.
    """
    verbose = "-v" in tokens or "--verbose" in tokens
    as_json = any(token in ("--json", "--format=json") for token in tokens) or ("--format", "json") in pairwise(tokens)
    error: HimlError = as_himl_error(failure, verbose=verbose)
    is_plain = isinstance(error, BadUsage) and (
        failure.__cause__ is None or isinstance(failure.__cause__, typer.TyperException)
    )
    print_error(error, as_json=as_json, traceback_of=failure if verbose and not is_plain else None)
    return error.exit_code


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
    # Only asking for the current folder fails without a name
    if isinstance(failure, FileNotFoundError) and failure.filename is None:
        return DiskFailed("The current folder does not exist any more.", hint="Change to one that does.")
    words = [] if verbose else ["Run the command again with --verbose to see where it happened."]
    hint = " ".join([*words, *map(str, getattr(failure, "__notes__", ()))])
    if isinstance(failure, OSError) and failure.strerror:
        where = f": '{failure.filename}'" if failure.filename is not None else ""
        kind = ServiceFailed if isinstance(failure, (ConnectionError, TimeoutError)) else DiskFailed
        return kind(f"{failure.strerror}{where}.", hint=hint)
    return InternalError(f"This is a bug in himl: {type(failure).__name__}: {failure}", hint=hint)
