"""What a job takes of its machine, sampled by its supervisor in a thread, under the names of MLflow's system metrics.

CPU and memory are those of the job's own processes on this node, GPUs are those that it may see, network and disk are
the machine's. psutil and NVIDIA's bindings are imported when the first sample is due: a shorter job has none.
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
from himl_cli.workspaces.local.metric_store import MetricStore
from himl_cli.workspaces.local.run_store import Database, now_ms

# MLflow's variables: where the first is set, its user has decided; the second counts here as there
ENABLED = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"
INTERVAL = "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"
SECONDS = 10.0
AGE_A_POINT = 360  # a point stands for a 360th of the attempt's time at least: after an hour they become fewer
PAUSE_A_WRITE = 100  # times what a write took, until the next: many jobs at once wait for one database
PATIENCE_SECONDS = 5.0
CLOSE_SECONDS = 2.0
CPU = SYSTEM + "cpu_utilization_percentage"


@contextmanager
def sampling(run_folder: Path, env: Mapping[str, str], parent: Callable[[], int]) -> Iterator[None]:
    """Sample within the context what the processes below the one that *parent* gives (0: not known yet) take, those of
    a job with the variables *env*. What fails is said in the supervisor's log, and harms no run."""
    stop = threading.Event()
    thread = threading.Thread(target=_sample, args=(run_folder, env, parent, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(CLOSE_SECONDS)  # a driver or a disk may hang


def _sample(run_folder: Path, env: Mapping[str, str], parent: Callable[[], int], stop: threading.Event) -> None:
    seconds, started, due, written = _interval(env), time.monotonic(), 0.0, 0
    since, run_id = now_ms(), run_folder.name
    if stop.wait(seconds):
        return
    machine, pending = Machine(run_folder, env, parent, started), list[dict[str, float]]()
    with closing(Database(run_folder.parents[1] / "workspace.db", patience=PATIENCE_SECONDS)) as database:
        while True:
            if not (is_over := stop.is_set()):
                pending.append(machine.sample())
            now = time.monotonic()
            if pending and (is_over or now >= due):
                with suppress(HimlError, OSError):  # what could not be written goes with the next
                    statement = "SELECT MAX(step), SUM(time >= ?) FROM metrics WHERE run = ? AND name = ?"
                    last, count = database.rows(statement, (since, run_id, CPU))[0]
                    if (count or 0) > written:
                        return  # the script logs them itself
                    values, step, moment = _condensed(pending), (last or 0) + len(pending), now_ms()
                    MetricStore(database).log(run_id, [(name, value, step, moment) for name, value in values.items()])
                    written += CPU in values
                    pending = []
                due = now + max((now - started) / AGE_A_POINT, (time.monotonic() - now) * PAUSE_A_WRITE)
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


class Machine:
    """Reads what a job takes: the processes below the one that *parent* gives, since the monotonic time *started*."""

    def __init__(self, folder: Path, env: Mapping[str, str], parent: Callable[[], int], started: float) -> None:
        import psutil

        self._psutil = psutil
        self._folder, self._parent = folder, parent
        self._cpu_seconds, self._read = 0.0, started
        self._network = psutil.net_io_counters()
        self._gpus = Gpus(env.get("CUDA_VISIBLE_DEVICES"))

    def sample(self) -> dict[str, float]:
        """The values of now by their names; what cannot be read is left out."""
        found = self._of_processes() | self._gpus.sample()
        if self._network is not None and (network := self._psutil.net_io_counters()) is not None:
            found["network_receive_megabytes"] = (network.bytes_recv - self._network.bytes_recv) / 1e6
            found["network_transmit_megabytes"] = (network.bytes_sent - self._network.bytes_sent) / 1e6
        with suppress(OSError):
            disk = self._psutil.disk_usage(str(self._folder))
            found["disk_usage_percentage"], found["disk_usage_megabytes"] = disk.percent, disk.used / 1e6
        return {SYSTEM + name: value for name, value in found.items()}

    def _of_processes(self) -> dict[str, float]:
        """Seconds of CPU include those of children that have ended and were waited for (proc(5): cutime, cstime), so
        that none is lost in between, but on Windows and macOS."""
        pid = self._parent()
        if not pid:
            return {}
        seconds, memory = 0.0, 0
        try:
            parent = self._psutil.Process(pid)
            times = parent.cpu_times()
            seconds += times.children_user + times.children_system
            processes = parent.children(recursive=True)
        except self._psutil.Error:
            return {}
        for process in processes:
            with suppress(self._psutil.Error), process.oneshot():  # it ended meanwhile
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
        """How many processors the job may use."""
        own = self._psutil.Process()
        return len(own.cpu_affinity()) if hasattr(own, "cpu_affinity") else self._psutil.cpu_count() or 1


class Gpus:
    """The GPUs that *visible*, the value of CUDA_VISIBLE_DEVICES, lets a job see, in its order; None: all. Without a
    driver there are none."""

    def __init__(self, visible: str | None) -> None:
        import pynvml

        self._nvml = pynvml
        self._handles: list[Any] = []
        with suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            count = pynvml.nvmlDeviceGetCount()
            for word in map(str, range(count)) if visible is None else visible.split(","):
                self._handles.append(self._handle(word.strip(), count))

    def _handle(self, word: str, count: int) -> Any:
        """The device called *word*: a number, or an id, of which the beginning is enough. Raises NVMLError where there
        is none: CUDA passes over that one and all behind it."""
        if word.isdecimal():
            return self._nvml.nvmlDeviceGetHandleByIndex(int(word))
        for index in range(count if word.startswith("GPU-") else 0):
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            if self._nvml.nvmlDeviceGetUUID(handle).startswith(word):
                return handle
        return self._nvml.nvmlDeviceGetHandleByUUID(word)

    def sample(self) -> dict[str, float]:
        """Of each GPU what it tells; a part of one (MIG) tells its memory alone."""
        found: dict[str, float] = {}
        unknown = (self._nvml.NVMLError, ZeroDivisionError)
        for number, handle in enumerate(self._handles):
            name = f"gpu_{number}_"
            with suppress(*unknown):
                found[name + "utilization_percentage"] = self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu
            with suppress(*unknown):
                memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
                found[name + "memory_usage_megabytes"] = memory.used / 1e6
                found[name + "memory_usage_percentage"] = 100 * memory.used / memory.total
            with suppress(*unknown):
                power = self._nvml.nvmlDeviceGetPowerUsage(handle)
                found[name + "power_usage_watts"] = power / 1000
                found[name + "power_usage_percentage"] = (
                    100 * power / self._nvml.nvmlDeviceGetEnforcedPowerLimit(handle)
                )
        return found
