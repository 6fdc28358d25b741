"""A plugin of pytest: whatever tests let `himl` do, it is done at `--verbose`, and all that it leaves is searched for the secrets of the double.

    pytest -p stress.secrets.plugin --secrets_report REPORT.json tests/commands

The report tells what leaked, and how much was searched. Tests get what himl would have said without `--verbose`; those that fail all the
same are counted and nothing more. Needs /proc (Linux).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from himl_cli.services.submission.snapshot import PRIVATE_NAMES, is_dotenv_name
from stress.secrets.marks import Marks
from stress.secrets.searching import Search
from stress.secrets.watching import Watcher, watching
from tests.servers.azureml.issued import listening
from tests.support.forked_himl import PROGRAM
from tests.support.running import Himl, Outcome

SAYS_LITTLE = {"-v", "--verbose", "-h", "--help", "--version"}
OWN_SETTINGS = {*PRIVATE_NAMES, "settings.yml"}
WATCHED = "SEARCHED_FOR_SECRETS"
_LOGGED = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (?P<level>[A-Z]+) (?P<name>[\w.]+): ?(?P<text>.*)")
_TRACES = (b"Traceback (most recent call last):", b"The above exception was", b"During handling of the above")
_REPORT = pytest.StashKey["_Report"]()


@dataclass
class _Report:
    """What the tests of this process left."""

    path: Path | None
    search: Search = field(default_factory=Search)
    marks: Marks = field(default_factory=Marks)
    counted: int = 0
    outputs: int = 0
    tests: int = 0
    failed: int = 0
    watcher: Watcher | None = None

    def look_at_output(self, command: str, stdout: bytes, stderr: bytes) -> None:
        self.outputs += 1
        but = {"signature"} if command.startswith("checkpoint url") else ()
        self.search.look(f"stdout of {command}", stdout, self.marks, but)
        self.search.look(f"stderr of {command}", stderr, self.marks)

    def look_at_rest(self, folder: Path | None) -> None:
        """Search the files of one test, and the arguments of the processes that it started; himl's own are the user's."""
        if folder is not None:
            own = [path for path in folder.rglob("*") if path.name.casefold() in OWN_SETTINGS or is_dotenv_name(path.name)]
            self.search.look_at_files(folder, folder / "home", self.marks, set(own))
        assert self.watcher is not None
        processes = self.watcher.take()
        self.search.processes += len(processes)
        for shown in processes:
            for arguments in shown.arguments:
                if os.fsencode(PROGRAM) not in arguments.split(b"\0")[:2]:
                    self.search.look(f"the arguments of {shown.program}", arguments, self.marks)
        self.counted += len(self.marks)

    def document(self) -> dict[str, Any]:
        search = self.search
        figures = {"tests": self.tests, "failed": self.failed, "outputs": self.outputs, "files": search.files, "marks": self.counted}
        return {**figures, "processes": search.processes, "leaks": sorted(set(search.leaks))}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--secrets_report", type=Path, help="where to write what leaked")


@pytest.fixture(scope="session", autouse=True)
def secrets_are_searched(request: pytest.FixtureRequest) -> Iterator[None]:
    """Wrap the calls of `himl` as long as tests run."""
    report = request.config.stash[_REPORT]
    token = os.environ.setdefault(WATCHED, uuid.uuid4().hex)
    called, started = Himl.__call__, Himl.start
    with ExitStack() as stack:
        report.watcher = stack.enter_context(watching(f"{WATCHED}={token}"))
        stack.enter_context(listening(lambda kind, secret: report.marks.add(kind, secret) if len(secret) >= 8 else None))
        stack.callback(setattr, Himl, "__call__", called)
        stack.callback(setattr, Himl, "start", started)
        setattr(Himl, "__call__", _calling(called, report))  # noqa: B010 - a method is put in the place of another
        setattr(Himl, "start", _starting(started, report))  # noqa: B010
        yield


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_REPORT] = _Report(config.getoption("--secrets_report"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    item.config.stash[_REPORT].marks = Marks()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Search before the test's things are taken away."""
    report = item.config.stash[_REPORT]
    before = len(report.search.leaks)
    if report.watcher is not None:
        report.look_at_rest(getattr(item, "funcargs", {}).get("tmp_path"))
        report.search.leaks[before:] = [f"{leak} ({item.name})" for leak in report.search.leaks[before:]]
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    made = cast("pytest.TestReport", (yield))
    counted = item.config.stash[_REPORT]
    counted.tests += made.when == "call"
    counted.failed += made.failed
    return made  # type: ignore[return-value]


def pytest_sessionfinish(session: pytest.Session) -> None:
    report = session.config.stash[_REPORT]
    if report.path is not None:
        report.path.write_text(json.dumps(report.document()), encoding="utf-8")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    document = config.stash[_REPORT].document()
    for leak in document.pop("leaks"):
        terminalreporter.write_line(f"LEAK: {leak}", red=True, bold=True)
    terminalreporter.write_line(f"searched for secrets: {document}")


def _calling(called: Callable[..., Outcome], report: _Report) -> Callable[..., Outcome]:
    def call(himl: Himl, *arguments: str | Path, **options: Any) -> Outcome:
        words = [str(argument) for argument in arguments]
        is_added = bool(words) and not SAYS_LITTLE & set(words)
        if is_added:
            at = words.index("--") if "--" in words else len(words)
            words.insert(at, "--verbose")
        outcome = called(himl, *words, **options)
        report.look_at_output(" ".join(words[:2]), outcome.raw_stdout, outcome.raw_stderr)
        return Outcome(outcome.code, outcome.raw_stdout, without_log(outcome.raw_stderr)) if is_added else outcome

    return call


def _starting(started: Callable[..., subprocess.Popen[bytes]], report: _Report) -> Callable[..., subprocess.Popen[bytes]]:
    """What is started is not made to say more: its test may read that as it comes."""

    def start(himl: Himl, *arguments: str | Path, **options: Any) -> subprocess.Popen[bytes]:
        process = started(himl, *arguments, **options)
        command = " ".join(map(str, arguments[:2]))
        process.stdout = _relayed(cast("BinaryIO", process.stdout), lambda said: report.look_at_output(command, said, b""))
        process.stderr = _relayed(cast("BinaryIO", process.stderr), lambda said: report.look_at_output(command, b"", said))
        return process

    return start


def _relayed(stream: BinaryIO, tell: Callable[[bytes], None]) -> BinaryIO:
    """A stream that gives what *stream* gives, all of which is told at its end."""
    reading, writing = os.pipe()

    def relay() -> None:
        said = bytearray()
        with stream, os.fdopen(writing, "wb", buffering=0) as passed_on:
            is_read = True
            while more := os.read(stream.fileno(), 1 << 16):
                said += more
                if is_read:
                    try:
                        passed_on.write(more)
                    except BrokenPipeError:
                        is_read = False
        tell(bytes(said))

    threading.Thread(target=relay, daemon=True).start()
    return os.fdopen(reading, "rb")


def without_log(said: bytes) -> bytes:
    """What stderr would have held without `--verbose`: himl's warnings in plain words, no other record, no traceback."""
    kept: list[bytes] = []
    part = ""
    for line in said.splitlines(keepends=True):
        found = _LOGGED.match(line)
        if found:
            part = "record"
            if found["level"] == b"WARNING" and found["name"].startswith(b"himl_cli"):
                kept.append(b"himl: " + found["text"].strip() + b"\n")
        elif line.startswith(_TRACES):
            part = "trace"
        elif part == "trace" and not line[:1].isspace():
            part = "end"  # the line that names the exception
        elif not part or not line[:1].isspace():
            part = ""
            kept.append(line)
    return b"".join(kept)
