"""The place of one case: a workspace of the double of its own, a project, the secrets that are about, and the call that is searched."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from stress.secrets.marks import Marks
from stress.secrets.searching import Search
from stress.secrets.watching import Shown, watching
from stress.world import World
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.processes import MARK, processes_marked, stop
from tests.support.running import Outcome, write_files

TYPED = "typed"
"""Kinds of secrets that the user gives begin so: what he typed he may find where it belongs, in the job's arguments and variables."""
HIML, VENDOR = "HIML_", ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")
PRINCIPAL = ("HIML_TENANT_ID", "HIML_SERVICE_PRINCIPAL_ID", "HIML_SERVICE_PRINCIPAL_PASSWORD")
SECONDS_TO_END, GIT_SECONDS = 20.0, 0.1
SERVICE_TAG = "_aml_system_"
"""Tags that begin so are the service's own: it keeps whole jobs in them."""

Call = Callable[["Lab", Sequence[str]], Outcome]


class Lab:
    """`arguments` are those of the command, `script` those that stand behind `--`; a channel adds to them and to `env`.

    `own` are files in which the user himself keeps secrets, `private` those that himl makes for him.
    `printed` are kinds that stdout holds by design.
    """

    def __init__(self, world: World, staged: StagedWorkspace, marks: Marks) -> None:
        self.world, self.staged, self.marks = world, staged, marks
        self.project = world.folder / "project"
        self.project.mkdir()
        self.token = uuid.uuid4().hex
        self.arguments: list[str] = []
        self.script: list[str] = []
        self.own: set[Path] = set()
        self.private: set[Path] = set()
        self.printed: set[str] = set()
        self.told = world.place / f"told_{self.token[:8]}"
        slow = world.lasting("slow git", slow_git)
        self.env = world.environment(staged) | {MARK: self.token, "TELL": str(self.told), "PATH": f"{slow}{os.pathsep}{os.environ['PATH']}"}
        for name in VENDOR:
            del self.env[name]

    def secret(self, what: str = "") -> str:
        """A new one that is typed."""
        text = f"s3{secrets.token_hex(8)}~{secrets.token_hex(4)}"
        self.marks.add(f"{TYPED} {what}".strip(), text)
        return text

    def write(self, name: str, text: str, *, is_own: bool = False, mode: int = 0o644) -> Path:
        """A file of the project; *is_own*: one in which the user keeps a secret."""
        write_files(self.project, {name: text})
        path = self.project / name
        path.chmod(mode)
        if is_own:
            self.own.add(path)
        return path

    def git(self, *arguments: str) -> None:
        """Run git in the project. Raises CalledProcessError."""
        author = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "init.defaultBranch=main", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *author, *arguments], cwd=self.project, env=self.env, check=True, capture_output=True)

    def himl(self, *arguments: str, env: Mapping[str, str] | None = None) -> Outcome:
        """A call that prepares the case. Raises AssertionError where it fails."""
        outcome = self.world.himl(*arguments, cwd=self.project, env=self.env if env is None else env)
        assert outcome.code == 0, f"himl {arguments[0]}: {outcome.stderr}"
        return outcome

    def run(self, forms: Sequence[str], call: Call | None = None) -> tuple[Outcome, float, Search]:
        """Call the command with *forms* (`--verbose`) and search all that it leaves. Raises subprocess.TimeoutExpired."""
        script = ["--", *self.script] if self.script else []
        words = [*self.arguments, *forms, *script]
        begun = time.monotonic()
        with watching(f"{MARK}={self.token}") as watcher:
            outcome = call(self, words) if call else self.world.himl(*words, cwd=self.project, env=self.env)
            seconds = time.monotonic() - begun
            self._wait_for_the_last()
        if self.told.exists():
            self.marks.add("job token", self.told.read_text())
            self.told.unlink()
        search = Search()
        search.look("stdout", outcome.raw_stdout, self.marks, self.printed)
        search.look("stderr", outcome.raw_stderr, self.marks)
        search.look_at_files(self.world.folder, self.world.home, self.marks, self.own | self.private)
        for path in filter(Path.exists, self.private):
            search.look_at_modes(path, path.parent)
        self._look_at_processes(search, watcher.processes())
        self._look_at_runs(search)
        return outcome, seconds, search

    def close(self) -> None:
        """Nothing runs any more."""
        stop(processes_marked(f"{self.token}", patience=0.0))
        self.told.unlink(missing_ok=True)

    def _wait_for_the_last(self) -> None:
        """Until processes that go on (a supervisor, a recorder) have ended."""
        processes_marked(self.token, patience=SECONDS_TO_END)

    def _look_at_processes(self, search: Search, processes: Sequence[Shown]) -> None:
        """No secret stands among arguments, but the script's own; variables hold no more than the user's own, and what a job is given."""
        typed = {kind for kind in self.marks.kinds if kind.startswith(TYPED)}
        given = b"\0".join(value.encode() for value in self.env.values())
        for shown in processes:
            for arguments in shown.arguments:
                search.look(f"the arguments of {shown.program}", arguments, self.marks, typed if shown.is_job else ())
            more = b"\0".join(value for name, value in shown.variables.items() if self.env.get(name, "").encode() != value)
            search.look(f"the variables of {shown.program}", more, self.marks, {*typed, "job token"} if shown.is_job else self.marks.found(given))
        search.processes = len(processes)

    def _look_at_runs(self, search: Search) -> None:
        """What Azure shows to all of the workspace's users: runs and the code that was sent. Its jobs get what was typed for them."""
        state = self.staged.state
        for run in state.runs.values():
            tags = {name: value for name, value in run.tags.items() if not name.startswith(SERVICE_TAG)}
            shown = {"tags": tags, **{name: getattr(run, name) for name in ("display_name", "description", "properties", "parameters")}}
            for name, value in shown.items():
                search.look(f"the {name} of a run in Azure", repr(value).encode(), self.marks)
            job = repr(run.job)
            search.look("a job's document", job.encode(), self.marks, {kind for kind in self.marks.kinds if kind.startswith(TYPED)})
        for storage in (state.storage, state.second_storage):
            for container in storage.client.list_containers():
                for blob in storage.list(container.name):
                    search.look(f"the blob {blob.name.rpartition('/')[2]}", storage.get(container.name, blob.name), self.marks)


def slow_git(world: World) -> Path:
    """A folder with a `git` that waits before it begins: the real one is over before its arguments can be read in /proc. Raises AssertionError without git."""
    git = shutil.which("git")
    assert git, "there is no git"
    folder = world.place / "slow"
    folder.mkdir()
    (folder / "git").write_text(f'#!/bin/sh\nsleep {GIT_SECONDS}\nexec {shlex.quote(git)} "$@"\n')
    (folder / "git").chmod(0o755)
    return folder
