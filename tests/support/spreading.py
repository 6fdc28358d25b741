"""The order of tests for the processes of xdist: tests that may build an environment come first, some for each process,
and those that start the same program in one process.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TypeVar

import pytest

PATIENT = 600
"""A test whose limit, in seconds, is higher than this may have to build an environment of a client."""
SHARED = STARTS_SLURM, STARTS_SSH, STARTS_CHROMIUM = ("starts Slurm", "starts sshd", "starts Chromium")
"""Reasons of tests marked large that use a program which runs once in a process. One process runs all with the same
reason.
"""

T = TypeVar("T")


def is_patient(item: pytest.Item) -> bool:
    limit = item.get_closest_marker("timeout")
    return limit is not None and bool(limit.args) and limit.args[0] > PATIENT


def group_of(item: pytest.Item) -> str:
    """The group of a test that starts a shared program or may take very long, by its client or its file, else ''."""
    reasons = {marker.args[0] for marker in item.iter_markers("large")}
    if shared := next((reason for reason in SHARED if reason in reasons), ""):
        return shared
    if not is_patient(item):
        return ""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return str(parameters.get("client") or parameters.get("full_client") or item.path)


def spread(tests: Sequence[T], groups: Sequence[str], processes: int) -> list[T]:
    """*tests* in an order whose equal parts, one per process, start with the tests of some groups. The others keep
    their order.

    `groups[i]` is the group of `tests[i]`, or ''. Worksteal gives each process one such part at the start.
    """
    members: dict[str, list[T]] = {}
    for test, group in zip(tests, groups, strict=True):
        members.setdefault(group, []).append(test)
    others = iter(members.pop("", []))
    fronts: list[list[T]] = [[] for _ in range(processes)]
    for together in members.values():
        min(fronts, key=len).extend(together)
    ordered: list[T] = []
    for number, front in enumerate(fronts):
        size = (len(tests) - len(ordered)) // (processes - number)
        ordered += front
        ordered += islice(others, max(0, size - len(front)))
    return [*ordered, *others]
