"""Whole commands, one of whose answers is another document than the service sent: a documented exit code, one line, no traceback."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from stress.faults.judge import Ended, judge
from stress.faults.stock import CHECKPOINT, CURVES, FILES, Stock
from stress.records import Case, Outcome, Result
from stress.world import World
from tests.servers.azureml.faults import Page
from tests.servers.azureml.log import Seen
from tests.support.running import write_files

A_COMMAND, CALLS = 20, 4
"""Cases of each command, and calls of each case."""
LIMIT = 120.0
CODES = frozenset(range(7))
"""All that are documented: another document may say that there is nothing, that nothing is allowed, or nothing that is known."""
JSON, XML = "application/json", "application/xml"
ASKED: Mapping[str, Sequence[str]] = {
    "list": ("runs", "list"),
    "show": ("runs", "show", CURVES[0]),
    "aggregate": ("runs", "aggregate", *CURVES),
    "tag": ("runs", "tag", FILES, "a=b"),
    "download": ("download", FILES, "--include", "*1*"),
    "tb": ("tb", CURVES[0], "--sync_only", "--run_logs_dir", "copies"),
    "checkpoint": ("checkpoint", "fetch", CHECKPOINT),
    "datastore": ("datastore", "list"),
    "submit": ("submit", "train.py", "--cluster", "cpu-cluster", "-q"),
}


def answer_cases() -> list[Case]:
    return [Case(f"fuzz/answers/{command}/{number:02d}", _run(command)) for command in ASKED for number in range(A_COMMAND)]


def _run(command: str) -> Callable[[World, random.Random], Result]:
    def run(world: World, dice: random.Random) -> Result:
        asked = world.lasting(f"answers to {command}", lambda world: _asked(world, command))
        begun, hits, codes, why = time.monotonic(), 0, list[int](), ""
        for _ in range(CALLS):
            line, content, kind = _drawn(asked, dice)
            world.stage.clear()
            world.stage.faults.add(Page(content, content_type=kind), line, times=None)
            ended = _call(world, command)
            hits += sum(len(seen.faults) for seen in world.stage.log.all())
            world.stage.faults.clear()
            codes += [ended.code] if ended else []
            why = why or _complaint(ended, line, content)
        outcome = Outcome.lost if why else Outcome.not_met if not hits else Outcome.reported if any(codes) else Outcome.survived
        return Result(outcome, max(codes, default=None), time.monotonic() - begun, hits, why=world.tidy(why), facts={"examples": CALLS})

    return run


def _complaint(ended: Ended | None, line: str, content: str) -> str:
    verdict = judge(ended, CODES, [], prints_on_failure=True)
    about = f"{line.rpartition('/')[2]} answered with {content[:200]!a}"
    if verdict.outcome is Outcome.lost:
        return f"{verdict.why}; {about}"
    assert ended is not None
    errors = [said for said in ended.stderr.splitlines() if said.startswith("error:")]
    if len(errors) != bool(ended.code) and not (ended.code in (1, 6) and ended.stdout):
        return f"exit code {ended.code} with {len(errors)} lines of an error: {ended.stderr[-200:]!a}; {about}"
    odd = {each for each in ended.stderr if not each.isprintable() and each not in "\n\r"}
    return f"signs that are not to be seen: {sorted(odd)[:5]!a}; {about}" if odd else ""


def _call(world: World, command: str) -> Ended | None:
    """The command with nothing remembered; None where it was ended for its time."""
    stock = world.lasting("stock", Stock)
    project = world.folder / "project"
    shutil.rmtree(world.home, ignore_errors=True)
    shutil.rmtree(project, ignore_errors=True)
    world.home.mkdir()
    write_files(project, {"train.py": "print(1)\n", "environment.yml": "dependencies: [python=3.11]\n"})
    stock.staged.write_config(project)
    try:
        outcome = world.himl(*ASKED[command], cwd=project, env=world.environment(stock.staged), limit=LIMIT)
    except subprocess.TimeoutExpired:
        return None
    return Ended(outcome.code, outcome.stdout, outcome.stderr)


def _asked(world: World, command: str) -> Sequence[tuple[str, str, Any]]:
    """The requests of the command whose answers are known: as a pattern of lines, what kind they are of, and the document."""
    known = world.lasting("answers", _recorded)
    world.stage.clear()
    ended = _call(world, command)
    assert ended is not None, "it hangs without any fault"
    assert ended.code == 0, f"without any fault: {ended}"
    found: dict[str, tuple[str, str, Any]] = {}
    for seen in world.stage.log.all():
        line, is_list = f"{seen.method} {unquote(seen.path)}", "comp=list" in seen.query and "blob" in seen.host
        if is_list or line in known:
            found[line] = (_pattern(seen), XML if is_list else JSON, None if is_list else known[line])
    assert found, f"nothing is known of what '{command}' asks"
    return [found[line] for line in sorted(found)]


def _pattern(seen: Seen) -> str:
    return rf"^{seen.method} [^/]*{re.escape(seen.path)}(\?|$)"


def _drawn(asked: Sequence[tuple[str, str, Any]], dice: random.Random) -> tuple[str, str, str]:
    """The pattern of a request, another answer to it, and its kind."""
    from stress.fuzz.drawing import drawn
    from stress.fuzz.strategies import json_texts, texts
    from stress.fuzz.wire import LISTING, XML_WORDS

    pattern, kind, document = dice.choice(asked)
    strategy = texts([LISTING], XML_WORDS) if kind == XML else json_texts([document])
    return pattern, drawn(strategy, dice.getrandbits(64)).encode("utf-8", "replace").decode(), kind


def _recorded(world: World) -> Mapping[str, Any]:
    """What the services answer to all that reads the workspace, by lines of requests."""
    from himl_cli.core.errors import HimlError
    from himl_cli.core.runs import RunQuery
    from himl_cli.workspaces.azure.responses import Response
    from himl_cli.workspaces.azure.workspace import AzureWorkspace
    from tests.support.azure import connected

    staged = world.lasting("stock", Stock).staged
    found: dict[str, Any] = {}
    with _seeing(staged.environment()), connected(staged, world.folder) as connection:
        send = connection.rest.send

        def kept(method: str, url: str, **options: Any) -> Response:
            reply = send(method, url, **options)
            found[f"{method} {unquote(urlsplit(url).path)}"] = reply.body
            return reply

        connection.rest.send = kept  # type: ignore[method-assign]
        workspace = AzureWorkspace(connection)
        for ask in (
            lambda: [*workspace.runs(RunQuery(limit=5))],
            lambda: [(workspace.run(run), [*workspace.run_files(run).list()]) for run in (FILES, CHECKPOINT, *CURVES)],
            lambda: [(workspace.metrics(run), workspace.parameters(run), [*workspace.runs(RunQuery(parent=run))]) for run in (FILES, *CURVES)],
            lambda: workspace.results([workspace.run(run) for run in CURVES], wanted=lambda name: True, whole=True),
            lambda: (workspace.datastores(), [*workspace.datastore().list()], workspace.has_cluster("cpu-cluster"), workspace.describe()),
        ):
            try:
                ask()
            except HimlError:
                continue
    return {line: json.loads(json.dumps(body)) for line, body in found.items() if body is not None}


@contextmanager
def _seeing(environment: Mapping[str, str]) -> Iterator[None]:
    """This process with the way to the double among its variables."""
    before = dict(os.environ)
    os.environ.update({**environment, "HIML_NO_CACHE": "1"})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
