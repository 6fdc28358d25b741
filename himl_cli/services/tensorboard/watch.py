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
from himl_cli.services.tensorboard.looks import Looks
from himl_cli.services.tensorboard.news import nothing_to_show, say_joined, say_left_out, say_without_files
from himl_cli.services.tensorboard.progress import Progress
from himl_cli.services.tensorboard.shown_folder import ShownFolder
from himl_cli.services.tensorboard.troubles import Troubles, may_pass

log = logging.getLogger(__name__)

QUICK_LOOK, LOOK = 0.1, 0.5
QUESTION = ""
"""What stands for the runs that there are, beside the ids of runs, where something goes wrong."""


class Watch:
    """Looks at each run of *lineup* *refresh* seconds after the last look at it, asks as often which runs there are,
    and shows what is here.

    One that takes long holds up no other. Runs that have ended and are here are left alone; once none else can join,
    nothing is asked for any more.
    """

    def __init__(self, lineup: Lineup, shown: ShownFolder, refresh: float, notify: Notify) -> None:
        self._lineup = lineup
        self._shown = shown
        self._refresh = refresh
        self._notify = notify
        self._open = [*lineup.feeds]
        self._first = {*self._open}  # those whose first look is not over
        self._troubles = Troubles(notify)
        self._said: set[tuple[str, bool]] = set()
        self._question: Aside[Change] | None = None
        self._ask_at = self._tell_at = time.monotonic() + refresh
        self._due: dict[RunFeed, float] = {}  # of those that are not just looked at
        self._progress = Progress(lineup.feeds, notify)
        for feed in lineup.feeds:
            shown.show(feed.name, feed.files)
        self._looks = Looks(self._open)

    def go_on(self, board: Board, say_url: Callable[[str], None], first_look_over: Callable[[], None]) -> None:
        """Until this is interrupted. *say_url* once TensorBoard answers, *first_look_over* once all runs were looked
        at. Raises HimlError."""
        is_up = False
        is_first = True
        while True:
            self.step(LOOK if is_up else QUICK_LOOK)
            if is_first and is_up:
                self._progress.tell()
            if is_first and not self._first:
                is_first = False
                first_look_over()
            board.check()
            if not is_up and board.is_up():
                is_up = True
                say_url(board.url)

    def step(self, seconds: float) -> None:
        """Take what comes within so many seconds, and begin what is due. Raises HimlError."""
        ended = self._looks.ended(seconds)
        if ended is not None:
            self._take(*ended)
        for feed in self._looks.busy:
            self._shown.show(feed.name, feed.so_far())
        answer = self._question.poll() if self._question is not None else None
        if answer is not None:
            self._question, self._ask_at = None, time.monotonic() + self._refresh
            self._hear(answer)
        now = time.monotonic()
        if self._looks.are_through or now >= self._tell_at:
            self._tell_at = now + self._refresh
            self._tell()
        self._begin(now)

    def _begin(self, now: float) -> None:
        if self._question is None and now >= self._ask_at and (self._open or self._lineup.may_grow):
            wanted = [feed.run.id for feed in self._open if not feed.run.status.is_final]
            self._question = Aside(lambda: self._lineup.change(wanted))
        for feed in [feed for feed, due in self._due.items() if due <= now]:
            del self._due[feed]
            self._looks.add(feed)

    def _hear(self, answer: Change | HimlError) -> None:
        """Which runs there are."""
        if isinstance(answer, HimlError):
            if not may_pass(answer):
                raise answer
            self._troubles.meet(QUESTION, answer)
            return
        self._troubles.pass_by(QUESTION)
        went_on = [feed for feed in self._due if not feed.run.status.is_final]
        self._lineup.take(answer)
        self._due |= {feed: 0.0 for feed in went_on if feed.run.status.is_final}
        for feed in self._lineup.feeds:
            error = answer.gone.get(feed.run.id)
            if error is not None and feed in self._open:
                self._leave(feed, error)
            elif feed.is_over and not feed.run.status.is_final:  # a run that is gone on with
                feed.is_over = False
                self._follow(feed)
        for feed in answer.joined:
            self._shown.show(feed.name, feed.files)
            self._follow(feed)
        say_joined(answer.joined, self._notify)

    def _follow(self, feed: RunFeed) -> None:
        if feed not in self._open:
            self._open.append(feed)
            self._due[feed] = 0.0

    def _take(self, feed: RunFeed, error: HimlError | None) -> None:
        """What came of one run."""
        self._first.discard(feed)
        if error is None:
            self._troubles.pass_by(feed.run.id)
            if feed.is_over and feed in self._open:
                log.debug("run %s has ended: it is not looked at any more", feed.run.id)
                self._open.remove(feed)
        elif isinstance(error, NotFound):
            self._leave(feed, error)
        elif may_pass(error):
            if feed in self._open:
                self._troubles.meet(feed.run.id, error)
        else:
            raise error
        if feed in self._open:
            self._due[feed] = time.monotonic() + self._refresh
        self._shown.show(feed.name, feed.files)

    def _leave(self, feed: RunFeed, error: NotFound) -> None:
        self._due.pop(feed, None)
        self._troubles.pass_by(feed.run.id)
        if feed in self._open:
            self._open.remove(feed)
            self._notify(Notice(f"{error} It is not looked at any more."))

    def _tell(self) -> None:
        """Which runs have nothing to show. Raises NotFound where that is all of them, and neither they nor others may
        get something."""
        feeds = self._lineup.feeds
        say_left_out(feeds, self._notify)
        if not self._open and not self._lineup.may_grow and not any(feed.files for feed in feeds):
            raise nothing_to_show(feeds)
        without = [feed for feed in feeds if not feed.files and feed.has_looked]
        news = [feed for feed in without if (feed.run.id, feed.run.status.is_final) not in self._said]
        self._said |= {(feed.run.id, feed.run.status.is_final) for feed in news}
        say_without_files(news, self._notify)
