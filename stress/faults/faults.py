"""Which faults there are, what each does to one request, and the exit codes that it may lead to."""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from stress.faults.places import ANSWERS, BYTES, DOCUMENTS, PUT, SENT, STORAGE, Place
from tests.servers.azureml.faults import (
    Action,
    BadCertificate,
    BreakHandshake,
    ChangeEtag,
    Drip,
    ExpireSas,
    ExpireToken,
    FlipByte,
    FlipUpload,
    Refuse,
    Reset,
    ResetUpload,
    Stall,
    Status,
    Truncate,
    WrongMd5,
)

FAILED = frozenset({0, 5})
UNDER_A_SECOND, OVER_ALL = 0.5, 100.0
"""Seconds of a stall that nobody need notice, and of one that is longer than any time without progress that himl allows."""
FAST, SLOW = 4 << 20, 2_000
"""Bytes a second of a drip: of files, whose largest then take seconds, and of documents."""
FLOOR = 60
"""Bytes a second of a transfer that counts as one that stands still."""
CHUNK = 16 << 10


@dataclass(frozen=True)
class Fault:
    """`make` draws what happens to a request at a place; `where` says which places it has a meaning at.

    `codes` are the documented exit codes, `of_command` those of commands that differ; `lacks` are commands for which it has no meaning.
    `on_connect`: it comes before there is a request.
    """

    name: str
    make: Callable[[random.Random, Place], Action]
    where: Callable[[Place], bool] = lambda place: True
    codes: frozenset[int] = FAILED
    of_command: Mapping[str, frozenset[int]] = field(default_factory=dict)
    lacks: frozenset[str] = frozenset()
    on_connect: bool = False

    def documented(self, command: str) -> frozenset[int]:
        return self.of_command.get(command, self.codes)


def at_byte(dice: random.Random, place: Place) -> int:
    """A byte of the body at *place*; its first, its last, and those about a chunk's end more often than others."""
    last = max(0, place.body - 1)
    favoured = [at for at in (0, 1, last, CHUNK - 1, CHUNK, CHUNK + 1) if at <= last]
    return dice.choice(favoured) if dice.random() < 0.5 else dice.randint(0, last)


def _reset(dice: random.Random, place: Place) -> Action:
    if place.sends and dice.random() < 0.5:
        return ResetUpload(at_byte(dice, place))
    if place.sends:
        return Reset()
    return Reset(dice.choice([None, at_byte(dice, place)]))


def _stall(dice: random.Random, place: Place) -> Action:
    seconds = dice.choice([UNDER_A_SECOND, OVER_ALL, OVER_ALL, OVER_ALL])
    return Stall(seconds, None if place.sends else dice.choice([None, at_byte(dice, place)]))


def _drip(dice: random.Random, place: Place) -> Action:
    if place.is_file and place.body > CHUNK and dice.random() < 0.2:
        return Drip(FLOOR)
    return Drip(FAST if place.is_file else SLOW)


def _later(dice: random.Random, place: Place) -> Action:
    seconds = dice.choice([0, 1, 3, 61])
    return Status(429, retry_after=seconds if dice.random() < 0.8 else email.utils.formatdate(time.time() + 3, usegmt=True))


def _truncate(dice: random.Random, place: Place) -> Action:
    return Truncate(at_byte(dice, place))


def _flip(dice: random.Random, place: Place) -> Action:
    return (FlipUpload if place.sends else FlipByte)(at_byte(dice, place))


def _tls(dice: random.Random, place: Place) -> Action:
    if dice.random() < 0.5:
        return BadCertificate(dice.choice(["untrusted", "expired", "early", "other"]))
    return BreakHandshake(dice.choice(["reset", "close", "plain"]))


def _takes(kind: frozenset[str]) -> Callable[[Place], bool]:
    return lambda place: place.name in kind


FAULTS = (
    Fault("stall", _stall),
    Fault("drip", _drip, _takes(ANSWERS)),
    Fault("reset", _reset),
    Fault("429-later", _later),
    Fault("429", lambda dice, place: Status(429)),
    Fault("500", lambda dice, place: Status(500, code="InternalError", message="The server met a condition that it did not expect.")),
    Fault("503", lambda dice, place: Status(503)),
    Fault("truncate", _truncate, _takes(ANSWERS)),
    Fault("dns", lambda dice, place: Refuse(dice.choice([502, 504])), on_connect=True),
    Fault("tls", _tls, on_connect=True),
    Fault("flip", _flip, _takes(BYTES | {PUT.name}), frozenset({0, 5, 6}), lacks=frozenset({"list"})),
    Fault("md5", lambda dice, place: WrongMd5(), _takes(BYTES | SENT), frozenset({0, 6}), lacks=frozenset({"list"})),
    Fault("etag", lambda dice, place: ChangeEtag(), _takes(BYTES | SENT), of_command={"upload": frozenset({0, 1})}, lacks=frozenset({"submit", "list"})),
    Fault("sas", lambda dice, place: ExpireSas(), _takes(STORAGE), frozenset({0, 4}), lacks=frozenset({"list"})),
    Fault("token", lambda dice, place: ExpireToken(), _takes(DOCUMENTS), frozenset({0, 4})),
)
"""In the order in which they take long."""
