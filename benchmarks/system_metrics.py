"""Measure the processor time that the supervisor needs to sample and store the system metrics of a job, for process
trees of several sizes.

To collect many samples, the benchmark takes them more often than every ten seconds, the interval of a job. It omits the
first one, which imports psutil and searches for GPUs. The processes of the tree sleep."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from benchmarks.measure import clean_environment, new_parser, recording, turns
from himl_cli.core.runs import Run, RunStatus
from himl_cli.workspaces.local.run_store import Database, RunStore, as_time, now_ms

SIZES = (1, 20, 200)
SAMPLES = 50
SCRIPT = """
import os, subprocess, sys, time
from pathlib import Path
from himl_cli.workspaces.local.system_metrics import sampling

folder, count, samples, seconds = Path(sys.argv[1]), *map(int, sys.argv[2:4]), 0.2
tree = [subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"]) for _ in range(count)]
time.sleep(1 + count / 20)
began, spent = time.monotonic(), []
with sampling(folder, {"MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": str(seconds)}, os.getpid, 0):
    for number in range(1, samples + 1):
        time.sleep(max(0.0, began + seconds * (number + 0.5) - time.monotonic()))
        spent.append(time.process_time())
for process in tree:
    process.kill()
    process.wait()
print((spent[-1] - spent[0]) / (samples - 1))
"""


def time_sample(count: int) -> float:
    """Return the processor time of a sample of *count* processes, in seconds."""
    with tempfile.TemporaryDirectory() as name, closing(Database(Path(name, "workspace.db"), create=True)) as database:
        folder = Path(name, "runs", "benchmark")
        folder.mkdir(parents=True)
        RunStore(database).add(Run(folder.name, "benchmark", RunStatus.running, started=as_time(now_ms())))
        command = [sys.executable, "-c", SCRIPT, str(folder), str(count), str(SAMPLES)]
        done = subprocess.run(command, env=clean_environment(), stdout=subprocess.PIPE, check=True)
        found = database.rows(
            "SELECT MAX(step), MAX(value) FROM metrics WHERE name = 'system/system_memory_usage_megabytes'"
        )[0]
        if found[0] is None or found[0] < SAMPLES * 0.8 or found[1] < count:
            sys.exit(f"Expected {SAMPLES} samples of {count} processes, found {found[0]}, with at most {found[1]} MB.")
        return float(done.stdout)


if __name__ == "__main__":
    args = new_parser(__doc__, 3).parse_args()
    with recording("system_metrics", args.raw) as record:
        for number, count in turns(SIZES, args.rounds):
            record.add("a sample", f"{count} process{'es' * (count > 1)}", number, cpu=time_sample(count))
