"""What `himl runs cancel` says."""

from __future__ import annotations

from typing import Protocol


class Canceled(Protocol):
    """How the asking of one run to stop went."""

    @property
    def id(self) -> str: ...
    @property
    def asked(self) -> bool: ...
    @property
    def status(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def parent(self) -> str | None: ...


def cancel_text(outcome: Canceled) -> str:
    """One sentence or two: whether the run was asked to stop, and what that means for its relatives."""
    if not outcome.asked:
        return f"Run '{outcome.id}' had ended already: {outcome.status}."
    meanings = {
        "sweep": "; its trials stop with it",
        "pipeline": "; its steps stop with it",
        "trial": f"; sweep '{outcome.parent}' goes on with its other trials",
        "step": f"; what waits for it in pipeline '{outcome.parent}' does not start",
    }
    return f"Asked run '{outcome.id}' to stop{meanings.get(outcome.kind, '')}."
