"""Retries of requests: one policy for the control plane, storage and web addresses."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import field

from himl_cli.core.errors import HimlError
from himl_cli.core.records import dataclass

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RetryPolicy:
    """Limits of the attempts at one request. Times are in seconds.

    There are at most `attempts`, and `connect_attempts` without a connection. None begins later than `total` after the
    first. Pauses double from `first` to `longest`, each shortened by up to half at random. A Retry-After of up to
    `longest_asked` is honoured. A longer one ends the attempts at once. An attempt ends after `read_timeout` without a
    byte (storage has its own limits for that).
    """

    attempts: int = 8
    connect_attempts: int = 3
    first: float = 0.2
    longest: float = 8.0
    longest_asked: float = 60.0
    total: float = math.inf
    read_timeout: float = 60.0


# The most attempts after a response, by service and status. A service of Azure ML that has no line of its own, by the
# first part of its path, has that of the control plane.
_BUSY_OR_FAILED = dict.fromkeys((408, 429, 500, 502, 503, 504), 1_000)
TRANSIENT: Mapping[str, Mapping[int, int]] = {
    "control plane": _BUSY_OR_FAILED,
    "storage": {**_BUSY_OR_FAILED, 509: 1_000},  # and web addresses
    "webhook": {**_BUSY_OR_FAILED, 425: 1_000},
}


def attempts_after(service: str, status: int) -> int:
    """The most attempts at a request that *service* answered with *status*. 0: another one cannot succeed."""
    return TRANSIENT.get(service, TRANSIENT["control plane"]).get(status, 0)


def is_transient(status: int, service: str = "control plane") -> bool:
    """Whether an error status is a failure of *service* that may pass, and does not concern the request."""
    return status >= 500 or attempts_after(service, status) > 0


CONTROL_PLANE = RetryPolicy(attempts=5, first=0.5, total=180.0)


@dataclass()
class Pauses:
    """The pauses of a loop that asks until something has happened, in seconds: from `first` to `longest`, each `growth`
    times the last."""

    first: float
    longest: float
    growth: float = 1.5
    coming: float = 0.0

    def next(self, *, has_changed: bool = False) -> float:
        """The next pause: the first one after a change."""
        pause = min(self.longest, self.first if has_changed or not self.coming else self.coming)
        self.coming = pause * self.growth
        return pause


@dataclass(frozen=True)
class Failure:
    """The failure of an attempt: its error, and the remedies.

    `may_pass`: another attempt may succeed, after `retry_after` seconds if the service named them, with at most
    `max_attempts`. `is_refusal`: a new signature may help, and `again` is the error if a fresh signature is refused.
    `is_unconnected`: there was no connection. `code` is the service's error code, `message` the event without a full
    stop. `was_slow`: the user noticed the attempt.
    """

    error: HimlError
    code: str = ""
    may_pass: bool = False
    is_refusal: bool = False
    retry_after: float | None = None
    max_attempts: int = 1_000
    is_unconnected: bool = False
    message: str = ""
    was_slow: bool = False
    again: HimlError | None = None


@dataclass()
class PauseLog:
    """Warns of pauses that the user notices, once for all requests that pause at the same time."""

    until: float = 0.0

    def add(self, failure: Failure, seconds: float) -> None:
        """Report a pause of *seconds* after *failure*."""
        now = time.monotonic()
        if not failure.message or now < self.until:
            return
        is_noticed = seconds >= 2 or failure.was_slow
        if is_noticed:
            self.until = now + seconds
        after = f" in {seconds:.0f} s" if seconds >= 1 else ""
        log.log(logging.WARNING if is_noticed else logging.DEBUG, "%s; retrying%s", failure.message, after)


@dataclass()
class RetryState:
    """The state of a service, shared by the requests of one transfer, or for one request.

    After one request fails for good, the others stop after two failures, until one succeeds. The limit for attempts
    without a connection applies until the first success.
    """

    policy: RetryPolicy
    pauses: PauseLog = field(default_factory=PauseLog)
    is_given_up: bool = False
    has_worked: bool = False
    started: float = field(default_factory=time.monotonic)

    def pause(self, failures: int, failure: Failure) -> float | None:
        """Seconds until the next attempt after *failures* in a row, or None to stop."""
        import random

        policy, asked = self.policy, failure.retry_after
        most = min(policy.attempts, failure.max_attempts, 2 if self.is_given_up else policy.attempts)
        if failure.is_unconnected and not self.has_worked:
            most = min(most, policy.connect_attempts)
        share = random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        seconds = min(policy.longest, policy.first * 2.0 ** (failures - 1)) * share
        seconds = max(seconds, asked or 0.0)
        is_too_late = time.monotonic() + seconds > self.started + policy.total
        if not failure.may_pass or failures >= most or is_too_late or (asked or 0.0) > policy.longest_asked:
            self.is_given_up = self.is_given_up or failure.may_pass
            return None
        self.pauses.add(failure, seconds)
        return seconds

    def wait(self, failures: int, failure: Failure) -> float:
        """As `pause`, but raises the failure's error instead of returning None."""
        seconds = self.pause(failures, failure)
        if seconds is None:
            raise failure.error
        return seconds
