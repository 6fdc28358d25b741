"""What breaks off while a job is made ready: no job is there yet, and that is said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from himl_cli.core.errors import BadUsage, HimlError, Interrupted, NotFound
from himl_cli.core.processes import terminations

NOTHING_RUNS = "No job was created."


@contextmanager
def before_creation() -> Iterator[None]:
    """Within it nothing can start a job: an interruption raises Interrupted, any other failure stays what it is, and
    both say that nothing runs."""
    try:
        with terminations():
            yield
    except KeyboardInterrupt as err:
        raise Interrupted("Interrupted before the job was created: nothing runs.") from err
    except (BadUsage, NotFound):
        raise  # nobody expects a job of what is wrong
    except HimlError as err:
        say_nothing_runs(err)
        raise


def say_nothing_runs(err: HimlError) -> None:
    """Let *err* say, once, that there is no job."""
    if NOTHING_RUNS not in err.hint:
        err.hint = f"{NOTHING_RUNS} {err.hint}".strip()
