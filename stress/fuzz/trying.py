"""Run the examples of one case in a separate process with limits of time and memory, and report the smallest one that
breaks a parser.

For Linux, since processes are forks of one that has its imports loaded, and inherit its limits.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import resource
import signal
import time
import traceback
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from himl_cli.core.errors import HimlError
from himl_cli.core.text import shorten
from himl_cli.render.output import print_error
from stress.fuzz import files, replies, state, typed
from stress.fuzz.cases import Tried
from stress.fuzz.strategies import Target, drawn
from stress.world import plain

TARGETS = {target.name: target for module in (typed, files, state, replies) for target in module.targets()}
READY = drawn(st.text() | st.integers() | st.floats() | st.binary(), 0)
"""Hypothesis reads the constants of all modules that are there, and a table of all characters: once, before
processes are forked.
"""
SECONDS, SHRINKING = 5.0, 20.0  # of processor time for one example, and for the search of a smaller one
MEMORY = 512 << 20  # bytes by which the process may grow per example; the hard limit is three times as much
DRAWS = 4
_SAID = (FutureWarning, RuntimeWarning, SyntaxWarning, UnicodeWarning, UserWarning)  # warnings that Python prints


class _Found(Exception):
    """An example breaks the parser."""


class TooLong(BaseException):
    """The time limit of an example. Its base class is one that no parser catches."""


class _Enough(BaseException):
    """The end of the search for a smaller example."""


def main(answers: Connection, name: str, seed: int, count: int, folder: Path) -> None:
    os.chdir(folder)
    os.environ.update({"HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache"), "HIML_NO_CACHE": "1"})
    logging.disable(logging.CRITICAL)
    target = TARGETS[name]
    with open(folder / "current", "w", encoding="utf-8", errors="backslashreplace") as current:
        trial = Trial(target, current)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + 3 * MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        answers.send(trial.run(seed, count))


class Trial:
    """Examples of one target. *current* always has the one in progress, in case this process dies."""

    def __init__(self, target: Target, current: io.TextIOWrapper | None = None) -> None:
        self._target = target
        self._current = current
        self._examples = self._refused = 0
        self._why = ""
        self._until = 0.0

    def run(self, seed: int, count: int) -> Tried:
        """Run *count* examples. If Hypothesis stops because the same choices led to another path, draw the rest
        again.
        """
        for number in range(DRAWS):
            with contextlib.suppress(hypothesis.errors.Flaky, hypothesis.errors.FlakyStrategyDefinition):
                self._try(seed + number, count - self._examples)
            if self._why or self._examples >= count:
                break
        return Tried(
            self._examples, self._refused, self._why, self._refused < self._examples or not self._target.takes_some
        )

    def _try(self, seed: int, count: int) -> None:
        bounds = settings(
            max_examples=count, database=None, deadline=None, derandomize=False, suppress_health_check=list(HealthCheck)
        )
        quiet = settings(bounds, print_blob=False, report_multiple_bugs=False, verbosity=hypothesis.Verbosity.quiet)
        quick = settings(quiet, phases=(Phase.generate, Phase.shrink))
        tried = hypothesis.seed(seed)(quick(given(self._target.examples())(self._one)))
        with contextlib.suppress(_Found, _Enough), contextlib.redirect_stdout(io.StringIO()):
            tried()

    def _one(self, example: Any) -> None:
        if not self._why:
            self._examples += 1
        elif time.monotonic() > self._until:
            raise _Enough
        if self._current is not None:
            self._current.seek(0)
            self._current.truncate()
            self._current.write(shown(example))
            self._current.flush()
        wrong = self.complaint(example)
        if wrong:
            self._until = self._until or time.monotonic() + SHRINKING
            self._why = f"{wrong}: {shown(example)}"
            if wrong.startswith("takes"):
                raise _Enough
            raise _Found(wrong)

    def complaint(self, example: Any) -> str:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            with warnings.catch_warnings(record=True) as warned, within(SECONDS):
                warnings.simplefilter("always")
                self._target.run(example)
        except self._target.refusals as err:
            self._refused += not self._why
            return _wrong_words(err)
        except TooLong:
            return f"takes more than {SECONDS:.0f} s"
        except Exception as err:  # noqa: BLE001 - whatever it is, it is the finding
            return f"{type(err).__name__} {_place_of(err)}: {shorten(plain(str(err)), 120)}"
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        if grown > MEMORY >> 10:
            return f"takes {grown >> 10} MiB"
        said = [one for one in warned if issubclass(one.category, _SAID)]
        return f"warns: {shorten(plain(str(said[0].message)), 120)}" if said else ""


def shown(example: Any) -> str:
    return shorten(ascii(example), 400)


def _wrong_words(err: Exception) -> str:
    """The problem of a refusal's message, checked in its displayed form for errors of himl."""
    kind = type(err).__name__
    if not isinstance(err, HimlError):
        return (
            ""
            if str(err).isprintable() or not str(err)
            else f"{kind} with signs that are not to be seen: {plain(str(err))[:120]}"
        )
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        print_error(err, as_json=False)
    lines = said.getvalue().splitlines()
    printable = [line for line in lines if all(each.isprintable() or "\udc80" <= each <= "\udcff" for each in line)]
    if (
        len(printable) != 1 + bool(err.hint)
        or len(lines) != len(printable)
        or not lines[0].removeprefix("error:").strip()
    ):
        return f"{kind} in {len(lines)} lines: {plain(said.getvalue())[:160]}"
    return ""


def _place_of(err: BaseException) -> str:
    ours = [frame for frame in traceback.extract_tb(err.__traceback__) if "himl_cli" in Path(frame.filename).parts]
    return f"in {Path(ours[-1].filename).name}:{ours[-1].name}" if ours else "outside of himl"


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise TooLong after *seconds* of processor time."""

    def over(number: int, frame: FrameType | None) -> None:
        raise TooLong

    before = signal.signal(signal.SIGPROF, over)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
