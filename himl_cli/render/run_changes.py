"""What `himl runs cancel` and `himl runs delete` say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from himl_cli.core.runs import Run


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


def deletion_text(runs: Sequence[Run], below: Mapping[str, str]) -> str:
    """What would be deleted; *below* says by id what goes with a run (`4 trials`; empty: nothing)."""
    if len(runs) == 1:
        run = runs[0]
        return (
            f"Delete run '{run.id}' with its {below[run.id]} and all their files"
            if below[run.id]
            else f"Delete run '{run.id}' with all its files"
        )
    names = ", ".join(f"{run.id} (with its {below[run.id]})" if below[run.id] else run.id for run in runs)
    return f"Delete {len(runs)} runs with all their files: {names}"


def deleted_text(run: Run, below: str) -> str:
    return f"Deleted run '{run.id}' and its {below}." if below else f"Deleted run '{run.id}'."
