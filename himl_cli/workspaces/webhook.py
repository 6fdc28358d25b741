"""Notify a webhook of the end of a run: one POST of a JSON document, or of a message for Slack or Teams.

The address is a secret. Messages, logs and errors of this module contain only its host. The formats are those
of Slack's incoming webhooks (api.slack.com/messaging/webhooks) and of Teams' workflows, which accept a message with an
Adaptive Card (adaptivecards.io, version 1.4).
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from math import isfinite
from threading import Thread
from typing import Any

from himl_cli import __version__
from himl_cli.core.errors import HimlError, ServiceFailed
from himl_cli.core.installation import ca_bundle
from himl_cli.core.logged import SYSTEM, RunResults, SweepView, float_form
from himl_cli.core.redaction import parts_of
from himl_cli.core.runs import STUDIO, Run, RunStatus, own_name, run_form
from himl_cli.core.sweeps import values_text
from himl_cli.core.text import shorten
from himl_cli.core.webhook import Webhook
from himl_cli.workspaces.retry import Failure, RetryPolicy, RetryState

POLICY = RetryPolicy(attempts=3, first=1.0, longest=4.0, longest_asked=10.0, total=30.0, read_timeout=10.0)
# For all attempts together, including those on a name server that hangs or a server that sends a byte now and then
MOST_SECONDS = 45.0
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
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
    try:
        opener, state = _opener(), RetryState(POLICY)
        for attempts in count(1):
            failure = _attempt(opener, webhook, data)
            if failure is None:
                return ""
            pause = state.pause(attempts, failure)
            if pause is None:
                return failure.message + (f" ({attempts} attempts)" if attempts > 1 else "")
            time.sleep(pause)
    except Exception as err:  # noqa: BLE001 - unreadable certificate authorities, for example
        # The texts of errors other than OSError may contain the address
        return str(err).rstrip(".") if isinstance(err, (HimlError, OSError)) else type(err).__name__
    raise AssertionError


def _opener() -> Any:
    """urllib's opener, with the proxies of the environment and without redirections."""
    import ssl
    from urllib.request import HTTPRedirectHandler, HTTPSHandler, build_opener

    class NoRedirects(HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    path = ca_bundle()
    is_folder = os.path.isdir(path)
    context = ssl.create_default_context(cafile=None if is_folder else path, capath=path if is_folder else None)
    return build_opener(NoRedirects, HTTPSHandler(context=context))


def _attempt(opener: Any, webhook: Webhook, data: bytes) -> Failure | None:
    """Send once. Return None on success."""
    from http.client import HTTPException, responses
    from ssl import SSLCertVerificationError
    from urllib.error import HTTPError
    from urllib.request import Request

    headers = {"Content-Type": "application/json", "User-Agent": f"himl/{__version__}"}
    host, may_pass, asked = webhook.host, True, ""
    try:
        request = Request(webhook.url, data, headers, method="POST")  # noqa: S310 - an address of http or https
        with opener.open(request, timeout=POLICY.read_timeout):
            return None
    except HTTPError as err:
        with err:
            asked, may_pass = err.headers.get("Retry-After", ""), err.code in TRANSIENT
            message = f"{host} answered {err.code} {responses.get(err.code, '')}".rstrip()
            if 300 <= err.code < 400:
                target = parts_of(err.headers.get("Location", "")).hostname or "another address"
                message = f"{host} redirects to {target}, which himl does not follow"
    except (OSError, HTTPException, ValueError) as err:
        cause = getattr(err, "reason", err)
        # The texts of errors other than OSError may contain the address
        why = getattr(cause, "strerror", None) or (cause if isinstance(cause, OSError) else type(cause).__name__)
        message = f"{host} cannot be reached: {shorten(str(why))}"
        if isinstance(cause, TimeoutError):
            message = f"{host} did not answer within {POLICY.read_timeout:.0f} s"
        elif isinstance(cause, SSLCertVerificationError):
            message, may_pass = f"the certificate of {host} is not trusted ({cause.verify_message})", False
    after = float(asked) if asked.isdigit() else None
    return Failure(ServiceFailed(message), may_pass=may_pass, retry_after=after, message=message)
