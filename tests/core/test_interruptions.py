"""Signals that end what is under way."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from himl_cli.core.processes import terminations

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are sent")


def two_hangups(survived: list[bool]) -> None:
    try:
        os.kill(os.getpid(), signal.SIGHUP)
    finally:
        os.kill(os.getpid(), signal.SIGHUP)
        survived.append(True)


def test_repeated_hangup_interrupts_only_once() -> None:
    """The SIGHUPs after the first one, while cleaning up, are ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    survived: list[bool] = []
    try:
        with pytest.raises(KeyboardInterrupt), terminations(), terminations(and_hangups=True):
            two_hangups(survived)
        assert survived == [True]
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_it_is_left_alone_where_it_is_ignored_or_not_asked_for() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminations(and_hangups=True):
            os.kill(os.getpid(), signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with terminations():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
