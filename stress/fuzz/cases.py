"""Garbage as external input: random examples for each parser, which the seed determines, and for whole commands.

For Linux, as `trying.py`. Imports neither Hypothesis nor the parsers, since the list of cases is needed often.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import ForkServerContext

from stress.records import Case, Outcome, Result
from stress.world import World

A_TARGET, EXAMPLES, A_COMMAND = (
    8,
    250,
    20,
)  # cases of each target, examples of each of these, and cases of each whole command
PATIENCE = 900.0  # seconds per case; its examples have separate limits of processor time
SECONDS_TO_END = 10.0
COMMANDS = ("list", "show", "aggregate", "tag", "download", "tb", "checkpoint", "datastore", "submit")
_GROUPS = {
    "typed": (
        "reference recovery_id studio_url workspace_id call space early_stop sampling input output "
        "duration size pip_line pattern checkpoint_rank "
        "checkpoint_name storage_uri redaction address sweep filters ignore_rules file_name pairs count status"
    ),
    "files": (
        "settings settings_of_submit settings_of_azure pyproject yaml job prepared_job component dotenv "
        "pipeline_variables innereye conda requirements "
        "python_version ids latest_run toml_values job_values component_values conda_values "
        "innereye_values config pipeline table complaint lock uv_lock_values pylock_values"
    ),
    "wire": "time wait sas md5 size status challenge hyperparameters head listing level storage_error failure "
    "token json number sweep_tags workspace",
    "state": "transfer workspace rows run_records order note logged kept checkpoint archive archive_zip brought script "
    "search_filter search_order request",
    "slides": "tiff picture stored_size",
    "replies": (
        "runs runs_of_experiment children run tag cancel metrics values parameters results run_files "
        "output_files datastores datastore has_cluster describe"
    ),
}
TARGETS = tuple(f"{group}/{name}" for group, names in _GROUPS.items() for name in names.split())


@dataclass(frozen=True)
class Tried:
    """`why` is empty if the parser correctly accepted or refused all examples. `is_met` is false if it should accept
    some, but refused all.
    """

    examples: int
    refused: int
    why: str = ""
    is_met: bool = True


def fuzz_cases() -> list[Case]:
    commands = [
        Case(f"fuzz/answers/{command}/{number:02d}", partial(_run_command, command))
        for command in COMMANDS
        for number in range(A_COMMAND)
    ]
    return [
        *commands,
        *(
            Case(f"fuzz/{target}/{number:02d}", partial(_run, target))
            for target in TARGETS
            for number in range(A_TARGET)
        ),
    ]


def _run_command(command: str, world: World, dice: random.Random) -> Result:
    from stress.fuzz import replies

    return replies.run(command, world, dice)


def _run(target: str, world: World, dice: random.Random) -> Result:
    begun = time.monotonic()
    context, current = world.lasting("forks", _forks), world.folder / "tmp" / "current"
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_try, args=(theirs, target, dice.getrandbits(64), EXAMPLES, current.parent))
    process.start()
    theirs.close()
    try:
        if not ours.poll(PATIENCE):
            tried = Tried(0, 0, "hangs")
        else:
            tried = ours.recv()
            process.join(SECONDS_TO_END)
    except EOFError:
        process.join(SECONDS_TO_END)
        tried = Tried(0, 0, f"the process ended with {process.exitcode}")
    finally:
        ours.close()
        code = process.exitcode
        process.kill()
        process.join()
    why = tried.why
    if why and not tried.examples:
        why += f" at {current.read_text(encoding='utf-8') if current.exists() else 'no example yet'}"
    met = Outcome.reported if tried.refused else Outcome.survived
    outcome = Outcome.lost if why else met if tried.is_met else Outcome.not_met
    return Result(
        outcome, code, time.monotonic() - begun, tried.refused, why=world.tidy(why), facts={"examples": tried.examples}
    )


def _try(*arguments: object) -> None:
    from stress.fuzz import trying

    trying.main(*arguments)  # type: ignore[arg-type]


def _forks(world: World) -> ForkServerContext:
    """A fork server whose processes start with loaded imports, and with Hypothesis's files in the world's folder."""
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(world.place / "hypothesis")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stress.plan", "stress.fuzz.trying"])
    return context
