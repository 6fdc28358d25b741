"""A process that runs cases, one after the other, in a world of its own: `python -m stress.worker FOLDER SEED`."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from pathlib import Path

from stress.plan import cases_by_id
from stress.records import Case, Outcome, Record, Result
from stress.sampling import dice_for
from stress.world import World, leave_only_ours, running_world

LOG = "worker.log"
"""Where one that starts a worker lets it say what goes wrong in it."""


def main(place: Path, seed: int) -> None:
    """Say "ready", then run the case of each id that comes on stdin and answer with the line of its record, until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the one that asks, and that ends this
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever else is printed here is no answer
        leave_only_ours()
        cases = cases_by_id()
        with running_world(place) as world:
            print("ready", file=answers, flush=True)
            for line in sys.stdin:
                print(run_case(world, cases[line.strip()], seed).as_line(), end="", file=answers, flush=True)


def run_case(world: World, case: Case, seed: int) -> Record:
    """Run *case*. What fails in it outside of what it judges is lost, too: a case that cannot be judged proves nothing."""
    begun = time.monotonic()
    try:
        with world.fresh():
            result = case.run(world, dice_for(seed, case.id))
    except Exception as e:  # noqa: BLE001 - whatever it is, the other cases go on
        traceback.print_exc()
        where = traceback.extract_tb(e.__traceback__)[-1]
        text = world.tidy(f"{type(e).__name__} in {Path(where.filename).name}:{where.lineno}: {e}")
        result = Result(Outcome.lost, None, time.monotonic() - begun, why=f"harness: {text[:600]}")
    return Record(case.id, result)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
