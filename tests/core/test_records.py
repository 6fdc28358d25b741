"""Tests of records, which are dataclasses from their first use on."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, field, fields, is_dataclass, replace
from typing import Any

import pytest

from himl_cli.core.records import dataclass


@dataclass(frozen=True)
class Point:
    x: int
    y: int = 2
    names: list[str] = field(default_factory=list)


def hashable(y: int) -> Point:
    """A point with a tuple in place of the list, which has no hash."""
    return Point(1, y, ())  # type: ignore[arg-type]


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


def test_functions_of_dataclasses_take_a_record() -> None:
    assert is_dataclass(Named)
    assert str(inspect.signature(Named)).startswith("(x: 'int', y: 'int' = 2, names: 'list[str]' = <factory>, *, name")
    assert [each.name for each in fields(Named)] == ["x", "y", "names", "name"]
    assert replace(Named(1, name="a"), x=5) == Named(5, name="a")
    assert copy.copy(Point(1)) == Point(1)


def test_records_have_the_methods_of_dataclasses() -> None:
    assert Named(1, name="a") == Named(1, 2, name="a") != Named(1, 3, name="a")
    assert hash(hashable(1)) == hash(hashable(1))
    assert repr(Point(3)) == "Point(x=3, y=2, names=[])"
    assert Named(1).names is not Named(1).names, "each record has its own default list"
    with pytest.raises(FrozenInstanceError):
        Named(1).x = 3  # type: ignore[misc]
    with pytest.raises(AssertionError, match="bad"):
        Named(1, name="bad")


def test_constructors_take_what_those_of_dataclasses_take() -> None:
    def declare(decorator: Any) -> Any:
        class Base:
            __module__, __annotations__ = __name__, {"x": "int", "y": "int"}
            y = 2

        @decorator(order=True)
        class Record(decorator(order=True)(Base)):  # type: ignore[misc]
            z: list[int] = field(default_factory=list, kw_only=True)
            late: int = field(init=False, repr=False, compare=False)
            fixed: int = field(default=5, init=False)

            def __post_init__(self) -> None:
                self.late = self.x

        return Record

    def results(decorator: Any) -> Iterator[object]:
        calls: list[tuple[tuple[object, ...], dict[str, object]]] = [
            ((1,), {}),
            ((1, 3), {"z": [4]}),
            ((), {"x": 1, "y": 0}),
            ((), {}),
            ((1, 2, 3), {}),
            ((1,), {"x": 2}),
            ((1,), {"fixed": 2}),
            ((1,), {"w": 2}),
        ]
        used = declare(decorator)
        for number, (args, kwargs) in enumerate(calls * 8):
            # The methods of a class with a wrong call are compiled then
            record = declare(decorator) if number < len(calls) else used
            try:
                made = record(*args, **kwargs)
                yield dict(vars(made))  # nothing has compiled the constructor yet
                yield repr(made), vars(made), made == record(*args, **kwargs), made < record(9), made.fixed
                yield made.__hash__ is None
            except TypeError as err:
                yield str(err)

    assert [*results(dataclass)] == [*results(dataclasses.dataclass)]


def test_a_subclass_may_have_its_own_constructor() -> None:
    calls: list[int] = []
    assert Plain(calls).count == 1
    assert calls == [1], "the constructor runs once, although the first use makes the dataclass"


@pytest.mark.large("takes long, and other tests run its branches")
def test_unpickled_records_are_the_first_use_in_a_new_process() -> None:
    code = (
        "import pickle, sys; from tests.core.test_records import Point; a, b = pickle.load(sys.stdin.buffer); "
        "print(a == b, len({a, b}), a.y)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps([hashable(7), hashable(7)]), capture_output=True
    )
    assert done.stdout.split() == [b"True", b"1", b"7"], done.stderr.decode()


@pytest.mark.large("takes long, and other tests run its branches")
def test_threads_may_use_a_record_first_at_the_same_time() -> None:
    """Each of 300 new classes is first used by eight threads, which the interpreter switches as often as possible."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(300):
            record: type = dataclass(frozen=True)(type("Record", (), {"__annotations__": {"x": int}}))
            with ThreadPoolExecutor(8) as pool:
                made = [
                    *pool.map(lambda x, record=record: (record(x).x, [each.name for each in fields(record)]), range(8))
                ]
            assert made == [(x, ["x"]) for x in range(8)]
    finally:
        sys.setswitchinterval(interval)
