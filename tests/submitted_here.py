"""Jobs that the installed program runs here, in tests: what is recorded of them."""

from __future__ import annotations

from typing import Any

from tests.running import Himl


def latest(himl: Himl) -> dict[str, Any]:
    """The newest run, in full."""
    run = himl.ok("runs", "show", "--run", "latest", "--json").json()
    return dict(run)
