"""What may have been meant by a name that does not exist."""

from __future__ import annotations

from collections.abc import Sequence

MOST = 3


def similar_ids(wanted: str, known: Sequence[str]) -> list[str]:
    """Up to three of the *known* ids that may have been meant: those that begin so, in the order given, else those
    spelt alike."""
    from difflib import get_close_matches

    begins = [name for name in known if wanted and name.startswith(wanted)]
    return begins[:MOST] or get_close_matches(wanted, known, n=MOST, cutoff=0.5)
