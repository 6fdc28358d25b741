"""Word of the datasets that were brought here, for the ranks that a script may yet start itself (as PyTorch Lightning
does).

The ranks that a launcher starts wait for rank 0; these would wait in vain, since rank 0 has been here before they
began.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from himl_cli.core.jobs import DataSpec
from himl_cli.core.text import read_json
from himl_cli.services.transfer.ranks import LONGEST_VARIABLE, local_rank

VARIABLE = "HIML_BROUGHT_DATASETS"


def mark_of(workspace: str, spec: DataSpec, default_datastore: str | None) -> str:
    """What tells one dataset of one workspace from others."""
    return hashlib.sha256(repr((workspace, spec, default_datastore)).encode("utf-8", "surrogateescape")).hexdigest()[
        :12
    ]


def inherited(mark: str) -> Path | None:
    """Where the script that started this rank brought the dataset; None for a first rank, and where it did not."""
    me = local_rank(os.environ)
    found = _word().get(mark)
    return Path(found) if found and me is not None and me.rank > 0 and os.path.exists(found) else None


def leave_word(mark: str, place: Path) -> None:
    """Say where the dataset is to processes that this one starts from now on."""
    text = json.dumps({**_word(), mark: str(place)})
    if len(text) <= LONGEST_VARIABLE:
        os.environ[VARIABLE] = text


def _word() -> dict[str, str]:
    try:
        word = read_json(os.environ.get(VARIABLE, "{}"))
    except ValueError:
        return {}
    return {mark: place for mark, place in word.items() if isinstance(place, str)} if isinstance(word, dict) else {}
