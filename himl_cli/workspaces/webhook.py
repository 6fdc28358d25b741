"""Notify a webhook of the end of a run: one POST of a JSON document, or of a message for Slack or Teams.

The address is a secret. Messages, logs and errors of this module contain only its host. The formats are those
of Slack's incoming webhooks (api.slack.com/messaging/webhooks) and of Teams' workflows, which accept a message with an
Adaptive Card (adaptivecards.io, version 1.4).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from http import HTTPStatus
from math import isfinite
from threading import Thread
from typing import Any

from himl_cli.core.errors import HimlError, ServiceFailed
from himl_cli.core.logged import SYSTEM, RunResults, SweepView, float_form
from himl_cli.core.redaction import parts_of
from himl_cli.core.runs import STUDIO, Run, RunStatus, own_name, run_form
from himl_cli.core.sweeps import values_text
from himl_cli.core.text import shorten
from himl_cli.core.webhook import Webhook
from himl_cli.workspaces.retry import Failure, RetryPolicy, attempts_after
from himl_cli.workspaces.transfer_engine.curl import CurlPool, CurlResponse
from himl_cli.workspaces.transfer_engine.failures import BAD_CERTIFICATE, TIMED_OUT
from himl_cli.workspaces.transfer_engine.scheduler import Endpoint, Query, Signed, ask

POLICY = RetryPolicy(attempts=3, first=1.0, longest=4.0, longest_asked=10.0, total=30.0, read_timeout=10.0)
# For all attempts together, including those on a name server that hangs or a server that sends a byte now and then
MOST_SECONDS = 45.0
HEADERS, SUCCESS = ("Content-Type: application/json",), tuple(range(200, 300))
OF_RUN = ("id", "experiment", "display_name", "status", "started", "ended", "duration", "exit_code", "reason", "url")
MOST_METRICS, SHOWN_METRICS = 50, 10

Document = dict[str, Any]


def run_document(
    run: Run, host: str, results: RunResults, children: Sequence[Run] = (), sweep: SweepView | None = None
) -> Document:
    """The document about *run*, with the keys of `himl runs show --json`. *host* is the machine that recorded the end
    of the run. `counts` is the number of trials or steps by status."""
    form = run_form(run)
    found: Document = {name: form[name] for name in OF_RUN}
    found |= {"url": run.url or run.tags.get(STUDIO, ""), "host": host}
    numbers = [
        {"name": name, "value": float_form(value), "step": results.steps.get(name)}
        for name, value in sorted(results.last.items())
        if isinstance(value, (int, float)) and not name.startswith(SYSTEM)
    ]
    found["metrics"] = numbers[:MOST_METRICS]
    if children:
        found["counts"] = dict(Counter(child.status.value for child in children))
    if sweep is not None:
        found["primary_metric"] = {"name": sweep.metric, "goal": sweep.goal, "best": sweep.best or None}
        known = [trial.value for trial in sweep.trials if trial.value is not None and isfinite(trial.value)]
        if sweep.is_repeated and known:
            from statistics import fmean, stdev  # imported late, since they take 2 ms of each submission

            spread = stdev(known) if len(known) > 1 else None
            found["primary_metric"] |= {"mean": fmean(known), "std": spread}
        for trial in sweep.trials:
            if trial.run.id == sweep.best:
                best = {"id": trial.run.id, "hyperparameters": dict(trial.hyperparameters)}
                found["best_trial"] = best | {"primary_metric": trial.value and float_form(trial.value)}
    return found


def post(webhook: Webhook, run: Run, document: Document) -> str:
    """Send the notification, with up to two retries of a transient failure. Return the reason of a failure as a
    sentence without a full stop, else an empty text."""
    data = json.dumps(_body(webhook.format, run, document)).encode()
    ends: list[str] = []
    thread = Thread(target=lambda: ends.append(_send(webhook, data)), daemon=True)
    thread.start()
    thread.join(MOST_SECONDS)
    return ends[0] if ends else f"{webhook.host} did not answer within {MOST_SECONDS:.0f} s"


def _body(form: str, run: Run, document: Document) -> Document:
    name = f"{own_name(run)} ({run.id})" if own_name(run) else run.id
    title, facts = f"{name} {run.end_text}", dict(_facts(run, document))
    if form == "slack":
        text = "\n".join([f"*{title}*", *(f"{name}: {value}" for name, value in facts.items())])
        return {"text": text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")}
    if form == "teams":
        colour = {RunStatus.completed: "Good", RunStatus.failed: "Attention"}.get(run.status, "Default")
        heading = {"type": "TextBlock", "text": title, "wrap": True, "weight": "Bolder", "color": colour}
        rows = [{"title": name, "value": value} for name, value in facts.items()]
        card = {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.4",
            "body": [heading, {"type": "FactSet", "facts": rows}],
        }
        kind = "application/vnd.microsoft.card.adaptive"
        return {"type": "message", "attachments": [{"contentType": kind, "contentUrl": None, "content": card}]}
    return document


def _facts(run: Run, document: Document) -> Iterator[tuple[str, str]]:
    """The rows below the title of a message."""
    yield "Experiment", run.experiment
    if document["host"]:
        yield "Host", document["host"]
    if counts := document.get("counts"):
        ended = ", ".join(f"{number} {status}" for status, number in counts.items())
        yield "Trials" if "primary_metric" in document else "Steps", ended
    metric = document.get("primary_metric", {})
    if best := document.get("best_trial"):
        value = _text(best["primary_metric"])
        yield "Best trial", f"{values_text(best['hyperparameters'])}; {metric['name']} {value} ({best['id']})"
    if "mean" in metric:
        yield metric["name"], f"mean {_text(metric['mean'])}, std {_text(metric['std'])}"
    for each in document["metrics"][:SHOWN_METRICS]:
        yield each["name"], _text(each["value"])
    if document["url"]:
        yield "Studio", document["url"]


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _send(webhook: Webhook, data: bytes) -> str:
    endpoint = _Receiver(webhook)
    try:
        request = Query("", endpoint, POLICY, bool, *HEADERS, statuses=SUCCESS, method="POST", content=data)
        with closing(CurlPool(POLICY.read_timeout, POLICY.read_timeout)) as pool:
            ask(request, pool)
    except ServiceFailed as err:
        if endpoint.is_accepted:
            return ""
        return str(err) + (f" ({endpoint.attempts} attempts)" if endpoint.attempts > 1 else "")
    except Exception as err:  # noqa: BLE001 - unreadable certificate authorities, for example
        # The texts of errors other than OSError may contain the address
        return str(err).rstrip(".") if isinstance(err, (HimlError, OSError)) else type(err).__name__
    return ""


class _Receiver(Endpoint):
    """The server of a webhook. Counts the `attempts` that failed."""

    def __init__(self, webhook: Webhook) -> None:
        super().__init__()
        self._url, self.host, self.attempts = webhook.url, webhook.host, 0
        self.is_accepted = False  # the connection broke only after the status of success

    def signed(self, name: str, query: str = "") -> Signed:
        return Signed(self._url, ())

    def renewed(self, name: str, refused: Signed, code: str) -> bool:
        return False

    def failure(self, response: CurlResponse, name: str) -> Failure:
        self.attempts += 1
        status, may_pass, asked = response.status, True, ""
        if response.failure is not None:
            number, text, _ = response.failure
            self.is_accepted = status in SUCCESS
            message, may_pass = f"{self.host} cannot be reached: {shorten(text)}", not self.is_accepted
            if number == TIMED_OUT:
                message = f"{self.host} did not answer within {POLICY.read_timeout:.0f} s"
            elif number == BAD_CERTIFICATE:
                why = re.sub(r"^SSL certificate [^:]*: | \(\d+\)$", "", text)
                message, may_pass = f"the certificate of {self.host} is not trusted ({why})", False
        else:
            asked, may_pass = response.header(b"retry-after"), attempts_after("webhook", status) > 0
            phrase = next((known.phrase for known in HTTPStatus if known == status), "")
            message = f"{self.host} answered {status} {phrase}".rstrip()
            if 300 <= status < 400:
                target = parts_of(response.header(b"location")).hostname or "another address"
                message = f"{self.host} redirects to {target}, which himl does not follow"
        after = float(asked) if asked.isdigit() else None
        return Failure(ServiceFailed(message), may_pass=may_pass, retry_after=after, message=message)
