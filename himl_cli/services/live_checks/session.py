"""One call of the live checks: its jobs, findings and requests, in an order that wastes no time on the cluster.

A check is a generator. It submits its jobs before its only `yield`, and looks at their results after it. So all jobs of
all checks wait for nodes together. Everything found so far is in the report at any time, and each job has a tag with
the session and its key. So a later call finds the jobs of an interrupted one, and submits none twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from himl_cli.core.blobs import BlobInfo
from himl_cli.core.errors import BadUsage, HimlError, NotAllowed, NotFound, RunNotFound, ServiceFailed
from himl_cli.core.events import Notice, Notify, ignore
from himl_cli.core.records import dataclass
from himl_cli.core.runs import Run, RunQuery, RunStatus, new_run_id
from himl_cli.core.workspaces import Check, CheckState
from himl_cli.services.live_checks.masking import Mask, request_lines
from himl_cli.services.live_checks.report import CheckRecord, Finding, Report, Verdict
from himl_cli.services.runs.follow import wait_for_end
from himl_cli.services.submission.environment import DEFAULT_IMAGE
from himl_cli.services.submission.prepare import prepare_job
from himl_cli.services.submission.request import SubmitRequest
from himl_cli.workspaces.base import Exchange, ObservedWorkspace

LIVE_EXPERIMENT, TAG = "himl-live", "himl.live"
DELETIONS_AT_ONCE = 8  # deletions
CODE, SCRIPT = "code", "code/probe.py"
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
    """The context of the checks. `folder` has the files of the jobs, with their code in CODE, and `save` stores the
    report. `environment` is the registered environment of the jobs, or None for himl's default image. `seen` are the
    requests of the check that runs, of which the mask has `learned` some, and `new` its findings."""

    workspace: ObservedWorkspace
    cluster: str
    environment: str | None
    report: Report
    is_continued: bool
    folder: Path
    mask: Mask
    save: Callable[[], object]
    notify: Notify
    name: str = ""
    seen: Sequence[Exchange] = ()
    learned: int = 0
    new: list[Check] = field(default_factory=list)

    @property
    def record(self) -> CheckRecord:
        return self.report.checks[self.name]

    @cached_property
    def earlier(self) -> Sequence[tuple[str, str]]:
        """The tags and ids of this session's runs in the workspace, oldest first. The report may lack some of them."""
        runs = self.workspace.runs(RunQuery(experiment=LIVE_EXPERIMENT, archived=None))
        found = [(tag, run.id) for run in runs if (tag := run.tags.get(TAG, "")).startswith(self.report.session)]
        return found[::-1]

    def holds(self, assumption: str, is_so: bool, came: object = "") -> None:
        self._add(assumption, Verdict.held if is_so else Verdict.refuted, str(came))

    def answers(self, assumption: str, answer: Exchange, *statuses: int) -> None:
        """The assumption holds if the status of *answer* is one of *statuses*."""
        self.holds(assumption, answer.status in statuses, answer.refusal or answer.status)

    def completes(self, assumption: str, run: Run) -> None:
        self.holds(assumption, run.status is RunStatus.completed, run.end_text)

    def needs(self, assumption: str, what: str) -> None:
        """Report that *assumption* was not checked, unless an earlier call checked it."""
        known = self.record.findings.get(assumption)
        if known is None or known.verdict is Verdict.unchecked:
            self._add(assumption, Verdict.unchecked, f"needs {what}")

    def _add(self, assumption: str, verdict: Verdict, came: str) -> None:
        self.mask.learn([one.body for one in self.seen[self.learned :]])
        self.learned = len(self.seen)
        finding = self.record.findings[assumption] = Finding(verdict, self.mask(came))
        self.save()
        message = f"{assumption} ({finding.came})" if finding.came else assumption
        self.new.append(Check(self.name, STATES[verdict], message))

    def request(self, method: str, service: str, path: str = "", json: Any = None) -> Exchange:
        return self.workspace.request(method, service, path, json=json)

    def find(self, service: str, ending: str) -> list[Exchange]:
        """The requests of this check to *service* whose path ends with *ending*."""
        return [one for one in self.seen if one.service == service and one.path.endswith(ending)]

    def start(self, key: str, submit: Callable[[], Run]) -> bool:
        """Submit the job *key*, unless it exists, and return whether this call did."""
        if key in self.report.jobs:
            return False
        earlier = dict(self.earlier).get(self.tags(key)[TAG]) if self.is_continued else None
        self.report.jobs[key] = earlier or submit().id
        self.save()
        return earlier is None

    def submit(self, key: str, action: str, **options: Any) -> bool:
        """As `start`, for a job that runs the script with *action*. *options* are those of a request."""
        request = self.options(key, target=SCRIPT, arguments=[action], snapshot_root=CODE, **options)
        return self.start(key, lambda: self.workspace.submit(prepare_job(request).spec, notify=ignore))

    def start_run(self, key: str) -> bool:
        """Start the run *key*, which has no job, unless an earlier call ended it. Return whether this call did."""
        if key in self.report.jobs and self.run(key).status.is_final:
            return False
        new = Run(new_run_id(LIVE_EXPERIMENT), LIVE_EXPERIMENT, display_name=key, tags=self.tags(key))
        self.report.jobs[key] = self.workspace.start_run(new).id
        self.save()
        return True

    def tags(self, key: str) -> dict[str, str]:
        return {TAG: f"{self.report.session}-{key}"}

    def options(self, key: str, **options: Any) -> SubmitRequest:
        """The options of the job *key*."""
        if not {"build_context", "conda_env"} & options.keys():
            options |= {"environment": self.environment} if self.environment else {"docker_image": DEFAULT_IMAGE}
        common: dict[str, Any] = {
            "cluster": self.cluster,
            "experiment": LIVE_EXPERIMENT,
            "tags": self.tags(key),
            "display_name": key,
        }
        return SubmitRequest(cwd=self.folder, max_run_duration="1h", **common, **options)

    def run(self, key: str) -> Run:
        return self.workspace.run(self.report.jobs[key])

    def ended(self, key: str) -> Run:
        """The run of the job *key*, after its end."""
        return wait_for_end(self.workspace, self.report.jobs[key], self.notify)

    def stored(self, key: str, folder: str = "") -> list[BlobInfo]:
        """The files of the run in *folder*, by name."""
        return [blob for page in self.workspace.run_files(self.report.jobs[key]).list(folder) for blob in page]

    def files(self, key: str, folder: str = "") -> list[str]:
        return [blob.name for blob in self.stored(key, folder)]

    def read(self, key: str, name: str) -> str:
        return b"".join(self.workspace.run_files(self.report.jobs[key]).read(name)).decode("utf-8", "replace")


def run_checks(live: LiveSession, checks: Sequence[LiveCheck]) -> Iterator[Check]:
    """Run the checks, and yield each finding: first the part of each that submits its jobs, then the others."""
    waiting: list[tuple[LiveCheck, Iterator[None]]] = []
    for check in checks:
        record = live.report.checks.setdefault(check.name, CheckRecord())
        record.is_complete, record.seconds, record.requests = False, 0.0, {}
        waiting.append((check, check.look(live)))
    for part in ("Submitting the jobs of", "Checking"):
        for check, looking in waiting:
            if not live.report.checks[check.name].is_complete:
                if check.jobs or part == "Checking":
                    live.notify(Notice(f"{part} '{check.name}'."))
                live.name, live.learned, live.new = check.name, 0, []
                yield from _advance(live, looking)


def _advance(live: LiveSession, looking: Iterator[None]) -> Sequence[Check]:
    """Run a check to its `yield` or its end, and return the new findings."""
    record, begun = live.record, time.monotonic()
    try:
        with live.workspace.observed() as live.seen:
            try:
                next(looking)
            except StopIteration:
                record.is_complete = True
                record.findings.pop(ENDS, None)
    except (NotAllowed, ServiceFailed) as err:
        # Another call tries it again after a failure of the service
        record.is_complete = isinstance(err, NotAllowed)
        live.needs(ENDS, f"{'another sign-in' if record.is_complete else 'the service'}: {err}")
    except (HimlError, *_UNREADABLE) as err:
        if live.environment and isinstance(err, BadUsage | NotFound):
            raise  # the user's environment does not exist
        record.is_complete = True
        live.holds(ENDS, False, err if isinstance(err, HimlError) else f"an unexpected response: {err!r}")
    finally:
        record.seconds += time.monotonic() - begun
        for line in request_lines(live.seen, live.mask, live.report.jobs.values()):
            record.requests[line] = record.requests.get(line, 0) + 1
        live.save()
    return live.new


def clean_up(live: LiveSession) -> None:
    """Delete the runs of this session with their files and registered outputs. `report.remains` says what stays."""
    live.notify(Notice("Deleting the runs of these checks."))
    with ThreadPoolExecutor(DELETIONS_AT_ONCE) as pool:
        runs = dict.fromkeys([*live.report.jobs.values(), *(run_id for _, run_id in live.earlier)])
        kept = [*pool.map(partial(_deleted, live), runs)]
    live.report.remains = [
        *filter(None, kept),
        f"the experiment '{LIVE_EXPERIMENT}' with the archived trials and steps",
        "the code of the jobs, their environments and components, which Azure ML does not delete",
        "the files of two environments (1.3 MB) in the folder himl-environments of workspaceblobstore",
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
