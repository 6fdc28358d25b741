"""A compute cluster as it is asked for."""

from __future__ import annotations

from dataclasses import dataclass

SERVERLESS = "serverless"
"""Azure ML's word for nodes that it finds itself: a job for them names no compute, and there is none of that name to
look for."""


@dataclass(frozen=True)
class ClusterSpec:
    """A cluster called *name* of nodes of the kind *size* (`Standard_NC6s_v3`), that grows and shrinks between so many
    nodes.

    `low_priority`: cheaper nodes that may be taken away at any time.
    """

    name: str
    size: str
    min_nodes: int = 0
    max_nodes: int = 1
    low_priority: bool = False
