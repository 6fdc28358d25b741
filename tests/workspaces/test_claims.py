"""Tests of the claims of GPUs and slots of a machine, and of `himl submit --gpus` and `--queue`, with a simulated
driver.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage, DiskFailed
from himl_cli.workspaces.local.claims import HOLD, TURN, WAIT, Claim, Need, claims_folder, entries, reasons_to_wait
from tests.support.processes import processes_below
from tests.support.running import Himl, until, write_files
from tests.support.runs import latest
from tests.support.sweeps import children, show
from tests.support.terminals import Terminal
from tests.support.users import BOB, as_user

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="NEEDS locks that processes inherit")
GPUS = ["A", "B", "C", "D"]
# Takes a claim of the folder and the amount in its arguments, then starts a process that inherits it
HOLDER = f"""
import subprocess, sys
from pathlib import Path
from himl_cli.workspaces.local.claims import Claim, Need
claim = Claim(Path(sys.argv[1]), Need(float(sys.argv[2]), {GPUS}))
claim.wait(lambda: False, lambda: print("waits", flush=True))
if sys.argv[3:]:
    child = subprocess.Popen(["sleep", "600"], pass_fds=[claim.handle], stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
print("holds", flush=True)
sys.stdin.read()
"""


class Queue:
    """Claims of runs in different workspaces. Each run waits in a thread."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.claims, self.waiting, self.canceled = (
            folder,
            dict[str, Claim](),
            dict[str, threading.Thread](),
            set[str](),
        )
        self.events = dict[str, queue.SimpleQueue[None]]()

    def submit(self, name: str, amount: float, among: Sequence[str] = GPUS) -> None:
        """Returns once the run has its claim or waits."""
        self.events[name] = queue.SimpleQueue()
        claim = Claim(self.folder / name, Need(amount, among), events=self.events[name])
        is_known = threading.Event()

        def wait() -> None:
            if claim.wait(lambda: name in self.canceled, is_known.set):
                self.claims[name] = claim
            is_known.set()

        self.waiting[name] = threading.Thread(target=wait)
        self.waiting[name].start()
        is_known.wait()

    def end(self, name: str) -> None:
        self.claims.pop(name).release()

    def cancel(self, name: str) -> None:
        self.canceled.add(name)
        self.events[name].put(None)
        self.waiting[name].join()

    def close(self) -> None:
        for name in self.waiting:
            self.cancel(name)
        for name in [*self.claims]:
            self.end(name)

    def names(self) -> dict[str, str]:
        return {name: "".join(claim.names) for name, claim in self.claims.items()}


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Queue]:
    runs = Queue(tmp_path)
    yield runs
    runs.close()
    assert [name for name in os.listdir(claims_folder()) if name != TURN] == []


@pytest.mark.parametrize(
    ("amounts", "expected"),
    [
        ([1, 1, 1, 1], ["A", "B", "C", "D"]),
        ([3, 1], ["ABC", "D"]),
        ([0.5, 0.5, 0.5, 1], ["A", "A", "B", "C"]),
        ([0.7, 0.4, 0.3, 0.6], ["A", "B", "A", "B"]),
        ([1, 0.25, 3], ["A", "B", None]),
        ([4, 0.5], ["ABCD", None]),
        ([3, 2, 1], ["ABC", None, None]),  # the last one would delay the second
    ],
)
def test_what_each_run_gets(runs: Queue, amounts: list[float], expected: list[str | None]) -> None:
    for number, amount in enumerate(amounts):
        runs.submit(f"run_{number}", amount)
    assert [runs.names().get(f"run_{number}") for number in range(len(amounts))] == expected


def test_runs_start_in_the_order_of_submission_in_all_workspaces(runs: Queue) -> None:
    for name, amount in {"one/a": 3, "two/b": 2, "one/c": 1, "two/d": 4}.items():
        runs.submit(name, amount)
    runs.submit("two/e", 1, ["E"])  # no other run waits for it
    folders = {name: runs.folder / name for name in ("one/a", "two/b", "one/c", "two/d", "two/e")}
    waits = {
        "two/b": "waits for 2 GPUs (3 in use)",
        "one/c": "waits for 1 GPU (3 in use), 1 run ahead",
        "two/d": "waits for 4 GPUs (3 in use), 2 runs ahead",
    }
    assert (runs.names(), reasons_to_wait(folders)) == ({"one/a": "ABC", "two/e": "E"}, waits)
    runs.end("one/a")
    until(lambda: len(runs.claims) == 3, "b and c start")
    assert runs.names() == {"two/b": "AB", "one/c": "C", "two/e": "E"}
    runs.cancel("two/d")
    assert reasons_to_wait(folders) == {}


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_release_wakes_only_the_next_runs(runs: Queue) -> None:
    opened, reads = list[str](), list[int]()
    sys.addaudithook(
        lambda event, args: (
            opened.append(str(args[0])) if event == "open" and str(claims_folder()) in str(args[0]) else None
        )
    )

    def count() -> int:
        before = -1
        while before != len(opened):
            before = len(opened)
            time.sleep(0.3)
        return before

    for number in range(33):
        runs.submit(f"run_{number}", 4)
        if number in (16, 32):
            before = count()
            runs.end(*runs.claims)
            until(lambda: runs.claims, "the next run begins")
            reads.append(count() - before)
    assert 0 < reads[1] <= 2.5 * reads[0], reads


def test_a_gpu_that_another_program_uses_is_not_given(tmp_path: Path) -> None:
    used = {"A": "one process on it", "C": "8.0 of 80.0 GB in use"}
    claim = Claim(tmp_path / "run", Need(2, GPUS), lambda name: used.get(name, ""))
    assert claim.wait(lambda: False, lambda: None)
    assert claim.names == ["B", "D"]
    other, told = Claim(tmp_path / "other", Need(1, GPUS), lambda name: used.get(name, "")), list[str]()
    assert not other.wait(lambda: len(told) == 1, lambda: told.append("waits"))
    claim.release()


def start_holder(folder: Path, amount: float, *more: str, prefix: Sequence[str] = ()) -> subprocess.Popen[str]:
    words = [*prefix, sys.executable, "-c", HOLDER, str(folder), str(amount), *more]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def kill(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_claim_lasts_as_long_as_the_last_process_of_its_job(tmp_path: Path) -> None:
    holder = start_holder(tmp_path / "first", 3, "child")
    child = int(said(holder))
    assert said(holder) == "holds"
    waiting = start_holder(tmp_path / "second", 2)
    assert said(waiting) == "waits"
    behind = start_holder(tmp_path / "third", 1)
    assert said(behind) == "waits"
    kill(holder)
    assert [entry.run for entry in entries(HOLD)] == ["first"], "a process of its job still uses the GPUs"
    kill(waiting)  # before its turn: the run behind it moves up
    assert said(behind) == "holds"
    os.kill(child, signal.SIGKILL)
    until(lambda: [entry.run for entry in entries(HOLD)] == ["third"], "the claim of the first run ended")
    kill(behind)
    assert (entries(HOLD), entries(WAIT)) == ([], [])
    assert set(os.listdir(claims_folder())) <= {TURN}, "files without a lock are deleted"


def test_files_that_mean_nothing_and_a_folder_that_is_not_safe(tmp_path: Path, runs: Queue) -> None:
    folder = claims_folder()
    folder.mkdir(mode=0o1777)
    (folder / "hold.unlocked.1").write_text('{"run": "x", "amount": 4, "among": ["A", "B", "C", "D"]}')
    (folder / "hold.link.1").symlink_to("/dev/zero")
    os.mkfifo(folder / "wait.pipe.1")
    (folder / "hold.folder.1").mkdir()
    runs.submit("run", 4)
    assert runs.names() == {"run": "ABCD"}
    for name in ("hold.link.1", "wait.pipe.1"):
        (folder / name).unlink()
    (folder / "hold.folder.1").rmdir()
    runs.end("run")
    folder.chmod(0o777)
    with pytest.raises(BadUsage, match="could delete each other's files"):
        Claim(tmp_path / "run", Need(1, GPUS))
    folder.chmod(0o1777)


@pytest.mark.parametrize("content", ["[" * 50_000, '{"amount": 1' + "0" * 400 + ', "among": ["A"]}', "[]", "x"])
def test_a_held_file_that_is_no_claim_may_be_one(tmp_path: Path, content: str) -> None:
    import fcntl

    claims_folder().mkdir(mode=0o1777, exist_ok=True)
    path = claims_folder() / f"{HOLD}.other.1"
    path.write_text(content)
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        claim = Claim(tmp_path / "run", Need(1, GPUS))
        reasons = list[str]()

        def wait() -> None:
            reasons.append(reasons_to_wait({"run": tmp_path / "run"})["run"])

        assert not claim.wait(lambda: bool(reasons), wait)
    assert f"cannot read '{path}'" in reasons[0]


def test_a_run_whose_file_was_deleted_ends(tmp_path: Path) -> None:
    first, second = Claim(tmp_path / "first", Need(4, GPUS)), Claim(tmp_path / "second", Need(1, GPUS))
    assert first.wait(lambda: False, lambda: None)

    def delete() -> None:
        next(claims_folder().glob(f"{WAIT}.*")).unlink()

    with pytest.raises(DiskFailed, match=r"was deleted\."):
        second.wait(lambda: False, delete)
    first.release()


@pytest.mark.skipif(sys.platform != "linux", reason="NEEDS /proc/locks")
def test_the_claims_of_another_user(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are seen. A file that cannot be read may be a claim. The holder of the lock that all need is named."""
    import fcntl

    claims, bob = shared / "claims", as_user(BOB, shared)
    monkeypatch.setenv("HIML_CLAIMS", str(claims))
    of_root = start_holder(shared / "of_root", 3)
    assert said(of_root) == "holds"
    of_bob = start_holder(shared / "of_bob", 2, prefix=bob)
    assert said(of_bob) == "waits"
    imports = (
        "import sys; from pathlib import Path; from himl_cli.workspaces.local.claims import checks, reasons_to_wait"
    )

    def seen(program: str) -> str:
        words = [*bob, sys.executable, "-c", f"{imports}; print({program})", str(shared / "of_bob")]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    def reason() -> str:
        return seen("reasons_to_wait({'': Path(sys.argv[1])}).get('')")

    def doctor() -> str:
        return seen("*(each.message for each in checks())")

    assert reason() == "waits for 2 GPUs (3 in use)"
    behind = start_holder(shared / "behind", 3)
    assert said(behind) == "waits"
    ticket = next(path for path in claims.glob(f"{WAIT}.*") if path.stat().st_uid == 0)
    ticket.chmod(0o600)
    unseen = f"Cannot read '{ticket}': Permission denied, of root, which may be a run that waits, so later ones"
    assert unseen in doctor()
    kill(behind)
    hidden = next(claims.glob(f"{HOLD}.*"))
    hidden.chmod(0o600)
    assert f"Cannot read '{hidden}': Permission denied, of root, which may be a claim, so no run starts." in doctor()
    assert reason() == f"waits for 2 GPUs (unknown whether others are: cannot read '{hidden}': Permission denied)"
    with (claims / TURN).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kill(of_root)
        hidden.unlink()
        until(lambda: "lock" in reason(), "it has waited for some seconds")
        assert reason() == f"waits for 2 GPUs (process {os.getpid()} of root holds the lock of '{claims / TURN}')"
    assert said(of_bob) == "holds"
    kill(of_bob)


# GPUs, CUDA_VISIBLE_DEVICES of the caller and of the job, the number of GPUs: those that the job may get, the number of
# such jobs at once, and its variable, or the error
DRIVERS: Sequence[tuple[str, str | None, str | None, float, object]] = (
    ("1", None, None, 1, ["0", 1, "0"]),
    ("4", None, None, 2, ["0 1 2 3", 2, "0,1"]),
    ("8", None, None, 3, ["0 1 2 3 4 5 6 7", 2, "0,1,2"]),
    ("8", None, None, 0.5, ["0 1 2 3 4 5 6 7", 16, "0"]),
    ("8", "5,2,GPU-07", None, 1, ["5 2 7", 3, "5"]),
    ("8", "5,2", "1", 1, ["1", 1, "1"]),
    ("4 MIG", None, None, 1, ["0 1 2 MIG-00 MIG-01", 5, "0"]),
    ("4 MIG", "MIG-01", None, 1, ["MIG-01", 1, "MIG-01"]),
    ("4", None, None, 5, "--gpus 5: this machine has 4 GPUs."),
    ("4", "2", None, 2, "--gpus 2: this machine has 1 GPU that CUDA_VISIBLE_DEVICES='2' allows."),
    ("4", "", None, 1, "--gpus 1: this machine has 0 GPUs that CUDA_VISIBLE_DEVICES='' allows."),
)
ALLOWED = """
import json, os, sys
from dataclasses import replace
from pathlib import Path
from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import Entry, EntryKind, JobSpec, Snapshot
from himl_cli.workspaces.local.gpus import Driver, allowed_gpus, jobs_at_once, variables_of
name, found = "CUDA_VISIBLE_DEVICES", []
for gpus, caller, job, need in json.loads(sys.argv[1]):
    os.environ.pop(name, None)
    os.environ |= {"NVML_GPUS": gpus.split()[0]} | ({} if caller is None else {name: caller})
    os.environ.pop("NVML_MIG", None)
    if "MIG" in gpus:
        os.environ["NVML_MIG"] = "1"
    env = {} if job is None else {name: job}
    spec = JobSpec("x", Entry(EntryKind.script, ""), Snapshot(Path(), (), 0), gpus=need, env=env)
    try:
        allowed = allowed_gpus(Driver(), spec, os.environ)
        words = [gpu.uuid if gpu.is_part else str(gpu.number) for gpu in allowed]
        found.append([" ".join(words), jobs_at_once([spec]), variables_of(allowed[:max(1, int(need))])[name]])
    except BadUsage as err:
        found.append(str(err))
print(json.dumps(found))
"""


def test_gpus_that_a_job_may_get(nvml: dict[str, str]) -> None:
    cases = json.dumps([case[:4] for case in DRIVERS])
    done = subprocess.run(
        [sys.executable, "-c", ALLOWED, cases], env=os.environ | nvml, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [case[4] for case in DRIVERS]


SEES = """
import os, pathlib, sys, time
print(os.environ["CUDA_VISIBLE_DEVICES"], os.environ["NVIDIA_VISIBLE_DEVICES"], flush=True)
place = pathlib.Path(PLACE)
if "first" in sys.argv:
    (place / f"try_{os.environ['HIML_TRY']}").touch()
    while not (place / "go").exists():
        time.sleep(0.02)
    sys.exit(os.environ["HIML_TRY"] == "1")
print((place / "try_2").exists())
while "--x" in " ".join(sys.argv) and len(list(place.glob("3,2")) + list(place.glob("1,0"))) < 2:
    (place / os.environ["CUDA_VISIBLE_DEVICES"]).touch()
    time.sleep(0.02)
"""


def test_a_job_sees_its_gpus_in_each_attempt_and_a_sweep_uses_all(
    himl: Himl, project: Path, nvml: dict[str, str]
) -> None:
    write_files(project, {"sees.py": SEES.replace("PLACE", repr(str(project))), "himl.toml": "[submit]\ngpus = 2\n"})
    driver = nvml | {"NVML_GPUS": "4", "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "0.1"}
    (first,) = himl.ok(
        "submit", "sees.py", "--gpus", "1", "--retries", "1", "--no_wait", "-q", "--", "first", env=driver
    ).stdout.split()
    until((project / "try_1").exists, "it runs")
    told = himl.ok("submit", "sees.py", "--gpus", "4", "--no_wait", env=driver).stderr
    second = latest(himl)
    assert f"Run '{second['id']}' waits for 4 GPUs (1 in use)." in told
    assert (second["status"], second["reason"]) == ("Queued", "waits for 4 GPUs (1 in use)")
    watch = Terminal([str(himl.program), "runs", "list", "--watch"], cwd=project, columns=200)
    watch.wait_for("Queued (waits for 4 GPUs (1 in use))")
    doctor = " ".join(himl("doctor", env=driver).stdout.split())
    for text in (
        f"GPU 0 Simulated GPU (GPU-00), claimed by run {first} of ",
        "GPU 3 Simulated GPU (GPU-03), free.",
        f"Run {second['id']} of ",
    ):
        assert text in doctor
    metrics: Callable[[], set[str]] = lambda: {each["name"][:12] for each in show(himl, first)["metrics"]}  # noqa: E731
    until(lambda: "system/gpu_0" in metrics(), "its GPU is sampled")
    assert "system/gpu_1" not in metrics()
    (project / "go").touch()
    assert watch.finish() == 0
    until(lambda: show(himl, second["id"])["status"] == "Completed", "both end")
    assert himl.ok("runs", "logs", second["id"]).stdout.split() == ["0,1,2,3", "GPU-00,GPU-01,GPU-02,GPU-03", "True"]
    assert himl.ok("runs", "logs", first, "--try", "2").stdout.split() == ["0", "GPU-00"]
    assert show(himl, first)["tags"]["himl.gpus"] == "0 (Simulated GPU, GPU-00)"
    himl.ok("submit", "sees.py", "--sweep", "x=1,2,3", env=driver | {"CUDA_VISIBLE_DEVICES": "3,2,1,0"})
    sweep = latest(himl)["id"]
    seen = [himl.ok("runs", "logs", f"{sweep}_{number}").stdout.split()[0] for number in range(3)]
    assert set(seen) == {"3,2", "1,0"}
    shared = himl.ok("submit", "sees.py", "--gpus", "0.5", env=driver)
    assert shared.stdout.startswith("0 ")
    assert "--gpus 0.5: jobs that share a GPU must divide its memory themselves." in shared.stderr
    assert himl.ok("submit", "sees.py", "--gpus", "0").stdout.startswith(" none\n")
    refused = himl("submit", "sees.py", "--gpus", "5", env=driver)
    assert (refused.code, refused.stderr.splitlines()[-2:]) == (
        2,
        ["error: --gpus 5: this machine has 4 GPUs.", "hint: Use --gpus 4 or less."],
    )


PARTS = """
import os, pathlib, sys, time
gpu = os.environ["CUDA_VISIBLE_DEVICES"].split(",")[int(os.environ.get("LOCAL_RANK", 0))]
place = pathlib.Path(os.environ["PLACE"])
place.mkdir(exist_ok=True)
(place / gpu).touch()
while len(os.listdir(place)) < 2:
    time.sleep(0.02)
print(gpu)
"""
"""Waits until another part has the other GPU."""


def test_each_part_claims_gpus_for_itself_and_ranks_divide_them(
    himl: Himl, project: Path, nvml: dict[str, str]
) -> None:
    step = {"type": "PythonScriptStep", "script": "parts.py", "source_directory": "."}
    write_files(
        project, {"parts.py": PARTS, "steps.json": json.dumps({"step1": step, "step2": {**step, "name": "other"}})}
    )
    driver = nvml | {"NVML_GPUS": "2"}

    def gpus(*words: str) -> list[list[str]]:
        """What the logs of all parts have, and their tags."""
        himl.ok("submit", *words, env=driver)
        parts = children(himl, "latest")
        return sorted(
            [*himl.ok("runs", "logs", part["id"]).stdout.split(), part["tags"]["himl.gpus"]] for part in parts
        )

    one, other = (f"{number} (Simulated GPU, GPU-0{number})" for number in range(2))
    for option in ("--crossval", "--different_seeds"):
        found = gpus("parts.py", option, "2", "--gpus", "1", "--env_var", f"PLACE={project / option}")
        assert found == [["0", one], ["1", other]], option
    found = gpus("steps.json", "--gpus", "1", "--env_var", f"PLACE={project / option}")  # one after another
    assert found == [["0", one], ["0", one]]
    himl.ok(
        "submit",
        "parts.py",
        "--gpus",
        "2",
        "--processes_per_node",
        "2",
        "--env_var",
        f"PLACE={project / 'ranks'}",
        env=driver,
    )
    assert sorted(os.listdir(project / "ranks")) == ["0", "1"]
    assert f"\nGPUs          {one}, {other}\n" in himl.ok("runs", "show").stdout


def restart_machine(run: Path, supervisor: int) -> None:
    """Leave the run as a machine does that stopped without a warning, and has started again."""
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: not processes_below(run), "its processes end")
    (lock,) = run.glob("*lock*")
    host, _, *rest = lock.read_text().split()
    lock.write_text(" ".join([host, "an-earlier-start", *rest]))
    os.utime(lock, (1, 1))


def test_a_run_that_waits_can_be_canceled_killed_and_resumed(himl: Himl, started_himl: Himl, project: Path) -> None:
    waits = f"import pathlib, time\nwhile not pathlib.Path({str(project / 'go')!r}).exists():\n    time.sleep(0.02)\n"
    write_files(project, {"train.py": waits, "himl.toml": "[local]\nslots = 2\n"})

    def submit(*words: str) -> str:
        return himl.ok("submit", "train.py", "--queue", "--no_wait", "-q", *words).stdout.strip()

    def supervisor(run: str) -> int:
        return processes_below(project / ".himl" / "runs" / run, "supervisor")[0]

    def state(run: str) -> tuple[str, str]:
        found = show(himl, run)
        return found["status"], found["reason"]

    running = [submit(), submit()]
    canceled, ended, killed, resumed = (submit() for _ in range(4))
    assert [state(run)[0] for run in running] == ["Running"] * 2
    assert [state(run)[1] for run in (canceled, ended)] == [
        "waits for a slot (2 in use)",
        "waits for a slot (2 in use), 1 run ahead",
    ]
    listed = himl.ok("runs", "list", "--status", "queued", "--json").json()
    assert {each["id"]: each["reason"][-12:] for each in listed}[resumed] == "3 runs ahead"
    assert "Waits for     a slot (2 in use)\n" in himl.ok("runs", "show", canceled).stdout
    assert f"Run {resumed} of root waits for a slot" in " ".join(himl("doctor").stdout.split()) or os.getuid()
    himl.ok("runs", "cancel", canceled)
    os.kill(supervisor(ended), signal.SIGTERM)
    os.kill(supervisor(killed), signal.SIGKILL)
    for run in (canceled, ended, killed):
        until(lambda: state(run)[0] != "Queued", "it ended")  # noqa: B023
    assert [state(run)[0] for run in (canceled, ended, killed)] == ["Canceled", "Canceled", "Failed"]
    assert "received SIGTERM" in state(ended)[1]
    until(lambda: "ahead" not in state(resumed)[1], "it is the first")
    restart_machine(project / ".himl" / "runs" / resumed, supervisor(resumed))
    assert state(resumed) == ("Canceled", "the machine restarted while it waited")
    for run in (killed, resumed):
        himl.ok("submit", "--resume", run, "--no_wait")
        assert state(run)[0] == "Queued"
    process = started_himl.start("submit", "train.py", "--queue")
    until(lambda: latest(himl)["reason"].endswith("2 runs ahead"), "it waits")
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert (process.returncode, latest(himl)["status"]) == (130, "Canceled")
    (project / "go").touch()
    for run in (*running, killed, resumed):
        until(lambda: state(run)[0] == "Completed", "it ended")  # noqa: B023
