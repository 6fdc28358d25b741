"""The contract of an engine (`workspaces.local.engines.base.Engine`). An engine of another package is one of them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from himl_cli.core.engines import engine_address
from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.events import ignore
from himl_cli.core.jobs import DataSpec, EngineSpec, Entry, EntryKind, JobSpec, Snapshot
from himl_cli.core.locks import is_locked
from himl_cli.core.runs import Run, RunStatus, queued_in
from himl_cli.core.sweeps import Draw, SearchRange, SweepSpec
from himl_cli.workspaces.local.engines import engine_named, here, slurm
from himl_cli.workspaces.local.engines.base import ENDED, QUEUED, RUNNING, UNKNOWN, Engine, JobState
from himl_cli.workspaces.local.workspace import LocalWorkspace
from tests.support.processes import processes_below
from tests.support.running import Himl, until, write_files
from tests.support.spreading import STARTS_SLURM
from tests.support.toy_engine import toy_engine

CHECKED: tuple[Engine, ...] = (slurm, toy_engine)
"""mypy compares these modules with the protocol."""
TOY = Path(__file__).parents[1] / "support" / "toy_engine"
SCRIPT = "import sys, time\nprint('begun', flush=True)\ntime.sleep(float(sys.argv[1]))\nsys.exit(int(sys.argv[2]))\n"


@dataclass
class Place:
    """An engine on this machine, and a local workspace for its jobs. *spec* is None for this machine itself, which has
    no queue. *hold* keeps new jobs waiting until it is called with False. After *away*, the engine cannot tell about
    a job that waits or whose supervisor was killed."""

    spec: EngineSpec | None
    workspace: LocalWorkspace
    hold: Callable[[bool], None]
    away: Callable[[], None]

    @property
    def engine(self) -> Engine:
        assert self.spec is not None
        return engine_named(self.spec.name)

    def state(self, run: Run, handle: str | None = None) -> JobState:
        """The state of the run's job by its handle, '' for one that is unknown."""
        states = here.states if self.spec is None else self.engine.states
        return states({run.id: self.handle(run) if handle is None else handle})[run.id]

    def job(self, *arguments: str) -> JobSpec:
        code = self.workspace.folder.parent / "code"
        write_files(code, {"job.py": SCRIPT})
        snapshot = Snapshot(code, ["job.py"], len(SCRIPT))
        return JobSpec("test", Entry(EntryKind.script, "job.py"), snapshot, arguments, sys.executable, engine=self.spec)

    def submit(self, *arguments: str) -> Run:
        return self.workspace.submit(self.job(*arguments), notify=ignore)

    def begun(self, run: Run) -> None:
        until(lambda: self.seen(run).status is RunStatus.running, lambda: f"it starts: {self.seen(run)}")

    def ended(self, run: Run) -> Run:
        until(lambda: self.seen(run).status.is_final, lambda: f"it ends: {self.seen(run)}")
        return self.seen(run)

    def seen(self, run: Run) -> Run:
        """The run, as another process sees it."""
        return LocalWorkspace(self.workspace.folder).run(run.id)

    def handle(self, run: Run) -> str:
        if self.spec is None:
            return str(self.workspace.folder / "runs" / run.id / "lock")
        queued = queued_in(self.workspace.run(run.id).tags)
        assert queued is not None
        assert queued[0] == self.spec.name
        return queued[1]

    def kill(self) -> None:
        for pid in processes_below(self.workspace.folder, "himl_cli.workspaces.local.supervisor"):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(params=["here", pytest.param("slurm", marks=pytest.mark.large(STARTS_SLURM)), "toy"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    workspace = LocalWorkspace(tmp_path / ".himl")
    if request.param == "here":

        def elsewhere() -> None:
            for lock in workspace.folder.glob("runs/*/lock"):
                lock.write_text("node7 another-boot - 5@5")

        yield Place(None, workspace, lambda is_held: None, elsewhere)
        return
    if request.param == "slurm":
        cluster = request.getfixturevalue("slurm")

        def hold(is_held: bool) -> None:
            cluster("scontrol", "update", "PartitionName=gpu", f"State={'DOWN' if is_held else 'UP'}")

        yield Place(
            EngineSpec("slurm", {"partition": "gpu"}), workspace, hold, lambda: monkeypatch.setenv("PATH", "/none")
        )
        monkeypatch.undo()
        hold(False)
        return
    queue = tmp_path / "queue"
    queue.mkdir()
    monkeypatch.setenv("TOY_QUEUE", str(queue))
    monkeypatch.setenv("PYTHONPATH", f"{TOY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".strip(os.pathsep))
    monkeypatch.syspath_prepend(str(TOY))

    def hold_toy(is_held: bool) -> None:
        (queue / "hold").touch() if is_held else (queue / "hold").unlink(missing_ok=True)

    yield Place(EngineSpec("toy", {"place": "a"}), workspace, hold_toy, (queue / "away").touch)
    hold_toy(False)


def test_a_job_runs_and_ends(place: Place) -> None:
    place.hold(True)
    run = place.submit("0.5", "0")
    if place.spec is not None:
        assert place.engine.unavailable() is None
        assert place.state(run).kind == QUEUED
        assert place.state(run, "").handle == place.handle(run), "the name finds a job whose handle is lost"
        assert place.seen(run).status is RunStatus.queued
    place.hold(False)
    place.begun(run)
    assert place.state(run).kind == RUNNING
    assert (place.ended(run).status, place.ended(run).exit_code) == (RunStatus.completed, 0)
    until(lambda: place.state(run).kind == ENDED)
    if place.spec is not None:
        place.engine.cancel({run.id: place.handle(run)})  # no error


def test_a_failure_is_recorded(place: Place) -> None:
    ended = place.ended(place.submit("0", "3"))
    assert (ended.status, ended.reason) == (RunStatus.failed, "exit code 3")


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize("is_waiting", [True, False])
def test_a_job_is_canceled(place: Place, is_waiting: bool) -> None:
    place.hold(is_waiting)
    run = place.submit("600", "0")
    if not is_waiting:
        place.begun(run)
    assert place.workspace.cancel(run.id)
    assert place.ended(run).status is RunStatus.canceled
    until(lambda: place.state(run).kind in (ENDED, UNKNOWN))


def test_silence_is_no_evidence(place: Place) -> None:
    place.hold(True)
    run = place.submit("600", "0")
    handle = place.handle(run)
    if place.spec is None:
        place.kill()
        until(lambda: not is_locked(Path(handle)))
    before = place.workspace.run(run.id).status
    place.away()
    state = place.state(run, handle)
    assert state.kind == UNKNOWN
    assert state.reason
    seen = place.seen(run)
    assert (seen.reason, seen.ended) == (f"unknown: {state.reason}", None)
    assert seen.status is (RunStatus.running if place.spec is None else before)


def test_a_killed_supervisor_is_noticed(place: Place) -> None:
    run = place.submit("600", "0")
    place.begun(run)
    place.kill()
    ended = place.ended(run)
    assert ended.status is RunStatus.failed
    assert ended.reason


def test_trials_of_a_sweep(place: Place) -> None:
    space = {"code": SearchRange(Draw.choice, [0, 3])}
    sweep = SweepSpec(space, max_trials=2, max_failures=2)
    job = replace(place.job("0", "${{search_space.code}}"), sweep=sweep)
    whole = place.ended(place.workspace.submit(job, notify=ignore))
    assert (whole.status, whole.reason) == (RunStatus.failed, "1 of 2 trials failed")
    statuses = [place.workspace.run(f"{whole.id}_{number}").status for number in range(2)]
    assert statuses == [RunStatus.completed, RunStatus.failed]


def test_what_is_refused_leaves_nothing(place: Place) -> None:
    known = {"slurm": {"partition": "none"}, "toy": {"place": "closed"}}
    job = place.job("0", "0")
    if place.spec is None:
        job = replace(job, entry=Entry(EntryKind.command, "python ${{inputs.none}}"), inputs=[DataSpec("none", "none")])
    else:
        job = replace(job, engine=replace(place.spec, options=known[place.spec.name]))
    with pytest.raises((BadUsage, NotFound)):
        place.workspace.submit(job, notify=ignore)
    assert not [*(place.workspace.folder / "runs").glob("*")]


def test_the_job_is_shown_without_secrets(place: Place) -> None:
    if place.spec is not None:  # that of this machine is shown as a document of Azure ML
        text = place.workspace.batch_script(replace(place.job("0", "0"), env={"TOKEN": "very-secret-1"}), ignore)
        assert "job.py" in text
        assert "very-secret-1" not in text


def test_checks_of_doctor_are_sentences(place: Place) -> None:
    for check in place.engine.checks(place.workspace.folder, None) if place.spec is not None else ():
        assert check.name == place.engine.NAME
        assert check.message.endswith(".")


def test_an_engine_of_another_package_has_the_commands(himl: Himl, project: Path, place: Place) -> None:
    if place.spec is None or place.spec.name != "toy":
        assert engine_address("slurm:gpu") == ("slurm", "gpu")
        return
    files = {"job.py": SCRIPT, "himl.toml": "[toy.a]\nnice = 5\n[toy.b]\nnise = 5\n"}
    write_files(project, files)
    run_id = himl.ok("submit", "job.py", "--cluster", "toy:a", "-q", "--wait", "--", "0", "0").stdout.split()[-1]
    shown = himl("runs", "show", run_id).stdout
    assert "Toy" in shown
    (handle,) = (
        each for each in himl("runs", "show", run_id, "--json").json()["tags"].items() if each[0] == "himl.toy_job"
    )
    assert f"hint: Open a shell on its node: toy enter {handle[1]}" in himl("runs", "attach", run_id).stderr
    himl.ok(
        "submit", "job.py", "--cluster", "toy:a", "--crossval", "2", "--max_failures", "1", "--dry_run", "--", "0", "0"
    )
    remark = himl.ok(
        "submit", "job.py", "--cluster", "toy:a", "--docker_image", "x", "--dry_run", "--", "0", "0"
    ).stderr
    assert "Ignored, because the job runs on ToyQueue: --docker_image." in remark
    refused = himl("submit", "job.py", "--cluster", "toy:b", "--", "0", "0")
    assert (refused.code, refused.stderr.splitlines()[-2:]) == (
        2,
        ["error: [toy.b] of the settings has the unknown key 'nise'.", "hint: Did you mean 'nice'?"],
    )
    assert "toy" in himl("doctor").stdout
    nowhere = himl("submit", "job.py", "--cluster", "toy:a", "--sbatch", "mem=1G", "--", "0", "0")
    assert nowhere.stderr.startswith("error: --sbatch applies to Slurm jobs only.")
