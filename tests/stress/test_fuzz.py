"""What fuzzing takes for a finding, and how it finds it."""

from __future__ import annotations

import time
import warnings
from contextlib import suppress

import pytest
from hypothesis import strategies as st

from himl_cli.core.errors import BadUsage, DiskFailed
from stress.fuzz.cases import A_TARGET, fuzz_cases
from stress.fuzz.names import TARGETS
from stress.fuzz.target import Target
from stress.fuzz.trying import TooLong, Trial, within


def read(text: str) -> None:
    """A parser with a fault of each kind."""
    if text == "refuse":
        raise BadUsage("It is no text.", hint="Give another.")
    if text == "refuse well":
        raise BadUsage("It has \x1b[31m\nlines.")
    if text == "refuse badly":
        raise DiskFailed("It is no disk.")
    if text == "say nothing":
        raise BadUsage("")
    if text == "fail":
        raise KeyError(text)
    if text == "warn":
        warnings.warn("odd", FutureWarning, stacklevel=1)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("take", ""),
        ("refuse", ""),
        ("refuse well", ""),
        ("refuse badly", "DiskFailed"),
        ("say nothing", "BadUsage in 1 lines"),
        ("fail", "KeyError outside of himl: 'fail'"),
        ("warn", "warns: odd"),
    ],
)
def test_only_a_documented_refusal_in_one_line_is_let_pass(text: str, wrong: str) -> None:
    assert Trial(Target("a/b", st.text, read)).complaint(text).startswith(wrong)
    assert bool(Trial(Target("a/b", st.text, read)).complaint(text)) == bool(wrong)


def test_time_limit_ends_code_that_catches_every_exception() -> None:
    def spin(seconds: float) -> None:
        end = time.process_time() + seconds
        while time.process_time() < end:
            with suppress(Exception):
                continue

    with within(60.0):
        spin(0.01)
    with pytest.raises(TooLong), within(0.1):
        spin(60.0)


def test_fuzz_reports_smallest_example_reproducibly_by_seed() -> None:
    def parse(number: int) -> None:
        if number > 700:
            raise ValueError("too much")

    target = Target("a/b", lambda: st.integers(0, 10_000), parse)
    found = Trial(target).run(5, 100)
    assert found.why.endswith(": 701")
    assert 1 <= found.examples <= 100
    assert Trial(target).run(5, 100) == found
    assert Trial(Target("a/b", lambda: st.integers(0, 10_000), abs)).run(5, 100).why == ""


def test_each_target_is_named_once_and_has_its_cases() -> None:
    from stress.fuzz.targets import all_targets

    assert sorted(TARGETS) == sorted(all_targets())
    ids = [case.id for case in fuzz_cases()]
    assert len(set(ids)) == len(ids)
    assert {f"fuzz/{name}/{A_TARGET - 1:02d}" for name in TARGETS} <= set(ids)
