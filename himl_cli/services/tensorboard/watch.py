"""What goes on while TensorBoard runs: runs join, their files grow, they end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from himl_cli.core.errors import HimlError, NotFound
from himl_cli.core.events import Notice, Notify
from himl_cli.services.tensorboard.aside import Aside
from himl_cli.services.tensorboard.board import Board
from himl_cli.services.tensorboard.feeds import RunFeed
from himl_cli.services.tensorboard.lineup import Change, Lineup
from himl_cli.services.tensorboard.news import nothing_to_show, say_joined, say_without_files
from himl_cli.services.tensorboard.progress import Progress
from himl_cli.services.tensorboard.rounds import Round
from himl_cli.services.tensorboard.shown_folder import ShownFolder
from himl_cli.services.tensorboard.troubles import Troubles, may_pass

log = logging.getLogger(__name__)

QUICK_LOOK, LOOK = 0.1, 0.5
PATIENCE = 5.0
"""Seconds for which a round waits to hear which runs there are; then it begins with those that are known."""


class Watch:
    """Looks at the runs of *lineup* every *refresh* seconds, first at which there are, then at their files, and shows what is here.

    Runs that have ended and are here are left alone; once none else can join, nothing is asked for any more.
    """

    def __init__(self, lineup: Lineup, shown: ShownFolder, refresh: int, notify: Notify) -> None:
        self._lineup = lineup
        self._shown = shown
        self._refresh = refresh
        self._notify = notify
        self._open = [*lineup.feeds]
        self._troubles = Troubles(notify)
        self._said: set[tuple[str, bool]] = set()
        self._question: Aside[Change] | None = None
        self._asked: float | None = None  # when, for the round that comes next
        self._due: float | None = None  # None while a round goes on
        self._round = Round(self._open)
        for feed in lineup.feeds:
            shown.show(feed.name, feed.files)

    def go_on(self, board: Board, say_url: Callable[[str], None], first_look_over: Callable[[], None]) -> None:
        """Until this is interrupted. *say_url* once TensorBoard answers, *first_look_over* once all runs were looked at. Raises HimlError."""
        is_up, progress = False, Progress(self._lineup.feeds, self._notify)
        is_first = True
        while True:
            self._step(LOOK if is_up else QUICK_LOOK)
            if is_first and is_up:
                progress.tell()
            if is_first and self._due is not None:
                is_first = False
                first_look_over()
            board.check()
            if not is_up and board.is_up():
                is_up = True
                say_url(board.url)

    def _step(self, seconds: float) -> None:
        """What came within so many seconds."""
        ended = self._round.ended(seconds)
        if ended is not None:
            self._take(*ended)
        for feed in self._round.busy:
            self._shown.show(feed.name, feed.so_far())
        answer = self._question.poll() if self._question is not None else None
        if answer is not None:
            self._question = None
            self._hear(answer)
        if self._round.is_through:
            self._between_rounds(time.monotonic())

    def _between_rounds(self, now: float) -> None:
        if self._due is None:
            self._conclude()
            self._due = now + self._refresh
        if now < self._due or not (self._open or self._lineup.may_grow):
            return
        if self._asked is None:
            self._asked = now
            if self._question is None:
                wanted = [feed.run.id for feed in self._open if not feed.run.status.is_final]
                self._question = Aside(lambda: self._lineup.change(wanted))
        elif self._question is None or now - self._asked >= PATIENCE:
            self._asked = self._due = None
            self._round = Round(self._open)

    def _hear(self, answer: Change | HimlError) -> None:
        """Which runs there are."""
        if isinstance(answer, HimlError):
            if not may_pass(answer):
                raise answer
            self._troubles.meet(answer)
            return
        self._lineup.take(answer)
        for feed in self._lineup.feeds:
            error = answer.gone.get(feed.run.id)
            if error is not None and feed in self._open:
                self._leave(feed, error)
            elif feed.is_over and not feed.run.status.is_final:  # a run that is gone on with
                feed.is_over = False
                self._open.append(feed)
        for feed in answer.joined:
            self._shown.show(feed.name, feed.files)
            self._open.append(feed)
        say_joined(answer.joined, self._notify)

    def _take(self, feed: RunFeed, error: HimlError | None) -> None:
        """What came of one run."""
        if error is None:
            if feed.is_over and feed in self._open:
                log.debug("run %s has ended: it is not looked at any more", feed.run.id)
                self._open.remove(feed)
        elif isinstance(error, NotFound):
            self._leave(feed, error)
        elif may_pass(error):
            self._troubles.meet(error)
        else:
            raise error
        self._shown.show(feed.name, feed.files)

    def _leave(self, feed: RunFeed, error: NotFound) -> None:
        if feed in self._open:
            self._open.remove(feed)
            self._notify(Notice(f"{error} It is not looked at any more."))

    def _conclude(self) -> None:
        """After a round. Raises NotFound where all runs have ended and none has anything to show."""
        if self._question is None:
            self._troubles.conclude()
        without = [feed for feed in self._lineup.feeds if not feed.files and feed.has_looked]
        if not self._open and len(without) == len(self._lineup.feeds):
            raise nothing_to_show(self._lineup.feeds)
        news = [feed for feed in without if (feed.run.id, feed.run.status.is_final) not in self._said]
        self._said |= {(feed.run.id, feed.run.status.is_final) for feed in news}
        say_without_files(news, self._notify)
