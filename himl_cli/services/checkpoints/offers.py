"""What a run has to choose a checkpoint from, and what was chosen of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from himl_cli.core.runs import Metric, Run
from himl_cli.services.checkpoints.candidates import Candidate, have_one_content
from himl_cli.services.checkpoints.refusals import ambiguous
from himl_cli.workspaces.base import BlobStore


@dataclass(frozen=True)
class Chosen:
    """`why` is a sentence where it is not as one would expect; `value` that of `metric` where the choice was made by
    one."""

    candidate: Candidate
    why: str = ""
    metric: str = ""
    value: float | None = None


@dataclass(frozen=True)
class Offer:
    """A run, its checkpoints, the names of files it has in `outputs/`, and its metrics for the asking."""

    run: Run
    files: BlobStore
    found: Sequence[Candidate]
    names: Iterable[str]
    metrics: Callable[[], Sequence[Metric]]


def the_only(offer: Offer, found: Sequence[Candidate], what: str, hint: str = "") -> Candidate:
    """The one of *found*, or any of them where all have one content. Raises BadUsage naming them."""
    if len(found) > 1 and not have_one_content(found, offer.files):
        raise ambiguous(offer.run, f"{len(found)} checkpoints {what}", found, hint)
    return found[0]
