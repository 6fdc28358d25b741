"""System metrics of a job with the names of MLflow's, which a thread of its supervisor samples.

CPU and memory are those of the job's processes on this node, GPUs those that are visible to it, network and disk those
of the machine. psutil and NVIDIA's bindings are imported for the first sample, which a shorter job does not have.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from himl_cli.core.errors import HimlError
from himl_cli.core.logged import SYSTEM, system_summary
from himl_cli.core.text import with_and
from himl_cli.workspaces.local.metric_store import MetricStore
from himl_cli.workspaces.local.run_store import Database, now_ms
from himl_cli.workspaces.local.shim import children_of

# MLflow's variables. If the user sets the first, himl does not sample. The second is the interval, as in MLflow.
ENABLED = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"
INTERVAL = "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"
SECONDS = 10.0
AGE_A_POINT = 360  # a point covers at least 1/360 of the attempt's time, so that after an hour there are fewer
PAUSE_A_WRITE = 100  # the pause after a write in multiples of its time, since many jobs may share one database
PAUSE_IF_SHARED = 120.0  # between writes on a network file system, where each takes dozens of requests
PATIENCE_SECONDS = 5.0
CLOSE_SECONDS = 2.0
NO_LIMIT = 1 << 60
CPU = SYSTEM + "cpu_utilization_percentage"


@contextmanager
def sampling(run_folder: Path, env: Mapping[str, str], parent: Callable[[], int], since: int) -> Iterator[None]:
    """Sample the descendants of the process *parent* (0: unknown yet) within the context, for a job with the variables
    *env*, unless it logs the same metrics itself, with times from *since* (ms since 1970 UTC). Failures go to the
    supervisor's log, and do not affect the run."""
    stop = threading.Event()
    thread = threading.Thread(target=_sample, args=(run_folder, env, parent, since, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(CLOSE_SECONDS)  # a driver or a disk may hang


def out_of_memory(memory: Mapping[str, int]) -> str:
    """The clause for a job with a process that the kernel killed for lack of memory, from facts of its cgroup."""
    sizes = [f"{name} {memory[name] / 1e6:,.0f} MB" for name in ("limit", "peak") if 0 < memory.get(name, 0) < NO_LIMIT]
    return f"the kernel killed a process of its cgroup for lack of memory{f' ({with_and(sizes)})' if sizes else ''}"


def _sample(
    run_folder: Path, env: Mapping[str, str], parent: Callable[[], int], since: int, stop: threading.Event
) -> None:
    seconds, started, due, written = _interval(env), time.monotonic(), 0.0, 0
    run_id = run_folder.name
    if stop.wait(seconds):
        return
    machine, pending = Machine(run_folder, env, parent, started), list[dict[str, float]]()
    path = run_folder.parents[1] / "workspace.db"
    with closing(Database(path, patience=PATIENCE_SECONDS, is_guarded=False)) as database:
        least = 0.0 if database.is_local else PAUSE_IF_SHARED
        while True:
            if not (is_over := stop.is_set()):
                pending.append(machine.sample())
            now = time.monotonic()
            if pending and (is_over or now >= due):
                with suppress(HimlError, OSError):  # after a failed write, the next one includes the samples
                    statement = "SELECT MAX(step), SUM(time >= ?) FROM metrics WHERE run = ? AND name = ?"
                    last, count = database.rows(statement, (since, run_id, CPU))[0]
                    if (count or 0) > written:
                        return  # the script logs them itself
                    values, step, moment = _condensed(pending), (last or 0) + len(pending), now_ms()
                    MetricStore(database).log(run_id, [(name, value, step, moment) for name, value in values.items()])
                    written += CPU in values
                    pending = []
                due = now + max(least, (now - started) / AGE_A_POINT, (time.monotonic() - now) * PAUSE_A_WRITE)
            if is_over:
                return
            stop.wait(seconds)


def _interval(env: Mapping[str, str]) -> float:
    with suppress(ValueError):
        if 0.1 <= (seconds := float(env.get(INTERVAL, SECONDS))) <= 86400:
            return seconds
    return SECONDS


def _condensed(samples: Sequence[Mapping[str, float]]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for sample in samples:
        for name, value in sample.items():
            values.setdefault(name, []).append(value)
    return {name: round(system_summary(name, range(len(found)), found), 2) for name, found in values.items()}


def descendants_of(pid: int) -> list[int]:
    """The descendants of a process, of which the kernel lists the children of each, if it does. psutil reads all
    processes of the machine."""
    found = children_of(pid)
    for each in found:  # which grows
        found += children_of(each)
    return found


class Machine:
    """Samples of a job: the descendants of the process *parent*, since the monotonic time *started*."""

    def __init__(self, folder: Path, env: Mapping[str, str], parent: Callable[[], int], started: float) -> None:
        import psutil

        from himl_cli.workspaces.local.gpus import VISIBLE, VisibleGpus

        self._psutil = psutil
        self._folder, self._parent = folder, parent
        self._cpu_seconds, self._read = 0.0, started
        self._network: Any = None
        with suppress(Exception):
            self._network = psutil.net_io_counters()
        self._gpus = VisibleGpus(env.get(VISIBLE))

    def sample(self) -> dict[str, float]:
        """The current values by name, without those that cannot be read."""
        found: dict[str, float] = {}
        for sample in (self._of_processes, self._gpus.sample, self._of_network, self._of_disk):
            with suppress(Exception):  # a driver or a system without some counters must not end all samples
                found |= sample()
        return {SYSTEM + name: value for name, value in found.items()}

    def _of_network(self) -> dict[str, float]:
        now, before = self._psutil.net_io_counters(), self._network
        received, sent = (now.bytes_recv - before.bytes_recv) / 1e6, (now.bytes_sent - before.bytes_sent) / 1e6
        return {"network_receive_megabytes": received, "network_transmit_megabytes": sent}

    def _of_disk(self) -> dict[str, float]:
        disk = self._psutil.disk_usage(str(self._folder))
        return {"disk_usage_percentage": disk.percent, "disk_usage_megabytes": disk.used / 1e6}

    def _of_processes(self) -> dict[str, float]:
        """CPU load and memory of the processes. CPU seconds include those of reaped children (proc(5): cutime, cstime),
        so that none are lost between samples, except on Windows and macOS."""
        pid = self._parent()
        if not pid:
            return {}
        seconds, memory = 0.0, 0
        try:
            parent = self._psutil.Process(pid)
            times = parent.cpu_times()
            seconds += times.children_user + times.children_system
            processes = descendants_of(pid) or [each.pid for each in parent.children(recursive=True)]
        except self._psutil.Error:
            return {}
        for each in processes:
            with suppress(self._psutil.Error), (process := self._psutil.Process(each)).oneshot():  # it may have ended
                seconds += sum(process.cpu_times()[:4])  # user, system, and both of its children
                memory += process.memory_info().rss
        before, self._cpu_seconds = self._cpu_seconds, seconds
        last, self._read = self._read, time.monotonic()
        load = 100 * (seconds - before) / (self._read - last) / self._cpus()
        return {
            "cpu_utilization_percentage": min(100.0, max(0.0, load)),
            "system_memory_usage_megabytes": memory / 1e6,
            "system_memory_usage_percentage": min(100.0, 100 * memory / self._psutil.virtual_memory().total),
        }

    def _cpus(self) -> int:
        """The number of processors that the job may use."""
        own = self._psutil.Process()
        return len(own.cpu_affinity()) if hasattr(own, "cpu_affinity") else self._psutil.cpu_count() or 1
