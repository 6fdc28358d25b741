"""The seed of a sweep that draws its values: without one, a second sweep would draw what the first one did."""

from __future__ import annotations

import re
from dataclasses import replace
from random import SystemRandom

from himl_cli.core.sweeps import SweepSpec

MOST = 1_000_000
_TOLD = re.compile(r"\b(random|bayesian)\(seed=\d+\)")


def seeded(spec: SweepSpec, *, on_cluster: bool, sdk: str = "v2") -> SweepSpec:
    """*spec*, with a seed drawn where its values are drawn, none is given and whoever draws takes one: on Azure ML
    random sampling by its newer API."""
    takes_one = spec.sampling in ("random", "bayesian") if not on_cluster else spec.sampling == "random" and sdk != "v1"
    return replace(spec, seed=SystemRandom().randrange(MOST)) if takes_one and spec.seed is None else spec


def without_seed(text: str) -> str:
    """What `sweep_text` says, without the seed."""
    return _TOLD.sub(r"\1", text)
