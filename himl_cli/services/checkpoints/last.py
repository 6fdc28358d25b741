"""The last checkpoint of a run: where it can go on."""

from __future__ import annotations

from collections.abc import Sequence

from himl_cli.core.checkpoints import FROM_RUN, PUSHED
from himl_cli.core.runs import Run
from himl_cli.services.checkpoints.candidates import Candidate, is_recovery, newest_try
from himl_cli.services.checkpoints.names import FOLDER, LAST
from himl_cli.services.checkpoints.offers import Chosen, Offer, the_only
from himl_cli.services.checkpoints.refusals import nothing

ENDING = LAST[LAST.index(".") :]


def last_of_offer(offer: Offer) -> Chosen:
    """The newest try's `last.ckpt` or recovery checkpoint. As `choose`."""
    order = {one: (one.rank, one.told.step or -1) for one in offer.found if one.rank is not None}
    ranked = sorted(order, key=lambda one: order[one], reverse=True)
    if not ranked:
        raise nothing(offer.run, f"no {FOLDER}/{LAST}", offer.names)

    def first(those: Sequence[Candidate], why: str = "") -> Chosen:
        alike = [one for one in those if order[one] == order[those[0]]]
        usual = [one for one in alike if one.name.endswith(ENDING)] or alike
        return Chosen(the_only(offer, usual, "that may be the last"), why)

    of_newest_try = newest_try(ranked)
    lasts = [one for one in ranked if not is_recovery(one)]
    if not lasts:
        return first(of_newest_try, f"Run '{offer.run.id}' has no {LAST}; its recovery checkpoint is taken.")
    if of_newest_try[0].attempt > lasts[0].attempt:
        return first(
            of_newest_try, f"The newest try of run '{offer.run.id}' has no {LAST}; its recovery checkpoint is taken."
        )
    later = (
        [one for one in ranked if is_recovery(one) and _is_later(one, lasts[0])]
        if _may_be_brought(offer.run, lasts[0])
        else []
    )
    if later:
        return first(
            newest_try(later),
            f"Run '{offer.run.id}' began with its {LAST} and wrote recovery checkpoints later; that of the highest "
            "epoch is taken.",
        )
    return first(lasts)


def _may_be_brought(run: Run, last: Candidate) -> bool:
    """Whether *last* may be what the run began with, and not what it reached."""
    return PUSHED not in run.tags and (
        FROM_RUN in run.tags or (last.modified is not None and last.modified < run.created)
    )


def _is_later(one: Candidate, other: Candidate) -> bool:
    return one.modified is not None and other.modified is not None and one.modified > other.modified
