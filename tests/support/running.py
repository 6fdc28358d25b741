"""Running the installed `himl` program in tests, and waiting for what comes about elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.forked_himl import ForkedHiml


@dataclass(frozen=True)
class Outcome:
    """What a finished command left: its streams as bytes and as text, and its exit code."""

    code: int
    raw_stdout: bytes
    raw_stderr: bytes

    @property
    def stdout(self) -> str:
        return self.raw_stdout.decode("utf-8", "backslashreplace").replace("\r\n", "\n")

    @property
    def stderr(self) -> str:
        return self.raw_stderr.decode("utf-8", "backslashreplace").replace("\r\n", "\n")

    def json(self) -> Any:
        """stdout as one strict JSON document: NaN and Infinity are refused."""
        return json.loads(self.raw_stdout, parse_constant=_refuse)

    def error_json(self) -> dict[str, str]:
        """The error object that `--json` leaves on stderr."""
        document = json.loads(self.raw_stderr, parse_constant=_refuse)
        assert set(document) == {"error"}, document
        error: dict[str, str] = document["error"]
        return error


@dataclass(frozen=True)
class Himl:
    """Call it with arguments; `prefix` stands before the program (a mount namespace, `stdbuf`, ...).

    With *forked*, a copy of a process that has the program's imports behind it runs each call, wherever that makes no difference.
    """

    program: Path
    folder: Path
    forked: ForkedHiml | None = None

    def __call__(
        self,
        *arguments: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        input: bytes = b"",
        timeout: float = 120,
        prefix: Sequence[str] = (),
    ) -> Outcome:
        command = [*prefix, str(self.program), *map(str, arguments)]
        folder, variables = cwd or self.folder, os.environ | dict(env or {})
        if self.forked and not prefix and self.forked.can_run(variables):
            done = self.forked.run(command, folder, variables, input, timeout)
        else:
            done = subprocess.run(command, cwd=folder, env=variables, input=input, capture_output=True, timeout=timeout)
        return Outcome(done.returncode, done.stdout, done.stderr)

    def ok(self, *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Outcome:
        """As a call, and it must succeed."""
        outcome = self(*arguments, cwd=cwd, env=env)
        assert outcome.code == 0, f"himl {' '.join(map(ascii, arguments))} exited with {outcome.code}:\n{outcome.stdout}\n{outcome.stderr}"
        return outcome

    def start(self, *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None, new_session: bool = True) -> subprocess.Popen[bytes]:
        """Start it with pipes and leave it running; the test ends it."""
        return subprocess.Popen(
            [str(self.program), *map(str, arguments)],
            cwd=cwd or self.folder,
            env=os.environ | dict(env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=new_session,
        )


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write *files* (`/`-separated names to content) below *folder*."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def _refuse(constant: str) -> float:
    raise ValueError(f"'{constant}' is not JSON")


SECONDS = 60.0
"""More than anything needs on a slow machine, and less than a test has."""


def until(holds: Callable[[], object], what: Callable[[], object] | str = "") -> None:
    """Returns once it holds. Where it never does, raises AssertionError with *what* was waited for, or what there is instead."""
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"it did not come about: {what if isinstance(what, str) else what()}"
        time.sleep(0.02)
