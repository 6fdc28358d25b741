"""Tests of records, which are dataclasses from their first use on."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, field, fields, is_dataclass, replace

import pytest

from himl_cli.core.records import dataclass


@dataclass(frozen=True)
class Point:
    x: int
    y: int = 2
    names: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Named(Point):
    name: str = ""

    def __post_init__(self) -> None:
        assert self.name != "bad", self.name


@dataclass()
class Counted:
    count: int = 0


class Plain(Counted):
    def __init__(self, calls: list[int]) -> None:
        calls.append(1)
        super().__init__(len(calls))


def test_record_is_a_dataclass() -> None:
    assert is_dataclass(Named)
    assert str(inspect.signature(Named)).startswith("(x: 'int', y: 'int' = 2, names: 'list[str]' = <factory>, *, name")
    assert [each.name for each in fields(Named)] == ["x", "y", "names", "name"]
    point = Named(1, name="a")
    assert (point, hash(Point(1, 2, ())), repr(Point(3))) == (Named(1, 2, name="a"), hash(Point(1, 2, ())), "Point(x=3, y=2, names=[])")  # type: ignore[arg-type]
    assert replace(point, x=5).x == 5
    assert Named(1).names is not Named(1).names
    with pytest.raises(FrozenInstanceError):
        point.x = 3  # type: ignore[misc]
    with pytest.raises(AssertionError, match="bad"):
        Named(1, name="bad")


def test_subclass_with_an_own_constructor() -> None:
    calls: list[int] = []
    assert (Plain(calls).count, calls) == (1, [1])


def test_record_that_another_process_made() -> None:
    code = "import pickle, sys; from tests.core.test_records import Point; a, b = pickle.load(sys.stdin.buffer); print(a == b, len({a, b}), a.y)"
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps([Point(1, 7, ()), Point(1, 7, ())]), capture_output=True)  # type: ignore[arg-type]
    assert done.stdout.split() == [b"True", b"1", b"7"], done.stderr.decode()
    assert copy.copy(Point(1)) == Point(1)


def test_threads_that_use_a_record_first() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(300):
            record: type = dataclass(frozen=True)(type("Record", (), {"__annotations__": {"x": int}}))
            with ThreadPoolExecutor(8) as pool:
                made = [*pool.map(lambda x, record=record: (record(x).x, [each.name for each in fields(record)]), range(8))]
            assert made == [(x, ["x"]) for x in range(8)]
    finally:
        sys.setswitchinterval(interval)
