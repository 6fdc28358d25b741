"""Fixtures for the vendor's clients: each module has a fixture `visits`, which starts each client once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.azure.lab import Heard, Visits
from tests.support.running import Himl

Hear = Callable[[str], Heard]


@pytest.fixture
def hear(visits: Visits, himl: Himl, project: Path) -> Hear:
    """Call it with the name of a visit, which must have succeeded."""

    def of(name: str) -> Heard:
        lab, called = visits[name]
        assert called.code == 0, called.errors
        lab.azure.write_config(project)
        return Heard(lab.azure, called.result, himl)

    return of
