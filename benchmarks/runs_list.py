"""Time `himl runs list`, and the completion of a run id with Tab, with 2,000 recorded runs."""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from benchmarks.measure import HIML, new_parser, recording, take_turns
from himl_cli.core.runs import Run, RunStatus
from himl_cli.workspaces.local.run_store import Database, RunStore

RUNS = 2000
LISTS = ("", " --json", " --experiment nested --tags fold=3", " --num_runs all", " --num_runs all --json")
SCRIPT = Path(__file__).parents[1] / "completions" / "himl.bash"
PRESS = f". {shlex.quote(str(SCRIPT))}; COMP_WORDS=(himl runs show digits_); COMP_CWORD=3; _himl; [ ${{#COMPREPLY[@]}} -gt 1 ]"
"""The action of Bash at Tab after `himl runs show digits_`. It fails if himl offers fewer than two ids."""


def completions() -> dict[str, list[str]]:
    """Return the commands to time. The import of Typer is a lower bound for Typer's own completion."""
    bash = shutil.which("bash")
    shell = {"a new Bash that sources the script": [bash, "-c", f"PATH={shlex.quote(str(Path(HIML).parent))}:$PATH; {PRESS}"]} if bash else {}
    return {'python -c "import typer"': [sys.executable, "-c", "import typer"], "himl --complete runs=": [HIML, "--complete", "runs=digits_"], **shell}


def record_ended(database: Database, runs: Iterable[Run]) -> None:
    """Record *runs* as completed, all at once."""
    RunStore(database).add_all(runs)
    with database.writing() as connection:
        connection.execute("UPDATE runs SET status = ?, exit_code = 0, started = created, ended = created + 60000", (RunStatus.completed.value,))


def record_runs(folder: Path, count: int, *experiments: str) -> None:
    """Record *count* runs in *folder*/.himl, which belong to *experiments* in turns."""

    def run(number: int) -> Run:
        run_id = f"digits_{1_750_000_000 + number}_{number:08x}"
        tags = {"git_branch": "main", "git_commit": f"{number:040x}", "user": "ada", "fold": str(number % 5), "run_recovery_id": f"digits:{run_id}"}
        return Run(run_id, experiments[number % len(experiments)], display_name=f"trial {number}", command="train.py", tags=tags)

    (folder / ".himl").mkdir(parents=True)
    with closing(Database(folder / ".himl" / "workspace.db", create=True)) as database:
        record_ended(database, map(run, range(count)))


if __name__ == "__main__":
    args = new_parser(__doc__, 11).parse_args()
    with tempfile.TemporaryDirectory() as name, recording("runs_list", args.raw) as record:
        record_runs(Path(name), RUNS, "digits", "nested")
        lists = {f"himl runs list{options}": [HIML, "runs", "list", *options.split()] for options in LISTS}
        take_turns(record, "2,000 runs", lists, args.rounds, Path(name))
        take_turns(record, "Tab, 2,000 runs", completions(), args.rounds, Path(name))
