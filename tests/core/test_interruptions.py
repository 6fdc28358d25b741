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


def test_the_end_of_the_terminal_is_an_end_once_and_the_rest_of_it_is_passed_over() -> None:
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
