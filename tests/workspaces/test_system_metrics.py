"""Tests of a job's system metrics: sampled while it runs, continued when it is resumed, and harmless to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from himl_cli.workspaces.local.shim import memory_of_cgroup
from himl_cli.workspaces.local.system_metrics import Machine
from tests.conftest import lacking
from tests.support.running import Himl, until, write_files
from tests.support.terminals import Terminal

SAMPLED_OFTEN = {"MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "0.1"}
NAMES = {"cpu_utilization_percentage", "system_memory_usage_megabytes", "system_memory_usage_percentage"}
NAMES |= {"network_receive_megabytes", "network_transmit_megabytes", "disk_usage_percentage", "disk_usage_megabytes"}
BUSY = """
import pathlib, subprocess, sys
if sys.argv[1:] == ["child"]:
    held = b"x" * 100_000_000
    while not pathlib.Path(PLACE).exists():
        pass
else:
    sys.exit(subprocess.run([sys.executable, __file__, "child"]).returncode or int(pathlib.Path(PLACE).read_text()))
"""
Points = dict[str, list[tuple[int, float]]]


def system_metrics(project: Path) -> Points:
    """Return the system metrics of the newest run: steps and values by name, in order."""
    from himl_cli.core.runs import RunQuery
    from himl_cli.workspaces.local.workspace import LocalWorkspace

    workspace = LocalWorkspace(project / ".himl")
    metrics = [metric for run in workspace.runs(RunQuery(limit=1)) for metric in workspace.metrics(run.id)]
    return {
        metric.name.removeprefix("system/"): [(point.step, point.value) for point in metric.points]
        for metric in metrics
    }


def run_until(
    himl: Himl,
    project: Path,
    enough: Callable[[Points], bool],
    *arguments: str,
    code: int = 0,
    env: Mapping[str, str] | None = None,
) -> Points:
    """Run a job until it has enough samples, then end it with *code*. Return its system metrics."""
    place = project / "over"
    place.unlink(missing_ok=True)
    write_files(project, {"busy.py": BUSY.replace("PLACE", repr(str(place)))})
    himl.ok("submit", "--no_wait", *(arguments or ["busy.py"]), env=SAMPLED_OFTEN | dict(env or {}))
    until(lambda: enough(system_metrics(project)), "samples")
    place.with_suffix(".new").write_text(str(code))
    place.with_suffix(".new").replace(place)
    until(lambda: himl("runs", "show", "latest", "--json").json()["status"] in ("Completed", "Failed"), "the end")
    return system_metrics(project)


@pytest.mark.usefixtures("known_disk")
def test_a_tree_of_processes_is_sampled_and_a_resumed_run_goes_on(himl: Himl, project: Path) -> None:
    def is_enough(found: Points) -> bool:
        return max((value for _, value in found.get("system_memory_usage_megabytes", ())), default=0) > 100

    first = run_until(himl, project, is_enough, code=3)
    assert set(first) == NAMES
    assert max(value for _, value in first["cpu_utilization_percentage"]) > 0
    steps = [step for step, _ in first["cpu_utilization_percentage"]]
    assert steps[0] == 1
    again = run_until(
        himl, project, lambda found: len(found["cpu_utilization_percentage"]) > len(steps) + 1, "--resume", "latest"
    )
    for name in NAMES:
        assert again[name][: len(first[name])] == first[name], "nothing of an earlier attempt is cut"
        assert [step for step, _ in again[name]] == sorted({step for step, _ in again[name]})
    shown = himl.ok("runs", "show").stdout
    assert "\nMachine       CPU " in shown
    assert "system/cpu_utilization_percentage" in shown, "a pipe has them all"
    assert {f"system/{name}" for name in NAMES} == {
        each["name"] for each in himl.ok("runs", "show", "--json").json()["metrics"]
    }
    if sys.platform != "win32":
        terminal = Terminal([str(himl.program), "runs", "show"], cwd=project, env={"NO_COLOR": "1"})
        assert terminal.finish() == 0
        assert "Machine       CPU " in terminal.screen
        assert "system/" not in terminal.screen


@pytest.mark.large("waits for samples")
@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        (["--no_system_metrics"], ""),
        ([], "[submit]\nno_system_metrics = true\n"),
        (["--env_var", "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false"], ""),
        (["--env_var", "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=true"], ""),
        (["--sweep", "x=1", "--no_system_metrics"], ""),
    ],
)
def test_nothing_is_sampled_where_that_was_asked_for(
    himl: Himl, project: Path, arguments: list[str], settings: str
) -> None:
    write_files(project, {"sleep.py": "import time\ntime.sleep(0.6)\n", "himl.toml": settings})
    himl.ok("submit", "sleep.py", *arguments, env=SAMPLED_OFTEN)
    assert system_metrics(project) == {}


def test_what_the_script_logs_itself_is_not_logged_twice(himl: Himl, project: Path) -> None:
    log = """
import json, os, time, urllib.request
body = {"run_id": os.environ["AZUREML_RUN_ID"], "key": "system/cpu_utilization_percentage",
    "value": 777, "timestamp": time.time_ns() // 10**6, "step": 0}
headers = {"Authorization": "Bearer " + os.environ["MLFLOW_TRACKING_TOKEN"], "Content-Type": "application/json"}
url = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/runs/log-metric"
urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)).read()
time.sleep(1)
"""
    write_files(project, {"log.py": log})
    himl.ok("submit", "log.py", env=SAMPLED_OFTEN)
    from himl_cli.workspaces.local.run_store import Database

    database = Database(project / ".himl" / "workspace.db")
    values = [
        row[0]
        for row in database.rows(
            "SELECT value FROM metrics WHERE name = 'system/cpu_utilization_percentage' ORDER BY rowid"
        )
    ]
    database.close()
    assert len(values) - values.index(777) <= 2, "one that was on its way at most"


def test_gpus_are_those_that_a_job_may_see_and_tell_what_they_can(
    nvml: dict[str, str], himl: Himl, project: Path
) -> None:
    first = {
        "utilization_percentage": 10,
        "memory_usage_megabytes": 8000,
        "memory_usage_percentage": 10,
        "power_usage_watts": 100,
        "power_usage_percentage": 25,
    }
    second = {"utilization_percentage": 20, "memory_usage_megabytes": 16000, "memory_usage_percentage": 20}
    third = {"memory_usage_megabytes": 24000, "memory_usage_percentage": 30, "power_usage_watts": 100}
    part = {"memory_usage_megabytes": 32000, "memory_usage_percentage": 40}
    cases = {
        None: [first, second, third],
        "2, 0": [third, first],
        "GPU-2b,MIG-4d44": [second, part],
        "1,-1,0": [second],
        "0,7": [first],
        "": [],
        "GPU-9": [],
    }
    program = "import json, sys\nfrom himl_cli.workspaces.local.gpus import VisibleGpus\n"
    program += "print(json.dumps([VisibleGpus(visible).sample() for visible in json.loads(sys.argv[1])]))"

    def samples(**env: str) -> list[dict[str, float]]:
        done = subprocess.run(
            [sys.executable, "-c", program, json.dumps([*cases])], env=nvml | env, capture_output=True, check=True
        )
        found: list[dict[str, float]] = json.loads(done.stdout)
        return found

    expected = [
        {f"gpu_{number}_{name}": value for number, gpu in enumerate(gpus) for name, value in gpu.items()}
        for gpus in cases.values()
    ]
    assert samples() == expected
    assert samples(NVML_INIT="fails") == [{}] * len(cases)
    found = run_until(
        himl, project, lambda found: "gpu_0_utilization_percentage" in found, env=nvml | {"CUDA_VISIBLE_DEVICES": "1"}
    )
    assert set(found) == NAMES | {f"gpu_0_{name}" for name in second}
    assert "; GPU 0 20% (peak 20%), peak memory 16.0 GB\n" in himl.ok("runs", "show").stdout


def test_a_driver_that_hangs_keeps_no_run_from_its_end(nvml: dict[str, str], himl: Himl, project: Path) -> None:
    write_files(project, {"sleep.py": "import time\ntime.sleep(0.6)\n"})
    himl.ok("submit", "sleep.py", env=SAMPLED_OFTEN | nvml | {"NVML_INIT": "hangs"})
    assert himl("runs", "show", "--json").json()["status"] == "Completed"


def test_failing_part_of_a_sample_does_not_lose_the_others(tmp_path: Path) -> None:
    def parent() -> int:
        raise RuntimeError("no such counter")

    assert "system/disk_usage_percentage" in Machine(tmp_path, {}, parent, 0.0).sample()


V1, V2 = "11:devices:/\n4:memory:/job\n0::/\n", "0::/job\n"
CGROUPS: dict[str, tuple[dict[str, str], dict[str, int]]] = {
    "version 1": (
        {
            "memory/job/memory.oom_control": "under_oom 0\noom_kill 2\n",
            "memory/job/memory.limit_in_bytes": "5",
            "memory/job/memory.max_usage_in_bytes": "4",
        },
        {"oom_kill": 2, "limit": 5, "peak": 4},
    ),
    "version 2": (
        {"job/memory.events": "low 0\noom 1\noom_kill 1\n", "job/memory.max": "max\n", "job/memory.peak": "7\n"},
        {"oom_kill": 1, "peak": 7},
    ),
    "version 2, in a group that its parent limits": (
        {"job/memory.events": "oom_kill 1\n", "job/task/cgroup.procs": ""},
        {"oom_kill": 1},
    ),
    "version 2 in a container, on an old kernel": (
        {"memory.events": "oom_kill 3\n", "memory.max": "9\n"},
        {"oom_kill": 3, "limit": 9},
    ),
    "the top of version 2, without counts": ({}, {}),
    "a kernel without the count": ({"job/memory.events": "low 0\n", "job/memory.max": "9\n"}, {}),
}


@pytest.mark.parametrize("case", CGROUPS)
def test_memory_of_cgroup_is_read_in_both_versions(tmp_path: Path, case: str) -> None:
    files, expected = CGROUPS[case]
    write_files(
        tmp_path,
        {
            "proc/self/cgroup": V1
            if case == "version 1"
            else V2.replace("job", "job/task" if "parent" in case else "job"),
            **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
        },
    )
    assert memory_of_cgroup(str(tmp_path)) == expected


@pytest.mark.large("fills the memory")
def test_script_that_is_killed_for_lack_of_memory_is_said_to_be(started_himl: Himl, project: Path) -> None:
    paths = (
        dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
        if sys.platform == "linux"
        else {}
    )
    version = "memory" if "memory" in paths else ""
    cgroup = Path("/sys/fs/cgroup", version, paths.get(version, "").strip("/"), f"himl_test_{os.getpid()}")
    limits = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes") if version else ("memory.max", "memory.swap.max")
    try:
        cgroup.mkdir()
        for name, size in zip(limits, (150_000_000, 150_000_000 if version else 0), strict=True):
            (cgroup / name).write_text(str(size))
    except OSError as err:
        with suppress(OSError):
            cgroup.rmdir()
        lacking(f"a memory cgroup of its own (as root): {err.strerror}")
    write_files(project, {"train.py": "x = bytearray(400_000_000)\nfor i in range(0, len(x), 4096): x[i] = 1\n"})
    try:
        outcome = started_himl(
            "submit", "train.py", prefix=("sh", "-c", 'echo $$ > "$0" && exec "$@"', str(cgroup / "cgroup.procs"))
        )
    finally:
        until(lambda: not (cgroup / "cgroup.procs").read_text())
        cgroup.rmdir()
    assert outcome.code == 1
    assert (
        "ended by signal 9 (SIGKILL); the kernel killed a process of its cgroup for lack of memory (limit 150 MB"
        in outcome.stderr
    )
