"""The ways to write which run is meant: a run id, hi-ml's recovery ids, an Azure ML Studio URL. Pure text, no
look-up."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from himl_cli.core.errors import BadUsage
from himl_cli.core.runs import implied_experiment


class RunReference(NamedTuple):
    """A run id, and the experiment where the text says so."""

    run_id: str
    experiment: str | None = None


def parse_reference(text: str) -> RunReference:
    """What *text* refers to: `RUN_ID`, `EXPERIMENT:RUN_ID`, or a Studio URL with `/runs/RUN_ID`. Raises BadUsage."""
    text = text.strip()
    if re.match(r"https?://", text, re.IGNORECASE):
        return RunReference(_run_in_url(text))
    parts = [part.strip() for part in text.split(":")]
    if len(parts) > 2 or not all(parts):
        raise BadUsage(f"'{text}' is no run.", hint="Give a run id, experiment:run_id, a Studio URL, or latest.")
    return RunReference(parts[-1], parts[0] if len(parts) == 2 else None)


def split_recovery_id(text: str) -> tuple[str, str]:
    """The experiment and the run id in a recovery id, by hi-ml's rule.

    `experiment:run_id` is split at the colon; of a run id such as `EXPERIMENT_<digits>_<hex>` or `EXPERIMENT_<digits>`
    the experiment is all before the last two parts, or the last. Raises BadUsage for other text.
    """
    reference = parse_reference(text)
    if reference.experiment is not None:
        return reference.experiment, reference.run_id
    experiment = implied_experiment(reference.run_id)
    if experiment is None:
        raise BadUsage(
            f"'{text}' is no recovery id.",
            hint="Recovery ids look like experiment:run_id, or EXPERIMENT_<digits>_<hex>.",
        )
    return experiment, reference.run_id


def _run_in_url(url: str) -> str:
    try:
        parts = [unquote(part) for part in urlsplit(url).path.split("/")]
    except ValueError:
        parts = []
    for before, after in pairwise(parts):
        if before.lower() == "runs" and after.strip():
            return after.strip()
    raise BadUsage(f"'{url}' is no address of a run.", hint="A run's address in Studio has /runs/RUN_ID in it.")
