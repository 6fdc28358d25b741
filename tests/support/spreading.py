"""The order of tests for the processes of xdist: tests that may build an environment come first, some for each process,
and those of the cluster in one process.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TypeVar

import pytest

PATIENT = 600
"""A test whose limit, in seconds, is higher than this may have to build an environment of a client."""
STARTS_SLURM = "starts Slurm"
"""The reason of tests marked large that use the cluster of a process."""
STARTS_SSH = "starts sshd"
"""The reason of tests marked large that use the SSH server of a process."""

T = TypeVar("T")


def is_patient(item: pytest.Item) -> bool:
    limit = item.get_closest_marker("timeout")
    return limit is not None and bool(limit.args) and limit.args[0] > PATIENT


def group_of(item: pytest.Item) -> str:
    """The group of a test that starts the cluster or may take very long, by its client or its file, else ''."""
    if any(marker.args[:1] == (STARTS_SLURM,) for marker in item.iter_markers("large")):
        return STARTS_SLURM
    if not is_patient(item):
        return ""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return str(parameters.get("client") or parameters.get("full_client") or item.path)


def spread(tests: Sequence[T], groups: Sequence[str], processes: int) -> list[T]:
    """*tests* in an order whose equal parts, one per process, start with the tests of some groups. The others keep their order.

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
