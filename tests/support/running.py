"""Calls of the installed `himl` program in tests, and waiting for conditions."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main
import typer.testing
from jsonschema import Draft202012Validator

from himl_cli.app import app
from himl_cli.commands.agents import documents
from tests.support import fork_server
from tests.support.parsing import wrong_with

PROGRAM = Path(sys.executable).with_name("himl.exe" if sys.platform == "win32" else "himl")
"""As it is installed."""
READ_AT_START = (*fork_server.READ_AT_START, fork_server.READ_AT_IMPORT, "COLUMNS", "TZ")
"""Variables that begin so are read when a process starts or when modules are imported: the process of the tests
would not heed them.
"""
# himl's commands are built once for all calls
typer.testing._get_command = cache(typer.main.get_command)  # type: ignore[attr-defined]


@cache
def validator(name: str) -> Draft202012Validator:
    """The validator of the documents of `himl NAME --json`, which also rejects fields that are not in the schema."""
    schema = documents()[name]
    for part in schema.get("$defs", {}).values():
        if "properties" in part:
            part["additionalProperties"] = False
    return Draft202012Validator(schema)


@dataclass(frozen=True)
class Outcome:
    """The result of a command: its streams as bytes and as text, and its exit code. `words` are its arguments."""

    code: int
    raw_stdout: bytes
    raw_stderr: bytes
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for hint in re.findall(r"^hint: (.*)", self.stderr, flags=re.MULTILINE):
            assert wrong_with(hint, is_hint=True) == [], self.stderr

    @property
    def stdout(self) -> str:
        return self.raw_stdout.decode("utf-8", "backslashreplace").replace("\r\n", "\n")

    @property
    def stderr(self) -> str:
        return self.raw_stderr.decode("utf-8", "backslashreplace").replace("\r\n", "\n")

    def json(self) -> Any:
        """stdout as one strict JSON document, without NaN and Infinity, validated with the schema from `himl
        schema`.
        """
        document = json.loads(self.raw_stdout, parse_constant=_refuse)
        name = next(name for name in (" ".join(self.words[:2]), self.words[0]) if name in documents())
        validator(name).validate(document)
        return document

    def error_json(self) -> dict[str, str]:
        """The error object of `--json` on stderr."""
        document = json.loads(self.raw_stderr, parse_constant=_refuse)
        validator("error").validate(document)
        error: dict[str, str] = document["error"]
        assert wrong_with(error["hint"], is_hint=True) == [], error
        return error


@dataclass(frozen=True)
class Himl:
    """The program, called with arguments. `prefix` precedes the program (a mount namespace, `stdbuf`, ...).

    *in_process* runs each call in this process by Typer's `CliRunner` if that is equivalent. With *modules*, a fork of
    a process of the program's Python that has imported these runs it. HIML_TEST_START=1 starts the program for each
    call."""

    program: Path
    folder: Path
    in_process: bool = False
    modules: tuple[str, ...] = ()

    def __call__(
        self,
        *arguments: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        input: bytes = b"",
        timeout: float = 120,
        prefix: Sequence[str] = (),
    ) -> Outcome:
        words, folder, variables = list(map(str, arguments)), cwd or self.folder, dict(env or {})
        is_main = threading.current_thread() is threading.main_thread()
        is_special = (
            prefix or os.environ.get("HIML_TEST_START") == "1" or words[:1] == ["--complete"]
        )  # which is no command of the app
        is_special = is_special or any(name.startswith(READ_AT_START) for name in variables)
        if self.in_process and is_main and not is_special:
            return self._invoke(words, folder, variables, input)
        if self.modules and not (prefix or input):
            done = fork_server.run(
                [str(self.program.with_name("python"))],
                [*self.modules],
                [str(self.program), *words],
                folder,
                os.environ | variables,
            )
            return Outcome(done.returncode, done.stdout, done.stderr, tuple(words))
        command = [*prefix, str(self.program), *words]
        done = subprocess.run(
            command, cwd=folder, env=os.environ | variables, input=input, capture_output=True, timeout=timeout
        )
        return Outcome(done.returncode, done.stdout, done.stderr, tuple(words))

    def _invoke(self, words: list[str], folder: Path, variables: dict[str, str], input: bytes) -> Outcome:
        """Run the app with *words*, with its own process state, which is restored afterwards."""
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.resetwarnings()
            warnings.simplefilter("ignore")  # as for users, who see only a DeprecationWarning in their own script
            patch.chdir(folder)
            patch.setattr(sys, "argv", [str(self.program), *words])
            patch.setattr(tempfile, "tempdir", None)
            before = signal.signal(signal.SIGINT, signal.default_int_handler)
            environment, levels, handlers = dict(os.environ), _log_levels(), [*logging.getLogger().handlers]
            try:
                result = typer.testing.CliRunner().invoke(app, words, input=input, env=variables, prog_name="himl")
            finally:
                signal.signal(signal.SIGINT, before)
                logging.getLogger().handlers[:] = handlers
                for logger, level in _log_levels().items():
                    if level != levels.get(logger, logging.NOTSET):  # each setting empties the caches of all loggers
                        logger.setLevel(levels.get(logger, logging.NOTSET))
                if dict(os.environ) != environment:
                    os.environ.clear()
                    os.environ.update(environment)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code & 0xFF, result.stdout_bytes, result.stderr_bytes, tuple(words))

    def ok(self, *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Outcome:
        """Call the program, which must succeed."""
        outcome = self(*arguments, cwd=cwd, env=env)
        assert outcome.code == 0, (
            f"himl {' '.join(map(ascii, arguments))} exited with {outcome.code}:\n{outcome.stdout}\n{outcome.stderr}"
        )
        return outcome

    def start(
        self,
        *arguments: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        new_session: bool = True,
    ) -> subprocess.Popen[bytes]:
        """Start the program with pipes, and leave it running. The test ends it."""
        return subprocess.Popen(
            [str(self.program), *map(str, arguments)],
            cwd=cwd or self.folder,
            env=os.environ | dict(env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=new_session,
        )

    def interrupted(self, function: str, returns: int, *arguments: str) -> Outcome:
        """Call the program in a process that gets a Ctrl-C when *function* returns or yields for the *returns*th
        time."""
        script = f"""
import signal, sys
from himl_cli.__main__ import main
seen = []
def look(frame, event, value):
    if event == "return" and frame.f_code.co_name == {function!r}:
        seen.append(value)
        if len(seen) == {returns}:
            sys.setprofile(None)
            signal.raise_signal(signal.SIGINT)
sys.setprofile(look)
main()
"""
        command = [sys.executable, "-c", script, *arguments]
        done = subprocess.run(command, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True)
        return Outcome(done.returncode, done.stdout, done.stderr, arguments)


def _log_levels() -> dict[logging.Logger, int]:
    named = [logger for logger in logging.Logger.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    return {logger: logger.level for logger in (logging.getLogger(), *named)}


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


def until(holds: Callable[[], object], what: Callable[[], object] | str = "", *, seconds: float = SECONDS) -> None:
    """Wait until the condition holds. If it does not within *seconds*, raise AssertionError with *what*.

    The pauses are longer than the looks, so that what is waited for has the processor most of the time.
    """
    deadline = time.monotonic() + seconds
    while True:
        begun = time.monotonic()
        if holds():
            return
        now = time.monotonic()
        assert now < deadline, f"it did not come about: {what if isinstance(what, str) else what()}"
        time.sleep(max(0.02, 3 * (now - begun)))
