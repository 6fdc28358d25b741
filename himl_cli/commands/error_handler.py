"""The error handler, which converts failures to messages and exit codes, for `himl` and for tools with
`himl_cli.cli`."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import typer

from himl_cli.commands.groups import HimlCommand, HimlGroup, before_double_dash, help_for, usage_message
from himl_cli.core.errors import BadUsage, DiskFailed, HimlError, Interrupted, ServiceFailed, shortage
from himl_cli.core.text import NEAR_OPTION, did_you_mean
from himl_cli.render.output import ReaderGone, print_error, wanted_colour

Kinds = tuple[type[Exception], ...]
OF_USERS: Kinds = (HimlError, typer.TyperException)
"""Failures that a user can act on. In a tool, other failures are bugs and keep their traceback."""


@contextmanager
def edge(tokens: Sequence[str], handled: Kinds) -> Iterator[SimpleNamespace]:
    """Catch failures of the kinds *handled*, and a closed stdout, and set the exit code as `code` of what it yields.

    Prints *handled* failures in the format that the command line *tokens* requests. Other failures propagate.
    """
    ending = SimpleNamespace(code=0)
    try:
        yield ending
        sys.stdout.flush()
    except (ReaderGone, BrokenPipeError):
        # Avoid an error of Python's flush at exit. In tests, stdout may have no file descriptor.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        ending.code = 141  # the shell's code for a program that a closed pipe ended (128 + SIGPIPE)
    except handled as err:
        ending.code = report_failure(err, before_double_dash(tokens))


@contextmanager
def giving_up() -> Iterator[None]:
    """Convert Ctrl-C to Interrupted, and `typer.Abort` to HimlError.

    Python prints a traceback for a Ctrl-C in a destructor or a callback of weakref, and ignores it. This repeats it,
    unless the command ends before.
    """
    before, repeats = sys.unraisablehook, list[threading.Timer]()

    def repeat(ignored: sys.UnraisableHookArgs) -> None:
        if not issubclass(ignored.exc_type, KeyboardInterrupt):
            before(ignored)
            return
        # Python would ignore it in this function, too, where it may arrive on a slow machine.
        pause = 0.01
        while True:
            try:
                timer = threading.Timer(pause, _interrupt, [threading.get_ident()])
                timer.start()
                repeats.append(timer)
                return
            except KeyboardInterrupt:
                pause *= 2

    sys.unraisablehook = repeat
    try:
        yield
    except KeyboardInterrupt as err:
        raise Interrupted("Interrupted.") from err
    except typer.Abort as err:
        raise HimlError("Aborted.") from err
    except RuntimeError as err:
        # Python raises it for a Ctrl-C while a class is created (3.10 and 3.11), or in the wait of a condition, which
        # then releases a lock that it does not hold.
        if isinstance(err.__cause__ or err.__context__, KeyboardInterrupt):
            raise Interrupted("Interrupted.") from err
        raise
    finally:
        sys.unraisablehook = before
        with suppress(KeyboardInterrupt):
            for timer in repeats:
                timer.cancel()
                timer.join()


def _interrupt(main_thread: int) -> None:
    """Send SIGINT to the main thread, which also ends its wait."""
    if sys.platform == "win32":
        signal.raise_signal(signal.SIGINT)
    else:
        signal.pthread_kill(main_thread, signal.SIGINT)


class _Edged:
    """A command or group that is a whole program: it prints failures and exits with their code."""

    program: str | None = None
    """The name in usage lines. None for the name of the running program."""
    handled: Kinds = OF_USERS

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with giving_up():  # outside `invoke`, Typer returns 130 on Ctrl-C, without a message
            return super().make_context(*args, **kwargs)  # type: ignore[misc]  # of the sibling base class

    def invoke(self, ctx: Any) -> Any:
        with giving_up():
            return super().invoke(ctx)  # type: ignore[misc]  # of the sibling base class

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = False,  # himl matches patterns such as --include '*.ckpt'
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

    Exits with its code, or returns the code unless *standalone_mode*. Raises failures that are not *handled*.
    """
    tokens = list(sys.argv[1:] if args is None else args)
    extra.setdefault("color", wanted_colour())
    with edge(tokens, handled) as ending:
        result = program(args=tokens, standalone_mode=False, windows_expand_args=False, **extra)
        # Other results are return values of a tool's function.
        ending.code = result if isinstance(result, int) else 0
    if standalone_mode:
        sys.exit(ending.code)
    return int(ending.code)


def report_failure(failure: Exception, tokens: Sequence[str]) -> int:
    """Print *failure* on stderr in the format that *tokens* request, and return the exit code.

    It reads the tokens again because the parser may have failed before it reached `--json` or `--verbose`.
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
    """Convert *failure* to an error of himl: parser errors to `BadUsage`, others by their kind."""
    if isinstance(failure, HimlError):
        return failure
    if isinstance(failure, typer.TyperException):
        context, option = getattr(failure, "ctx", None), getattr(failure, "option_name", None)
        message = usage_message(failure)
        hint = help_for(failure) or (f"See '{context.command_path} --help'." if context is not None else "")
        if option is not None and hasattr(failure, "possibilities"):
            near = did_you_mean(option, failure.possibilities or (), cutoff=NEAR_OPTION)
            message = f"No such option '{option}'. {near}".strip()
        return BadUsage(message, hint=hint)
    # Only a request for the current folder fails without a file name.
    if isinstance(failure, FileNotFoundError) and failure.filename is None:
        return DiskFailed("The current folder no longer exists.", hint="Change to an existing folder.")
    if isinstance(failure, OSError) and failure.errno == errno.ENOSPC and failure.filename is None:
        from himl_cli.services.transfer.local_files import DiskFull

        return DiskFull("Cannot write the output: no space left on the disk.", hint="Free some space.")
    text = f"{type(failure).__name__}: {failure}"
    if isinstance(failure, (OSError, MemoryError, RuntimeError)) and (lack := shortage(text)):
        return HimlError(f"himl cannot continue: {lack[0]}.", hint=lack[1])
    words = [] if verbose else ["To see the traceback, run the command again with --verbose."]
    if isinstance(failure, PermissionError) and failure.filename is not None:
        words = ["Check its permissions."]
    hint = " ".join([*words, *map(str, getattr(failure, "__notes__", ()))])
    if isinstance(failure, OSError) and failure.strerror:
        where = f": '{failure.filename}'" if failure.filename is not None else ""
        kind = ServiceFailed if isinstance(failure, (ConnectionError, TimeoutError)) else DiskFailed
        return kind(f"{failure.strerror}{where}.", hint=hint)
    package = getattr(failure, "himl_package", "himl")
    return InternalError(f"This is a bug in {package}: {type(failure).__name__}: {failure}", hint=hint)
