"""Measure the cost of commands where seconds on a quiet machine do not show it: requests of commands for many runs, and what waiting commands use.

`runs`: commands for several runs on the double, which delays each request by 200 ms, and twice as many of them.
`waiting`: processor time per hour of commands that wait for local runs, and calls of the file system per second, which `strace` counts if it is there.
"""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.aims import COST_SIZES, FOLLOW, WAITING, WATCH, cost_scenario
from benchmarks.measure import HIML, HimlWorkspace, clean_environment, himl_workspace, new_parser, recording, spend
from benchmarks.raw import Raw
from himl_cli.core.locks import ProcessLock
from himl_cli.core.runs import RunStatus
from tests.azureml_double.faults import Latency
from tests.azureml_double.seeding import add_sweep
from tests.support.runs import RecordedRuns

LATENCY = 0.2
SETTLED, MEASURED = 16.0, 20.0
"""Seconds until a waiting command is measured, after the first sample of its job's resources, and while it is."""
HOUR = 3600.0
RUNS, POINTS = 10, 1_900
SCRIPT = "import time\ntime.sleep(120)\n"
FILE_CALLS = "trace=%file,%desc"


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
                record.add(cost_scenario(command, size), "himl", number, **himl.spend([HIML, "runs", *words], environment))


def prepared(himl: HimlWorkspace, command: str, size: int, name: str) -> Sequence[str]:
    """Add *size* runs to the workspace, and return the words of the command for them."""
    azure = himl.staged
    if command == "show --children":
        sweep = f"{name}_1750000000_0a1b2c3d"
        add_sweep(azure, sweep, [{"lr": number} for number in range(size)], lambda *_: {f"metric {metric}": [0.5, 0.25] for metric in range(4)})
        return "show", sweep, "--children", "-q"
    runs = [azure.add_run(f"{name}_{number}", "train") for number in range(size)]
    for run in runs if command == "delete" else ():
        azure.put_artifacts(run, {"outputs/model.pt": b"model", "user_logs/std_log.txt": b"epoch 1\n"})
    if command == "list":
        return "list", "--num_runs", str(size), "-q"
    more = {"show": ["-q"], "tag": ["stage=final"], "delete": ["--yes"]}[command]
    return command, *(run.run_id for run in runs), *more


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
        recorded.log(run, [(f"metric {metric}", float(step), step, step) for metric in range(2) for step in range(POINTS // 2)])
        locks.append(ProcessLock(folder / ".himl" / "runs" / f"train_{number}_aa" / "lock"))
        locks[-1].take()
    return locks


def output_of(command: Sequence[str], folder: Path) -> str:
    return subprocess.run(command, cwd=folder, env=clean_environment(), check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def while_waiting(command: Sequence[str], folder: Path) -> dict[str, float]:
    """Run *command* on a terminal until it waits. Returns its processor time (and that of its supervisor) in seconds per hour, and its calls per second.

    `strace` runs the command a second time, because it slows it down.
    """
    used = in_terminal(command, folder, processor_time)
    if shutil.which("strace") is None:
        return used
    with tempfile.TemporaryDirectory() as name:
        trace = Path(name, "trace")
        in_terminal(["strace", "-ttt", "-e", FILE_CALLS, "-o", str(trace), *command], folder, lambda pid: {})
        times = [float(found[1]) for line in trace.read_text(errors="replace").splitlines() if (found := re.match(r"(\d+\.\d+) \w+\(", line))]
    begin = times[0] + SETTLED
    return {**used, "operations": sum(begin <= each < begin + MEASURED for each in times) / MEASURED}


def in_terminal(command: Sequence[str], folder: Path, read: Callable[[int], dict[str, float]]) -> dict[str, float]:
    """The growth per hour of what *read* returns for the process, while it waits. Then Ctrl-C ends it."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execvpe(command[0], list(command), {**clean_environment(), "TERM": "xterm", "COLUMNS": "120", "LINES": "40"})
    drain(terminal, SETTLED)
    before = read(pid)
    drain(terminal, MEASURED)
    after = read(pid)
    os.write(terminal, b"\x03")
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        drain(terminal, 0.1)
    os.close(terminal)
    return {name: (after[name] - before[name]) / MEASURED * HOUR for name in before}


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
    args = new_parser(__doc__, 1).parse_args()
    with tempfile.TemporaryDirectory(prefix="himl-cost-") as place, recording("cost", args.raw) as record:
        with himl_workspace(Path(place, "azure")) as himl:
            measure_runs(himl, Path(place), args.rounds, record)
        if sys.platform == "linux":
            local = Path(place, "local")
            local.mkdir()
            measure_waiting(local, args.rounds, record)
