"""How often and how long a request to storage is tried again."""

from __future__ import annotations

import logging
import random
import time
from dataclasses import dataclass

from himl_cli.core.errors import HimlError

log = logging.getLogger(__name__)

UNCONNECTED_TRIES = 3
WORTH_SAYING = 2.0  # seconds


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a request did not do what it should: the error it comes to, and what may help.

    `may_pass`: it may work when tried again, `most_tries` times at most, after `retry_after` seconds where the service
    said so. `is_refusal`: a new signature may help. `is_unconnected`: no connection came about. `code` is the service's
    word, `said` what happened, as a sentence's beginning. `took_long`: the try itself was felt. `again` is the error
    where a signature made just now is refused, too.
    """

    error: HimlError
    code: str = ""
    may_pass: bool = False
    is_refusal: bool = False
    retry_after: float | None = None
    most_tries: int = 1_000
    is_unconnected: bool = False
    said: str = ""
    took_long: bool = False
    again: HimlError | None = None


@dataclass(frozen=True, slots=True)
class Retries:
    """A request is made `tries` times at most; waits double from `first` to `longest` seconds, each shortened by up to
    half at random.

    With the defaults the waits come to some 20 s; beside them, each try may take up to 10 s to connect and 30 s without
    progress. A Retry-After counts up to `longest_asked` seconds; where the service asks for more, that ends the tries
    at once. Bytes that arrived are not asked for again, and begin the count anew.
    """

    tries: int = 8
    first: float = 0.2
    longest: float = 8.0
    longest_asked: float = 60.0

    def wait(self, failures: int, asked: float | None) -> float:
        """Seconds to wait after so many failures in a row."""
        own = min(self.longest, self.first * 2.0 ** (failures - 1)) * (1 - random.random() / 2)
        return own if asked is None else max(own, asked)


@dataclass(slots=True)
class Pauses:
    """Says pauses that are felt, one for all requests of a store that make it."""

    until: float = 0.0

    def say(self, fault: Fault, seconds: float) -> None:
        """A request that came to *fault* waits so many seconds."""
        now = time.monotonic()
        if not fault.said or now < self.until or (seconds < WORTH_SAYING and not fault.took_long):
            return
        self.until = now + seconds
        log.warning("%s; trying again%s", fault.said, f" in {seconds:.0f} s" if seconds >= 1 else "")


@dataclass(slots=True)
class Health:
    """What the last requests say of the service, shared by all requests of one transfer.

    Once a request was given up, the others are not tried to the end each: they stop after two failures until one works.
    Where no connection at all came about yet, three tries are enough.
    """

    retries: Retries
    pauses: Pauses
    is_given_up: bool = False
    has_worked: bool = False

    def worked(self) -> None:
        """A request did what it should."""
        self.is_given_up = False
        self.has_worked = True

    def wait(self, failures: int, fault: Fault) -> float:
        """Seconds to wait before trying again. Raises the fault's error when it was tried enough."""
        most = min(self.retries.tries, fault.most_tries)
        if self.is_given_up:
            most = min(most, 2)
        if fault.is_unconnected and not self.has_worked:
            most = min(most, UNCONNECTED_TRIES)
        asks_too_much = fault.retry_after is not None and fault.retry_after > self.retries.longest_asked
        if not fault.may_pass or failures >= most or asks_too_much:
            self.is_given_up = self.is_given_up or fault.may_pass
            raise fault.error
        seconds = self.retries.wait(failures, fault.retry_after)
        self.pauses.say(fault, seconds)
        return seconds
