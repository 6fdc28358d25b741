"""What is said where no checkpoint fits, and where several do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.runs import Run
from himl_cli.services.checkpoints.candidates import Candidate, reference
from himl_cli.services.checkpoints.names import rank_of

SHOWN = 5
_MODELS = re.compile(r"\.(ckpt|pt|pth|bin|safetensors|h5|keras|pkl|joblib|npz|onnx)(/|$)")


def nothing(run: Run, what: str, names: Iterable[str], hint: str = "") -> NotFound:
    """*run* has *what* (`no 'a.ckpt'`); *names* are those of its files in `outputs/`. *hint* stands before what there
    is."""
    there = list(names)
    likely = [name for name in there if rank_of(name) or _MODELS.search(name)] or there
    more = f" and {len(likely) - SHOWN} more" if len(likely) > SHOWN else ""
    told = (
        f"There are: {', '.join(likely[:SHOWN])}{more}. Name one: {run.id}:PATH"
        if likely
        else "It kept nothing in outputs/."
    )
    return NotFound(f"Run '{run.id}' has {what}.", hint=f"{hint} {told}".strip())


def ambiguous(run: Run, what: str, found: Sequence[Candidate], hint: str = "") -> BadUsage:
    """*run* has *what* (`2 checkpoints of epoch 3`), and nothing tells which of *found* is meant."""
    names = [reference(run.id, one) for one in sorted(found, key=lambda one: one.name)]
    more = f" and {len(names) - 2 * SHOWN} more" if len(names) > 2 * SHOWN else ""
    return BadUsage(
        f"Run '{run.id}' has {what}.", hint=f"{hint} Name one: {', '.join(names[: 2 * SHOWN])}{more}".strip()
    )
