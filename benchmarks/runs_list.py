"""How long `himl runs list`, and a run id by Tab, take with 2,000 recorded runs."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import raw
from benchmarks.measure import HIML, print_timings, take_turns
from himl_cli.core.runs import Run, RunStatus
from himl_cli.workspaces.local.run_store import Database, RunStore, now_ms

RUNS = 2000
SCENARIO = "2,000 runs"
BASELINE = "himl runs list"
CANDIDATES = {
    BASELINE: [HIML, "runs", "list"],
    "himl runs list --json": [HIML, "runs", "list", "--json"],
    "himl runs list --experiment nested --tags fold=3": [HIML, "runs", "list", "--experiment", "nested", "--tags", "fold=3"],
    "himl runs list --num_runs all": [HIML, "runs", "list", "--num_runs", "all"],
    "himl runs list --num_runs all --json": [HIML, "runs", "list", "--num_runs", "all", "--json"],
}

TAB_SCENARIO = "Tab, 2,000 runs"
TYPER = 'python -c "import typer"'
TAB = "himl --complete runs="
BASH_TAB = "a new Bash, the script read, Tab"
SCRIPT = Path(__file__).parents[1] / "completions" / "himl.bash"
PRESS = f". {shlex.quote(str(SCRIPT))}; COMP_WORDS=(himl runs show digits_); COMP_CWORD=3; _himl; [ ${{#COMPREPLY[@]}} -gt 1 ]"
"""What Bash does at Tab after `himl runs show digits_`; it fails where less than two ids are offered."""


def pressed() -> dict[str, list[str]]:
    """Typer's own completion would at least import Typer."""
    bash = shutil.which("bash")
    shell = {BASH_TAB: [bash, "-c", f"PATH={shlex.quote(str(Path(HIML).parent))}:$PATH; {PRESS}"]} if bash else {}
    return {TYPER: [sys.executable, "-c", "import typer"], TAB: [HIML, "--complete", "runs=digits_"], **shell}


def record_runs(folder: Path) -> float:
    """Record completed runs with five tags each in a new workspace; gives the seconds that took."""
    (folder / ".himl").mkdir()
    store = RunStore(Database(folder / ".himl" / "workspace.db", create=True))
    start = time.perf_counter()
    for number in range(RUNS):
        run_id = f"digits_{1_750_000_000 + number}_{number:08x}"
        tags = {"git_branch": "main", "git_commit": f"{number:040x}", "user": "ada", "fold": str(number % 5), "run_recovery_id": f"digits:{run_id}"}
        experiment = "nested" if number % 2 else "digits"
        store.add(Run(run_id, experiment, display_name=f"trial {number}", command="train.py", tags=tags), started=now_ms())
        store.end(run_id, RunStatus.completed, exit_code=0)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    raw.add_option(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, raw.recording("runs_list", args.raw) as record:
        folder = Path(name)
        print(f"recorded {RUNS:,} runs in {record_runs(folder):.1f} s")
        timings = take_turns(CANDIDATES, rounds=args.rounds, folder=folder)
        record.add_timings(SCENARIO, timings)
        presses = take_turns(pressed(), rounds=args.rounds, folder=folder)
        record.add_timings(TAB_SCENARIO, presses)
    print_timings(timings, baseline=BASELINE)
    print_timings(presses, baseline=TYPER)


if __name__ == "__main__":
    main()
