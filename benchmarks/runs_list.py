"""Time `himl runs list` and the completion of a run id with Tab with 2,000 recorded runs, `himl runs list` while 16
jobs start, and `himl runs delete`.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from itertools import cycle
from pathlib import Path

from benchmarks.measure import HIML, clean_environment, new_parser, recording, spend, take_turns
from benchmarks.raw import Raw
from himl_cli.core.runs import Run, RunStatus
from himl_cli.workspaces.local.run_store import Database, RunStore

RUNS = 2000
LISTS = ("", " --json", " --experiment nested --tags fold=3", " --num_runs all", " --num_runs all --json")
SCRIPT = Path(__file__).parents[1] / "completions" / "himl.bash"
PRESS = (
    f". {shlex.quote(str(SCRIPT))}; COMP_WORDS=(himl runs show digits_); COMP_CWORD=3; _himl; [ "
    "${#COMPREPLY[@]} -gt 1 ]"
)
"""The action of Bash at Tab after `himl runs show digits_`. It fails if himl offers fewer than two ids."""

IMPORT = {'python -c "import typer"': [sys.executable, "-c", "import typer"]}
SECONDS = 10
WAITS, WRITES = (
    f"import time; time.sleep({SECONDS})\n",
    """
import os
for folder in range(100):
    os.makedirs(f"outputs/{folder}")
    for number in range(1000):
        open(f"outputs/{folder}/{number}", "w").close()
""",
)


def completions() -> dict[str, list[str]]:
    """Return the commands to time. The import of Typer is a lower bound for Typer's own completion."""
    bash = shutil.which("bash")
    shell = (
        {
            "a new Bash that sources the script": [
                bash,
                "-c",
                f"PATH={shlex.quote(str(Path(HIML).parent))}:$PATH; {PRESS}",
            ]
        }
        if bash
        else {}
    )
    return {**IMPORT, "himl --complete runs=": [HIML, "--complete", "runs=digits_"], **shell}


def record_ended(database: Database, runs: Iterable[Run]) -> None:
    """Record *runs* as completed, all at once."""
    RunStore(database).add(*runs)
    with database.writing() as connection:
        connection.execute(
            "UPDATE runs SET status = ?, exit_code = 0, started = created, ended = created + 60000",
            (RunStatus.completed.value,),
        )


def record_runs(folder: Path, count: int, *experiments: str) -> None:
    """Record *count* runs in *folder*/.himl, which belong to *experiments* in turns."""

    def run(number: int) -> Run:
        run_id = f"digits_{1_750_000_000 + number}_{number:08x}"
        tags = {
            "git_branch": "main",
            "git_commit": f"{number:040x}",
            "user": "ada",
            "fold": str(number % 5),
            "run_recovery_id": f"digits:{run_id}",
        }
        return Run(
            run_id,
            experiments[number % len(experiments)],
            display_name=f"trial {number}",
            command="train.py",
            tags=tags,
        )

    (folder / ".himl").mkdir(parents=True)
    with closing(Database(folder / ".himl" / "workspace.db", create=True)) as database:
        record_ended(database, map(run, range(count)))


def list_during_starts(record: Raw, folder: Path, times: int) -> None:
    """Time `himl runs list` and the import of Typer in turns, until 16 commands have started a job each. Repeat that,
    with the other one first, because few turns fit into a start, and the first one takes longest."""
    (folder / "waits.py").write_text(WAITS)
    command = [HIML, "submit", "waits.py", "--no_wait"]
    candidates = {"himl runs list": [HIML, "runs", "list"], **IMPORT}
    rounds = Counter[str]()
    for start in range(times):
        starts = [
            subprocess.Popen(
                command, cwd=folder, env=clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            for _ in range(16)
        ]
        turns = cycle(list(candidates)[:: -1 if start % 2 else 1])
        while any(each.poll() is None for each in starts):
            candidate = next(turns)
            rounds[candidate] += 1
            record.add(
                "while 16 jobs start",
                candidate,
                rounds[candidate],
                **spend(candidates[candidate], clean_environment(), folder),
            )
        time.sleep(SECONDS + 2)  # until the jobs have ended


def delete_runs(record: Raw, folder: Path, rounds: int) -> None:
    """Time `himl runs delete` of a run with 100,000 files, and `rm -rf` of a copy of its folder."""
    (folder / "writes.py").write_text(WRITES)
    for number in range(1, rounds + 1):
        done = subprocess.run(
            [HIML, "submit", "writes.py", "-q"],
            cwd=folder,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        run_id = done.stdout.strip()
        code = folder / ".himl" / "runs" / run_id / "code" / "writes.py"
        while code.exists():  # himl moves it to its store
            time.sleep(0.1)
        subprocess.run(["cp", "-a", folder / ".himl" / "runs" / run_id, folder / "copy"], check=True)
        deletes = {"himl runs delete": [HIML, "runs", "delete", run_id, "--yes"], "rm -rf": ["rm", "-rf", "copy"]}
        for candidate in list(deletes)[:: 1 if number % 2 else -1]:
            record.add(
                "a run with 100,000 files",
                candidate,
                number,
                wall=spend(deletes[candidate], clean_environment(), folder)["wall"],
            )


if __name__ == "__main__":
    args = new_parser(__doc__, 11).parse_args()
    with tempfile.TemporaryDirectory() as name, recording("runs_list", args.raw) as record:
        record_runs(Path(name), RUNS, "digits", "nested")
        lists = {f"himl runs list{options}": [HIML, "runs", "list", *options.split()] for options in LISTS}
        take_turns(record, "2,000 runs", lists, args.rounds, Path(name))
        take_turns(record, "Tab, 2,000 runs", completions(), args.rounds, Path(name))
        list_during_starts(record, Path(name), min(10, args.rounds))
        delete_runs(record, Path(name), min(3, args.rounds))
