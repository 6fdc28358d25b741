"""Sweeps as the options about many runs ask for them, and how they are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import SweepSpec
from himl_cli.services.submission.request import SubmitRequest
from himl_cli.services.submission.sweeps import requested_sweep


def sweep(*specs: str, on_cluster: bool = False, **options: Any) -> SweepSpec:
    found = requested_sweep(SubmitRequest(cwd=Path(), cluster="gpu" if on_cluster else None, sweep=specs, **options))
    assert found is not None
    return found


def refusal(*specs: str, on_cluster: bool = False, **options: Any) -> str:
    with pytest.raises(BadUsage) as caught:
        sweep(*specs, on_cluster=on_cluster, **options)
    return f"{caught.value} | {caught.value.hint}"
