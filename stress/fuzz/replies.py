"""Replies of Azure ML's services, of which one is replaced by another document, for himl's workspace and for whole
commands.

The others are recorded from the double, whose replies the vendor's clients accept. After a change to himl's requests,
record them in `answers.json` with `python -m stress.fuzz.replies`."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from operator import methodcaller
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import unquote, urlsplit

from hypothesis import strategies as st

from himl_cli.core.errors import HimlError, ServiceFailed
from himl_cli.core.json_text import NotJson, read_json, read_valid_json
from himl_cli.core.redaction import parts_of
from himl_cli.core.runs import RunQuery
from himl_cli.workspaces.azure import config, responses, service_errors
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from stress.faults import CHECKPOINT, CURVES, FILES, Stock
from stress.fuzz.strategies import ADDRESS, Target, documents, drawn, json_texts, texts
from stress.fuzz.typed import LISTING, XML_WORDS
from stress.records import Outcome, Result
from stress.world import Ended, World, judge
from tests.azureml_double.faults import Page
from tests.azureml_double.seeding import StagedWorkspace, add_sweep
from tests.azureml_double.stage import running_stage
from tests.support.azure import connected
from tests.support.running import write_files

ANSWERS = Path(__file__).with_name("answers.json")
RUN, SWEEP = "run_1", "sweep_1"
MOST_REQUESTS = 200  # per example; himl refuses endless lists much earlier
CALLS, LIMIT = 4, 120.0  # calls of each case of a whole command, and seconds per call
CODES = frozenset(range(7))  # another document may mean: not found, not allowed, or invalid
JSON, XML = "application/json", "application/xml"
COMMANDS: Mapping[str, Sequence[str]] = {
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
ASKED: Mapping[str, Callable[[AzureWorkspace], object]] = {
    "runs": lambda workspace: [*workspace.runs(RunQuery(limit=10))],
    "runs_of_experiment": lambda workspace: [*workspace.runs(RunQuery("exp", limit=10))],
    "children": lambda workspace: [*workspace.runs(RunQuery(parent=SWEEP))],
    "tag": lambda workspace: workspace.tag(RUN, {"a": "b"}),
    **{name: methodcaller(name, RUN) for name in ("run", "cancel", "metrics", "values", "parameters")},
    "results": lambda workspace: workspace.results([workspace.run(RUN)], wanted=lambda name: True, whole=True),
    "run_files": lambda workspace: (workspace.run_files(RUN), workspace.artifact_location(RUN)),
    "output_files": lambda workspace: workspace.output_files(RUN, "data"),
    "has_cluster": lambda workspace: workspace.has_cluster("cpu-cluster"),
    **{name: methodcaller(name) for name in ("datastores", "datastore", "describe")},
}


def targets() -> list[Target]:
    return [
        Target(f"replies/{name}", partial(_other_answers, name), partial(_ask, name), (HimlError,)) for name in ASKED
    ]


@cache
def recorded() -> Any:
    """The replies for each of ASKED by request line. All have those about the workspace itself."""
    return json.loads(ANSWERS.read_text(encoding="utf-8"))


def _other_answers(name: str) -> st.SearchStrategy[Any]:
    told = recorded()[name]
    return st.one_of(
        [
            st.tuples(st.just(line), documents([told[line]]).map(lambda document: json.loads(json.dumps(document))))
            for line in sorted(told)
        ]
    )


def _ask(name: str, given: tuple[str, Any]) -> object:
    """The result of a workspace that gets recorded replies, except one. As in himl's own transport, only TLS and
    valid JSON are accepted.
    """
    answers, (place, other), requests = {**recorded()["workspace"], **recorded()[name]}, given, 0

    def send(method: str, url: str, **options: Any) -> responses.Response:
        nonlocal requests
        requests += 1
        assert requests < MOST_REQUESTS, "it asks for ever"
        if parts_of(url).scheme != "https":
            raise ServiceFailed("It asks a place that is none.")
        line = line_of(method, url)
        try:
            if line == place:
                return responses.Response(method, url, 200, {}, read_valid_json(json.dumps(other).encode()))
        except NotJson as err:
            raise ServiceFailed(f"The answer is no JSON: {err}.") from err
        if line not in answers:
            raise service_errors.ServiceNotFound(f"There is nothing at '{urlsplit(url).path}'.")
        return responses.Response(method, url, 200, {}, read_json(json.dumps(answers[line])))

    connection = Connection.open(ADDRESS, settings=config.azure_settings(Path.cwd()))
    connection.request = send  # type: ignore[method-assign]
    return ASKED[name](AzureWorkspace(connection))


def line_of(method: str, url: str) -> str:
    return f"{method} {unquote(urlsplit(url).path)}"


@contextmanager
def recording(staged: StagedWorkspace, folder: Path) -> Iterator[tuple[Connection, dict[str, Any]]]:
    found: dict[str, Any] = {}
    with (
        patch.dict(os.environ, {**staged.environment(), "HIML_NO_CACHE": "1"}),
        connected(staged, folder) as connection,
    ):
        send = connection.request

        def kept(method: str, url: str, **options: Any) -> responses.Response:
            reply = send(method, url, **options)
            found[line_of(method, url)] = reply.body
            return reply

        connection.request = kept  # type: ignore[method-assign]
        yield connection, found


def record_answers() -> None:
    with tempfile.TemporaryDirectory() as place, running_stage(Path(place)) as stage:
        staged = stage.workspace()
        run = staged.add_run(RUN, "exp", tags={"a": "b"})
        staged.add_metric(run, "loss", [1.0, 0.5])
        staged.add_output(run, "data", {"file": b"1"})
        staged.put_artifacts(run, {"outputs/a.txt": b"1"})
        add_sweep(staged, SWEEP, [{"lr": 0.1}, {"lr": 0.2}])
        told: dict[str, dict[str, Any]] = {}
        for name in ("workspace", *ASKED):
            with recording(staged, Path(place)) as (connection, answers), suppress(HimlError):
                connection.record()
                if name != "workspace":
                    ASKED[name](AzureWorkspace(connection))
            told[name] = {line: answer for line, answer in answers.items() if line not in told.get("workspace", {})}
    text, state = json.dumps(told, sort_keys=True, ensure_ascii=False, separators=(",", ":")), staged.state
    for there, here in {
        state.subscription: ADDRESS.subscription_id,
        state.group: ADDRESS.resource_group,
        state.name: ADDRESS.name,
    }.items():
        text = text.replace(there, here)
    ANSWERS.write_text(text + "\n", encoding="utf-8")


def run(command: str, world: World, dice: random.Random) -> Result:
    asked = world.lasting(f"answers to {command}", lambda world: _asked(world, command))
    begun, hits, codes, why = time.monotonic(), 0, list[int](), ""
    for _ in range(CALLS):
        line, kind, document = dice.choice(asked)
        strategy = texts([LISTING], XML_WORDS) if kind == XML else json_texts([document])
        content = drawn(strategy, dice.getrandbits(64)).encode("utf-8", "replace").decode()
        world.stage.clear()
        world.stage.faults.add(Page(content, content_type=kind), line, times=None)
        ended = _call(world, command)
        hits += world.hits()
        world.stage.faults.clear()
        codes += [ended.code] if ended else []
        wrong = _complaint(ended)
        why = why or (f"{wrong}; {line.rpartition('/')[2]} answered with {content[:200]!a}" if wrong else "")
    outcome = (
        Outcome.lost if why else Outcome.not_met if not hits else Outcome.reported if any(codes) else Outcome.survived
    )
    return Result(
        outcome,
        max(codes, default=None),
        time.monotonic() - begun,
        hits,
        why=world.tidy(why),
        facts={"examples": CALLS},
    )


def _complaint(ended: Ended | None) -> str:
    verdict = judge(ended, CODES, [], prints=True)
    if ended is None or verdict.is_lost:
        return verdict.why
    errors = [said for said in ended.stderr.splitlines() if said.startswith("error:")]
    if len(errors) != bool(ended.code) and not (ended.code in (1, 6) and ended.stdout):
        return f"exit code {ended.code} with {len(errors)} lines of an error: {ended.stderr[-200:]!a}"
    odd = {each for each in ended.stderr if not each.isprintable() and each not in "\n\r"}
    return f"signs that are not to be seen: {sorted(odd)[:5]!a}" if odd else ""


def _call(world: World, command: str) -> Ended | None:
    staged = world.lasting("stock", Stock).staged
    world.begin_with(None)
    shutil.rmtree(world.project, ignore_errors=True)
    write_files(world.project, {"train.py": "print(1)\n", "environment.yml": "dependencies: [python=3.11]\n"})
    staged.write_config(world.project)
    return world.call(COMMANDS[command], world.project, world.environment(staged), LIMIT)


def _asked(world: World, command: str) -> Sequence[tuple[str, str, Any]]:
    """The command's requests with known replies: a pattern of request lines, their kind, and the document."""
    known = world.lasting("answers", _known_answers)
    world.stage.clear()
    ended = _call(world, command)
    assert ended is not None, "it hangs without any fault"
    assert ended.code == 0, f"without any fault: {ended}"
    found: dict[str, tuple[str, str, Any]] = {}
    for seen in world.stage.log.all():
        line, is_list = f"{seen.method} {unquote(seen.path)}", "comp=list" in seen.query and "blob" in seen.host
        if is_list or line in known:
            pattern = rf"^{seen.method} [^/]*{re.escape(seen.path)}(\?|$)"
            found[line] = (pattern, XML if is_list else JSON, None if is_list else known[line])
    assert found, f"nothing is known of what '{command}' asks"
    return [found[line] for line in sorted(found)]


def _known_answers(world: World) -> Mapping[str, Any]:
    with recording(world.lasting("stock", Stock).staged, world.folder) as (connection, found):
        workspace = AzureWorkspace(connection)
        for ask in (
            lambda: [*workspace.runs(RunQuery(limit=5))],
            lambda: [(workspace.run(run), [*workspace.run_files(run).list()]) for run in (FILES, CHECKPOINT, *CURVES)],
            lambda: [
                (workspace.metrics(run), workspace.parameters(run), [*workspace.runs(RunQuery(parent=run))])
                for run in (FILES, *CURVES)
            ],
            lambda: workspace.results([workspace.run(run) for run in CURVES], wanted=lambda name: True, whole=True),
            lambda: (
                workspace.datastores(),
                [*workspace.datastore().list()],
                workspace.has_cluster("cpu-cluster"),
                workspace.describe(),
            ),
        ):
            with suppress(HimlError):
                ask()
    return {line: json.loads(json.dumps(body)) for line, body in found.items() if body is not None}


if __name__ == "__main__":
    record_answers()
