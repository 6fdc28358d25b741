"""One case's examples, tried in a process of their own: within bounds of time and memory, the smallest one that breaks a parser is told.

For Linux: processes are forked from one that has the imports behind it, and bounded by its limits.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import resource
import signal
import time
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings

from himl_cli.core.errors import HimlError
from himl_cli.core.text import shorten
from himl_cli.render.output import print_error
from stress.fuzz.target import Target
from stress.fuzz.targets import target_named
from stress.fuzz.tried import Tried

SECONDS = 5.0
"""Of processor time, for one example."""
MEMORY = 512 << 20
"""Bytes by which one example may let the process grow; it cannot by more than three times as many."""
SHRINKING = 20.0
"""Seconds in which a smaller example is looked for."""
SHOWN = 400
DRAWS = 4
_SAID = (FutureWarning, RuntimeWarning, SyntaxWarning, UnicodeWarning, UserWarning)
"""Warnings that Python prints."""


class _Found(Exception):
    """An example breaks the parser."""


class TooLong(BaseException):
    """The time of an example is over; of a base that no parser catches."""


class _Enough(BaseException):
    """No smaller example is looked for any more."""


def main(answers: Connection, name: str, seed: int, count: int, folder: Path) -> None:
    """Try *count* examples of the target *name*, drawn by *seed*, in *folder*; what came of it goes to *answers*."""
    os.chdir(folder)
    os.environ.update({"HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache"), "HIML_NO_CACHE": "1"})
    logging.disable(logging.CRITICAL)
    target = target_named(name)
    with open(folder / "current", "w", encoding="utf-8", errors="backslashreplace") as current:
        trial = Trial(target, current)
        _bound()
        answers.send(trial.run(seed, count))


class Trial:
    """Examples of one target. *current* always has the one that is being tried, for whoever finds this process dead."""

    def __init__(self, target: Target, current: io.TextIOWrapper | None = None) -> None:
        self._target = target
        self._current = current
        self._examples = self._refused = 0
        self._why = ""
        self._until = 0.0

    def run(self, seed: int, count: int) -> Tried:
        """Where Hypothesis cannot go on, since it was led otherwise by the same choices, the rest is drawn anew."""
        for number in range(DRAWS):
            with contextlib.suppress(hypothesis.errors.Flaky, hypothesis.errors.FlakyStrategyDefinition):
                self._try(seed + number, count - self._examples)
            if self._why or self._examples >= count:
                break
        return Tried(self._examples, self._refused, self._why, self._refused < self._examples or not self._target.takes_some)

    def _try(self, seed: int, count: int) -> None:
        quick = settings(
            max_examples=count,
            database=None,
            deadline=None,
            derandomize=False,
            print_blob=False,
            report_multiple_bugs=False,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
            verbosity=hypothesis.Verbosity.quiet,
        )
        tried = hypothesis.seed(seed)(quick(given(self._target.examples())(self._one)))
        with contextlib.suppress(_Found, _Enough), contextlib.redirect_stdout(io.StringIO()):
            tried()

    def _one(self, example: Any) -> None:
        if not self._why:
            self._examples += 1
        elif time.monotonic() > self._until:
            raise _Enough
        self._note(example)
        wrong = self.complaint(example)
        if wrong:
            self._until = self._until or time.monotonic() + SHRINKING
            self._why = f"{wrong}: {shown(example)}"
            if wrong.startswith("takes"):
                raise _Enough
            raise _Found(wrong)

    def complaint(self, example: Any) -> str:
        """What is wrong with how the parser took *example*; empty for nothing."""
        before = _resident()
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
            return f"{type(err).__name__} {_place_of(err)}: {shorten(_printable(str(err)), 120)}"
        grown = _resident() - before
        if grown > MEMORY:
            return f"takes {grown >> 20} MiB"
        said = [one for one in warned if issubclass(one.category, _SAID)]
        return f"warns: {shorten(_printable(str(said[0].message)), 120)}" if said else ""

    def _note(self, example: Any) -> None:
        if self._current is not None:
            self._current.seek(0)
            self._current.truncate()
            self._current.write(shown(example))
            self._current.flush()


def shown(example: Any) -> str:
    """*example* as a case's record has it."""
    return shorten(ascii(example), SHOWN)


def _wrong_words(err: Exception) -> str:
    """What is wrong with a refusal; himl's own are looked at as people see them."""
    kind = type(err).__name__
    if not isinstance(err, HimlError):
        return "" if str(err).isprintable() or not str(err) else f"{kind} with signs that are not to be seen: {_printable(str(err))[:120]}"
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        print_error(err, as_json=False)
    lines = said.getvalue().splitlines()
    plain = [line for line in lines if all(each.isprintable() or "\udc80" <= each <= "\udcff" for each in line)]
    if len(plain) != 1 + bool(err.hint) or len(lines) != len(plain) or not lines[0].removeprefix("error:").strip():
        return f"{kind} in {len(lines)} lines: {_printable(said.getvalue())[:160]}"
    return ""


def _place_of(err: BaseException) -> str:
    """Where himl's own code was, the innermost such line."""
    place, trace = "outside of himl", err.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if "himl_cli" in file.parts:
            place = f"in {file.name}:{trace.tb_frame.f_code.co_name}"
        trace = trace.tb_next
    return place


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "·" for each in text)


def _resident() -> int:
    """Bytes of memory that this process ever had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _bound() -> None:
    """Let this process take no more than so much memory from here on."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + 3 * MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises TooLong in what takes more than *seconds* of processor time."""

    def over(number: int, frame: FrameType | None) -> None:
        raise TooLong

    before = signal.signal(signal.SIGPROF, over)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
