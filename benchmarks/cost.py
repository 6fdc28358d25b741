"""Measure the cost of commands where seconds on a quiet machine do not show it: requests of commands for many runs, and
what waiting commands use.

`runs`: commands for several runs on the double, which delays each request by 200 ms, and twice as many of them.
`local`: what grows with the number of files, rules, points, values, runs or levels of folders on this machine, for some
and for more of them. `start`: processor time of short commands, in turns, next to the import of Typer, and without the
modules that Python has compiled. `waiting`: processor time per hour of commands that wait for local runs, and calls of
the file system per second, which `strace` counts if it is there."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

from benchmarks.aggregate import SWEEP, record_sweep
from benchmarks.aims import (
    BATCH,
    CALLED_BARE,
    COPY,
    COST_SIZES,
    FOLLOW,
    LOCAL_SIZES,
    NAMES,
    SHORT,
    STORED_CODE,
    TYPER,
    WAITING,
    WATCH,
    WITHOUT_PYC,
    cost_scenario,
    local_scenario,
)
from benchmarks.measure import (
    HIML,
    HimlWorkspace,
    clean_environment,
    himl_workspace,
    new_parser,
    recording,
    spend,
    turns,
)
from benchmarks.raw import Raw
from benchmarks.runs_list import record_runs
from benchmarks.tracking import time_log_metric
from himl_cli.core.files import make_folder, remove_tree, temporary_folder
from himl_cli.core.locks import ProcessLock
from himl_cli.core.runs import RunStatus
from tests.azureml_double.faults import Latency
from tests.azureml_double.seeding import add_sweep
from tests.support.folders import built_shared_disk
from tests.support.running import write_files
from tests.support.runs import RecordedRuns

LATENCY = 0.2
SETTLED, MEASURED, PERIODS = 16.0, 10.0, 3
"""Seconds until a waiting command is measured, after the first sample of its resources, the length of a period, with
one sample, and the number of periods. The median leaves out a period in which the machine did other work."""
HOUR = 3600.0
MOVED = 300.0  # seconds in which code goes to the store, at most
RUNS, POINTS = 10, 1_900
SCRIPT = "import time\ntime.sleep(120)\n"
FILE_CALLS = "trace=%file,%desc"
# Prints the number of calls until the first process has ended, and that of all
COUNT = (
    "|awk '!first {first = $1} / resumed>/ {next} /exited with/ {if ($1 == first) until = n; next} {n++} END "
    "{print until, n}' > calls"
)
SHORT_COMMANDS = 11  # rounds of each
SNAPSHOT = """
import json, pathlib, sys, time
from himl_cli.services.submission.snapshot import take_snapshot
wall, cpu = time.perf_counter(), time.process_time()
take_snapshot(pathlib.Path(sys.argv[1]))
print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}))
"""
BATCHES, CACHED = (10, 40), re.compile(r"resumed>|p(?:read|write)64\(")
BATCHES_SCRIPT = """
import sys
import mlflow
for step in range(int(sys.argv[1])):
    mlflow.log_metrics({f"value {number}": 0.5 for number in range(int(sys.argv[2]))}, step=step)
"""
PARTS = ("runs", "start", "local", "waiting")
Work = Callable[[], dict[str, dict[str, float]]]
"""Returns figures by candidate."""


def measure_runs(himl: HimlWorkspace, folder: Path, rounds: int, record: Raw) -> None:
    azure, environment = himl.staged, himl.environment(HOME=str(folder))
    spend([HIML, "runs", "list"], environment)
    for command, sizes in COST_SIZES.items():
        for size in sizes:
            for number in range(1, rounds + 1):
                name = f"{command.partition(' ')[0]}_{size}_{number}"
                azure.stage.faults.clear()
                words = prepared(himl, command, size, name)
                azure.stage.faults.add(Latency(LATENCY), times=None)
                record.add(
                    cost_scenario(command, size), "himl", number, **himl.spend([HIML, "runs", *words], environment)
                )


def prepared(himl: HimlWorkspace, command: str, size: int, name: str) -> Sequence[str]:
    """Add *size* runs to the workspace, and return the words of the command for them."""
    azure = himl.staged
    if command == "show --children":
        sweep = f"{name}_1750000000_0a1b2c3d"
        add_sweep(
            azure,
            sweep,
            [{"lr": number} for number in range(size)],
            lambda *_: {f"metric {metric}": [0.5, 0.25] for metric in range(4)},
        )
        return "show", sweep, "--children", "-q"
    runs = [azure.add_run(f"{name}_{number}", "train") for number in range(size)]
    for run in runs if command == "delete" else ():
        azure.put_artifacts(run, {"outputs/model.pt": b"model", "user_logs/std_log.txt": b"epoch 1\n"})
    if command == "list":
        return "list", "--num_runs", str(size), "-q"
    more = {"show": ["-q"], "tag": ["stage=final"], "delete": ["--yes"]}[command]
    return command, *(run.run_id for run in runs), *more


def measure_local(folder: Path, rounds: int, record: Raw) -> None:
    """Deletes all files at the end, since ext4 takes longer to create others in the minutes after that."""
    folder.mkdir()
    for subject, sizes in LOCAL_SIZES.items():
        for size in sizes:
            place = folder / f"{subject.replace(' ', '_')}_{size}"
            place.mkdir()
            work = LOCAL[subject](place, size)
            for number in range(1, rounds + 1):
                for candidate, found in work().items():
                    record.add(local_scenario(subject, size), candidate, number, **found)
    clear(folder)


def clear(place: Path) -> None:
    """Delete the folder, for which supervisors of its runs may have to end first."""
    for _ in range(60):
        try:
            return remove_tree(place)
        except OSError:
            time.sleep(1)


def submit_files(folder: Path, size: int) -> Work:
    """Submit a job with *size* files, next to a copy of its project. Counts the calls of the file system per file:
    until the command has returned, and until the job's supervisor has moved the code to the store, in which an earlier
    submission has put it."""
    write_files(
        folder,
        {f"package_{number // 100}/module_{number}.py": f"x = {number}\n" for number in range(size)} | {"train.py": ""},
    )
    os.sync()  # else the submission writes the project to the disk
    projects = [path.name for path in folder.iterdir()]
    submit = [HIML, "submit", "train.py", "-q"]

    def copying() -> list[str]:
        return ["cp", "-r", *projects, tempfile.mkdtemp(dir=folder.parent)]

    def until_stored() -> None:
        end = time.monotonic() + MOVED
        while any(path.is_file() for path in folder.glob(".himl/runs/*/code/train.py")):  # the last one that goes
            if time.monotonic() > end:
                sys.exit(f"The code of {folder} did not go to the store within {MOVED:.0f} s.")
            time.sleep(0.1)

    def calls_of(command: Sequence[str]) -> tuple[float, ...]:
        tracing = ["strace", "-f", "--seccomp-bpf", "-s", "0", "-e", FILE_CALLS, "-o", COUNT, *command]
        spend(tracing, clean_environment(), folder)
        until_stored()
        return tuple(int(count) / size for count in (folder / "calls").read_text().split())

    def work() -> dict[str, dict[str, float]]:
        found = {
            "himl": spend(submit, clean_environment(), folder),
            COPY: spend(copying(), clean_environment(), folder),
        }
        until_stored()
        if shutil.which("strace"):
            found["himl"]["operations"], stored = calls_of(submit)
            found |= {STORED_CODE: {"operations": stored}}
            found[COPY]["operations"], _ = calls_of(copying())
        return found

    return work


def of_himl(measure: Callable[[], dict[str, float]]) -> Work:
    return lambda: {"himl": measure()}


def match_rules(folder: Path, size: int) -> Work:
    """List a project with *size* rules for names that none of them matches."""
    write_files(folder, {f"part_{number // 500}/name_{number}.py": "" for number in range(NAMES)})
    kinds = ("*.ending{}", "cache_{}_*", "folder_{}/", "*[0-9]_{}_[!a]*", "/top_{}/*.tmp")
    write_files(
        folder, {".gitignore": "".join(kinds[number % len(kinds)].format(number) + "\n" for number in range(size))}
    )
    return of_himl(partial(spend, [sys.executable, "-c", SNAPSHOT, str(folder)], clean_environment()))


def delete_levels(folder: Path, size: int) -> Work:
    """Submit a job of a project with folders in *size* levels, and delete the run."""
    make_folder(folder.joinpath(*("a" for _ in range(size))))
    folder.joinpath("train.py").touch()
    submit_and_delete = '"$0" submit train.py -q && "$0" runs delete "$("$0" runs list -q)" --yes -q'
    return of_himl(partial(spend, ["sh", "-c", submit_and_delete, HIML], clean_environment(), folder))


def show_points(folder: Path, size: int) -> Work:
    """Show a run of *size* points. Counts the bytes of the database per point."""
    record_sweep(folder, 1, 10, size // 10)
    stored = (folder / ".himl" / "workspace.db").stat().st_size / size
    return of_himl(
        lambda: {**spend([HIML, "runs", "show", f"{SWEEP}_0"], clean_environment(), folder), "bytes": stored}
    )


def miss_run(folder: Path, size: int) -> Work:
    """Look for a run by a wrong id among *size*."""
    record_runs(folder, size, "digits")
    return of_himl(
        partial(
            spend, ["sh", "-c", '"$0" runs show digits_1750000000_x; test $? -eq 3', HIML], clean_environment(), folder
        )
    )


def log_with_model(folder: Path, size: int) -> Work:
    """Log *size* values with an active model, and without one. The time is that of one of the last hundred calls."""
    calls = {"himl": partial(time_log_metric, size, "model"), CALLED_BARE: partial(time_log_metric, size)}
    return lambda: {name: {"wall": statistics.median(time_calls()[-100:])} for name, time_calls in calls.items()}


def log_batches(folder: Path, size: int) -> Work:
    """Log batches of *size* values on a disk that machines may share. Counts the calls for the database and its journal
    that a batch takes, by jobs with more and with fewer batches, except reads and writes of pages, which are cached."""
    disk = built_shared_disk(folder)
    if disk is None or shutil.which("strace") is None:
        sys.exit("This part needs strace, libfuse3-dev, gcc, pkg-config, and the right to mount.")
    write_files(disk.folder / "project", {"train.py": BATCHES_SCRIPT})
    project = disk.mount / "project"
    paths = [word for end in ("", "-journal") for word in ("-P", str(project / ".himl" / f"workspace.db{end}"))]

    def calls_of(batches: int) -> int:
        trace, job = folder / "trace", ["train.py", "-q", "--", str(batches), str(size)]
        tracing = ["strace", "-f", "-s", "0", "-e", FILE_CALLS, *paths, "-o", str(trace), HIML, "submit", *job]
        inside = ["sh", "-c", 'cd "$0" && exec "$@"', str(project), *tracing]
        spend([*disk.prefix(has_locks=True), *inside], clean_environment(), folder)
        return sum(not CACHED.search(line) for line in trace.read_text().splitlines())

    def work() -> dict[str, dict[str, float]]:
        calls_of(1)  # makes the workspace
        fewer, more = map(calls_of, BATCHES)
        return {"himl": {"operations": (more - fewer) / (BATCHES[1] - BATCHES[0])}}

    return work


LOCAL: Mapping[str, Callable[[Path, int], Work]] = {
    "files of a submission": submit_files,
    f"rules for {NAMES:,} names": match_rules,
    "points of a run": show_points,
    "runs and a wrong id": miss_run,
    "values with an active model": log_with_model,
    BATCH: log_batches,
    "levels of folders": delete_levels,
}


def measure_start(folder: Path, record: Raw) -> None:
    (folder / "train.py").touch()
    environment, uncompiled = (
        clean_environment(),
        {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": str(folder / "none")},
    )
    ours = {"himl --help": [], "himl submit --help": ["submit"], "himl runs list --help": ["runs", "list"]}
    commands = {
        TYPER: [sys.executable, "-c", "import typer"],
        **{name: [HIML, *words, "--help"] for name, words in ours.items()},
    }
    environments = {WITHOUT_PYC: {**environment, **uncompiled}}
    commands[WITHOUT_PYC] = commands["himl --help"]
    for number, name in turns(commands, SHORT_COMMANDS):
        record.add(SHORT, name, number, **spend(commands[name], environments.get(name, environment), folder))


def measure_waiting(folder: Path, rounds: int, record: Raw) -> None:
    (folder / "wait.py").write_text(SCRIPT)
    watched = folder / "watched"
    locks = add_open_runs(watched)
    for number in range(1, rounds + 1):
        used = while_waiting([HIML, "submit", "wait.py"], folder)
        record.add(WAITING, "its supervisor", number, cpu=used.pop("supervisor"))
        record.add(WAITING, "himl submit", number, **used)
        running = output_of([HIML, "submit", "wait.py", "--no_wait", "-q"], folder)
        record.add(WAITING, FOLLOW, number, **while_waiting([HIML, "runs", "logs", running, "--follow"], folder))
        output_of([HIML, "runs", "cancel", running], folder)
        record.add(WAITING, WATCH, number, **while_waiting([HIML, "runs", "list", "--watch"], watched))
    for lock in locks:
        lock.release()


def add_open_runs(folder: Path) -> list[ProcessLock]:
    """Record runs in progress with two metrics each, and return the locks that keep them so."""
    folder.mkdir()
    recorded, locks = RecordedRuns(folder), []
    for number in range(RUNS):
        run = recorded.add(f"train_{number}_aa", status=RunStatus.running)
        recorded.log(
            run, [(f"metric {metric}", float(step), step, step) for metric in range(2) for step in range(POINTS // 2)]
        )
        locks.append(ProcessLock(folder / ".himl" / "runs" / f"train_{number}_aa" / "lock"))
        locks[-1].take()
    return locks


def output_of(command: Sequence[str], folder: Path) -> str:
    return subprocess.run(
        command, cwd=folder, env=clean_environment(), check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def while_waiting(command: Sequence[str], folder: Path) -> dict[str, float]:
    """Run *command* on a terminal until it waits. Returns its processor time (and that of its supervisor) in seconds
    per hour, and its calls per second.

    `strace` runs the command a second time, because it slows it down.
    """
    used = in_terminal(command, folder, processor_time)
    if shutil.which("strace") is None:
        return used
    with tempfile.TemporaryDirectory() as name:
        trace = Path(name, "trace")
        in_terminal(["strace", "-ttt", "-e", FILE_CALLS, "-o", str(trace), *command], folder, lambda pid: {})
        times = [
            float(found[1])
            for line in trace.read_text(errors="replace").splitlines()
            if (found := re.match(r"(\d+\.\d+) \w+\(", line))
        ]
    begin = times[0] + SETTLED
    seconds = MEASURED * PERIODS
    return {**used, "operations": sum(begin <= each < begin + seconds for each in times) / seconds}


def in_terminal(command: Sequence[str], folder: Path, read: Callable[[int], dict[str, float]]) -> dict[str, float]:
    """The growth per hour of what *read* returns for the process, in the median of the periods in which it waits. Then
    Ctrl-C ends it."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execvpe(command[0], list(command), {**clean_environment(), "TERM": "xterm", "COLUMNS": "120", "LINES": "40"})
    drain(terminal, SETTLED)
    found = [read(pid)]
    for _ in range(PERIODS):
        drain(terminal, MEASURED)
        found.append(read(pid))
    os.write(terminal, b"\x03")
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        drain(terminal, 0.1)
    os.close(terminal)
    growth = {name: [after[name] - before[name] for before, after in pairwise(found)] for name in found[0]}
    return {name: statistics.median(each) / MEASURED * HOUR for name, each in growth.items()}


def drain(terminal: int, seconds: float) -> None:
    """Read what the command prints, for *seconds*."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        try:
            if select.select([terminal], [], [], left)[0]:
                os.read(terminal, 1 << 16)
        except OSError:  # it has ended
            time.sleep(left)


def processor_time(pid: int) -> dict[str, float]:
    """Seconds of the process, and of its supervisor, if it has one."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    supervisors = [int(child) for child in children if "supervisor" in Path(f"/proc/{child}/cmdline").read_text()]
    return {"cpu": seconds_of(pid), **({"supervisor": sum(map(seconds_of, supervisors))} if supervisors else {})}


def seconds_of(pid: int) -> float:
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


if __name__ == "__main__":
    parser = new_parser(__doc__, 1)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    args = parser.parse_args()
    with temporary_folder() as place, recording("cost", args.raw) as record:
        here, there = Path(place, "here"), Path(place, "there")
        here.mkdir()
        if "runs" in args.only:
            with himl_workspace(there) as himl:
                measure_runs(himl, Path(place), args.rounds, record)
        if "start" in args.only:
            measure_start(here, record)
        if "local" in args.only:
            measure_local(here / "local", args.rounds, record)
        if "waiting" in args.only and sys.platform == "linux":
            measure_waiting(here, args.rounds, record)
