"""One call of the live checks: its jobs, findings and requests, in an order that wastes no time on the cluster.

A check is a generator. It submits its jobs before its only `yield`, and looks at their results after it. So all jobs of
all checks wait for nodes together. Everything found so far is in the report at any time, and each job has a tag with
the session and its key. So a later call finds the jobs of an interrupted one, and submits none twice.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage, HimlError, NotAllowed, RunNotFound, ServiceFailed
from himl_cli.core.events import Notice, Notify, ignore
from himl_cli.core.jobs import PipelineSpec
from himl_cli.core.records import dataclass
from himl_cli.core.runs import Run, RunEnd, RunQuery, RunStatus, new_run_id
from himl_cli.core.text import did_you_mean
from himl_cli.core.workspaces import Check, CheckState
from himl_cli.services.live_checks.report import CheckRecord, Finding, Mask, Report, Verdict, request_lines
from himl_cli.services.runs.logs import wait_for_end
from himl_cli.services.submission.environment import DEFAULT_IMAGE
from himl_cli.services.submission.prepare import prepare_job
from himl_cli.services.submission.request import SubmitRequest
from himl_cli.workspaces.base import Exchange, ObservedWorkspace

EXPERIMENT, TAG = "himl-live", "himl.live"
AT_ONCE = 8  # deletions
SCRIPT = "probe.py"
STATES = {Verdict.held: CheckState.passed, Verdict.refuted: CheckState.failed, Verdict.unchecked: CheckState.skipped}
_UNREADABLE = (AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError)
ENDS = "himl can complete this check."


@dataclass(frozen=True)
class LiveCheck:
    """A check: its name, the question that it answers, and the keys of its jobs on the cluster."""

    name: str
    asks: str
    look: Callable[[LiveSession], Iterator[None]]
    jobs: Sequence[str] = ()


@dataclass()
class LiveSession:
    """The context of the checks. `folder` has the files of the jobs, and `save` stores the report. `environment` is the
    registered environment of the jobs, or None for himl's default image."""

    workspace: ObservedWorkspace
    cluster: str
    environment: str | None
    report: Report
    folder: Path
    save: Callable[[], object]
    notify: Notify
    is_continued: bool = False
    seen: list[Exchange] = field(default_factory=list)
    new: list[Check] = field(default_factory=list)
    current: LiveCheck | None = None

    @cached_property
    def mask(self) -> Mask:
        return Mask({**self.workspace.identifying_names(), self.cluster: "cluster"})

    @cached_property
    def _earlier(self) -> Mapping[str, str]:
        """The ids of this session's runs in the workspace by their tags, for jobs whose submission was interrupted."""
        runs = self.workspace.runs(RunQuery(experiment=EXPERIMENT, archived=None)) if self.is_continued else ()
        return {run.tags[TAG]: run.id for run in runs if TAG in run.tags}

    def holds(self, assumption: str, is_so: bool, came: object = "") -> None:
        self._find(assumption, Verdict.held if is_so else Verdict.refuted, str(came))

    def needs(self, assumption: str, what: str) -> None:
        """Report that *assumption* was not checked, unless an earlier call checked it."""
        assert self.current is not None
        known = self.report.checks[self.current.name].findings.get(assumption)
        if known is None or known.verdict is Verdict.unchecked:
            self._find(assumption, Verdict.unchecked, f"needs {what}")

    def tried(self, assumption: str, ask: Callable[[], tuple[bool, object]]) -> None:
        """Check an assumption that an error of himl refutes. *ask* returns whether it holds, and what came."""
        try:
            is_so, came = ask()
        except NotAllowed:
            raise
        except HimlError as err:
            is_so, came = False, err
        self.holds(assumption, is_so, came)

    def _find(self, assumption: str, verdict: Verdict, came: str) -> None:
        assert self.current is not None
        for exchange in self.seen:
            self.mask.learn(exchange.body)
        finding = Finding(assumption, verdict, self.mask(came))
        self.report.checks[self.current.name].findings[assumption] = finding
        self.save()
        message = f"{assumption} ({finding.came})" if finding.came else assumption
        self.new.append(Check(self.current.name, STATES[verdict], message))

    def request(self, method: str, service: str, path: str = "", json: Any = None) -> Exchange:
        return self.workspace.request(method, service, path, json=json)

    def find(self, service: str, ending: str) -> list[Exchange]:
        """The requests of this check to *service* whose path ends with *ending*."""
        return [one for one in self.seen if one.service == service and one.path.endswith(ending)]

    def submit(self, key: str, *arguments: str, **options: Any) -> bool:
        """Submit the job *key* with these arguments of the script and options, and return whether this call did."""
        return self._start(key, lambda: self._submitted(key, arguments, options))

    def submit_pipeline(self, key: str, spec: PipelineSpec) -> bool:
        return self._start(key, lambda: self.workspace.submit_pipeline(spec, notify=ignore))

    def record(self, key: str) -> bool:
        """Start the run *key*, which has no job, and return whether this call did."""
        new = Run(new_run_id(EXPERIMENT), EXPERIMENT, display_name=key, tags=self.tags(key))
        return self._start(key, lambda: self.workspace.start_run(new))

    def tags(self, key: str) -> dict[str, str]:
        return {TAG: f"{self.report.session}-{key}"}

    def options(self, key: str, **options: Any) -> SubmitRequest:
        environment = {"environment": self.environment} if self.environment else {"docker_image": DEFAULT_IMAGE}
        if {"build_context", "conda_env"} & options.keys():
            environment = {}
        common = {"cluster": self.cluster, "experiment": EXPERIMENT, "tags": self.tags(key), "display_name": key}
        return SubmitRequest(cwd=self.folder, **{**common, "shm_size": "1g", **environment, **options})

    def _submitted(self, key: str, arguments: Sequence[str], options: Mapping[str, Any]) -> Run:
        request = self.options(key, target=SCRIPT, arguments=arguments, **options)
        return self.workspace.submit(prepare_job(request).spec, notify=ignore)

    def _start(self, key: str, start: Callable[[], Run]) -> bool:
        if key in self.report.jobs:
            return False
        earlier = self._earlier.get(f"{self.report.session}-{key}")
        self.report.jobs[key] = earlier or start().id
        self.save()
        return earlier is None

    def run(self, key: str) -> Run:
        return self.workspace.run(self.report.jobs[key])

    def ended(self, key: str) -> Run:
        """The run of the job *key*, after its end."""
        return wait_for_end(self.workspace, self.report.jobs[key], self.notify)

    def started(self, key: str) -> Run:
        """The run of the job *key*, once it runs or has ended."""
        pause, _ = self.workspace.poll_interval
        while (run := self.run(key)).status is RunStatus.queued:
            time.sleep(pause)
        return run

    def files(self, key: str) -> list[str]:
        """The names of all files of the run."""
        return [blob.name for page in self.workspace.run_files(self.report.jobs[key]).list() for blob in page]

    def read(self, key: str, name: str) -> str:
        return b"".join(self.workspace.run_files(self.report.jobs[key]).read(name)).decode("utf-8", "replace")


def place_of(session: str, workspace: ObservedWorkspace, cluster: str) -> str:
    """A digest of the workspace and the cluster, from which their names cannot be found."""
    names = sorted(name.lower() for name, kind in workspace.identifying_names().items() if kind != "user")
    return hashlib.sha256(repr([session, names, cluster]).encode()).hexdigest()[:16]


def next_report(found: Report | None, names: Sequence[str], workspace: ObservedWorkspace, cluster: str) -> Report:
    """The report that a call continues: *found* if its session has not finished, else that of a new session, which
    keeps the results of other checks if it has *names* only. Raises BadUsage for a report of another place."""
    if found is not None and found.place != place_of(found.session, workspace, cluster):
        raise BadUsage(
            "himl-live.json in this folder is a report on another workspace or cluster.",
            hint="Move the file, or run the command in another folder.",
        )
    if found is not None and not found.is_finished:
        return found
    session = os.urandom(4).hex()
    kept = found.checks if found is not None and names else {}
    return Report(session, place_of(session, workspace, cluster), checks=dict(kept))


def selected(checks: Sequence[LiveCheck], names: Sequence[str], report: Report | None) -> Sequence[LiveCheck]:
    """The checks to run: the named ones, else all that an unfinished *report* does not have. Raises BadUsage for an
    unknown name."""
    known = {check.name: check for check in checks}
    for name in names:
        if name not in known:
            raise BadUsage(f"Unknown check '{name}'.", hint=did_you_mean(name, known) or f"Checks: {', '.join(known)}.")
    if names:
        return [known[name] for name in dict.fromkeys(names)]
    done = {} if report is None or report.is_finished else report.checks
    return [check for check in checks if not (check.name in done and done[check.name].is_complete)]


def run_checks(live: LiveSession, checks: Sequence[LiveCheck]) -> Iterator[Check]:
    """Run the checks, and yield each finding: first the part of each that submits its jobs, then the others."""
    for check in checks:
        record = live.report.checks.setdefault(check.name, CheckRecord())
        if record.is_complete:
            record.is_complete, record.seconds = False, 0.0
            record.requests.clear()
    waiting: list[tuple[LiveCheck, Iterator[None]]] = []
    for check in checks:
        looking = check.look(live)
        yield from _advance(live, check, looking)
        if not live.report.checks[check.name].is_complete:
            waiting.append((check, looking))
    for check, looking in waiting:
        live.notify(Notice(f"Check '{check.name}': {check.asks}"))
        yield from _advance(live, check, looking)


def _advance(live: LiveSession, check: LiveCheck, looking: Iterator[None]) -> Iterator[Check]:
    """Run the check to its `yield` or its end, and yield the new findings."""
    record, begun = live.report.checks[check.name], time.monotonic()
    live.current, live.new = check, []
    try:
        with live.workspace.observed() as live.seen:
            try:
                next(looking)
            except StopIteration:
                record.is_complete = True
                record.findings.pop(ENDS, None)
    except (NotAllowed, ServiceFailed) as err:
        # Others may succeed, and another call tries this one again
        record.is_complete = isinstance(err, NotAllowed)
        live.needs(ENDS, f"another sign-in: {err}" if record.is_complete else f"the service: {err}")
    except (HimlError, *_UNREADABLE) as err:
        record.is_complete = True
        live.holds(ENDS, False, err if isinstance(err, HimlError) else f"an unexpected response: {err!r}")
    finally:
        record.seconds += time.monotonic() - begun
        for line in request_lines(live.seen, live.mask, live.report.jobs.values()):
            record.requests[line] = record.requests.get(line, 0) + 1
        live.save()
    yield from live.new


def clean_up(live: LiveSession) -> None:
    """Delete the runs of this session with their files and registered outputs. `report.remains` says what stays."""
    live.is_continued = True  # an interruption may have left others
    live.__dict__.pop("_earlier", None)
    mine = [run_id for tag, run_id in live._earlier.items() if tag.startswith(live.report.session)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        kept = [*pool.map(partial(_deleted, live), dict.fromkeys([*live.report.jobs.values(), *mine]))]
    live.report.remains = [
        *filter(None, kept),
        f"the experiment '{EXPERIMENT}' with the archived trials and steps",
        "the code of the jobs, their environments and components, which Azure ML does not delete",
    ]
    live.report.is_finished = True
    live.save()


def _deleted(live: LiveSession, run_id: str) -> str:
    """Delete the run, and return what is left of it, or an empty text."""
    workspace = live.workspace
    try:
        run = workspace.run(run_id)
        if not run.status.is_final:
            workspace.cancel(run_id)
            run = wait_for_end(workspace, run_id, ignore)
        is_deleted = workspace.erase(workspace.footprint(run, outputs=True), notify=ignore)
    except RunNotFound:
        return ""
    except HimlError as err:
        return live.mask(f"run '{run_id}': {err}")
    return "" if is_deleted else f"run '{run_id}', archived, because the service does not delete it"


def submit_failing(live: LiveSession) -> None:
    live.submit("fail", "fail", no_mpi_single_node=True)


def end_record(live: LiveSession, key: str) -> None:
    live.workspace.end_run(live.report.jobs[key], RunEnd(RunStatus.completed))
