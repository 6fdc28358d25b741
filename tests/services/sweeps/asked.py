"""Sweeps as the options about many runs ask for them, and how they are refused."""

from __future__ import annotations

from typing import Any

import pytest

from himl_cli.core.errors import BadUsage
from himl_cli.core.sweeps import SweepSpec
from himl_cli.services.submission.request import SweepRequest
from himl_cli.services.submission.sweeps import sweep_of


def sweep(*specs: str, on_cluster: bool = False, **options: Any) -> SweepSpec:
    return sweep_of(SweepRequest(sweep=specs, **options), on_cluster=on_cluster)


def refusal(*specs: str, on_cluster: bool = False, **options: Any) -> str:
    with pytest.raises(BadUsage) as caught:
        sweep(*specs, on_cluster=on_cluster, **options)
    return f"{caught.value} | {caught.value.hint}"
