"""TensorBoard over runs whose event files keep coming."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from himl_cli.core.errors import HimlError, NotAllowed, NotFound, ServiceFailed
from himl_cli.core.events import Notice, Notify
from himl_cli.services.tensorboard.board import Board
from himl_cli.services.tensorboard.feeds import RunFeed
from himl_cli.services.tensorboard.ports import free_port, is_here_only
from himl_cli.services.tensorboard.rounds import Round
from himl_cli.services.tensorboard.shown_folder import ShownFolder
from himl_cli.services.tensorboard.sync import nothing_to_show, without_files
from himl_cli.services.transfer.disk import explained

log = logging.getLogger(__name__)

QUICK_LOOK, LOOK = 0.1, 0.5


@dataclass(frozen=True)
class Address:
    """Where TensorBoard is to be reached."""

    host: str = "localhost"
    port: int = 6006


def serve(feeds: Sequence[RunFeed], address: Address, refresh: int, notify: Notify, say_url: Callable[[str], None]) -> None:
    """Show the runs in TensorBoard and look for new event files every *refresh* seconds, until this is interrupted.

    *say_url* is called once TensorBoard answers; it shows what is here while the rest arrives. Raises HimlError where it ends
    by itself, NotFound once no run can have event files any more, DiskFailed.
    """
    port = free_port(address.host, address.port)
    if address.port not in (port, 0):
        notify(Notice(f"Port {address.port} is taken: TensorBoard takes {port}."))
    if not is_here_only(address.host):
        notify(Notice(f"Nobody has to sign in to TensorBoard: whoever reaches {address.host}:{port} sees these runs."))
    try:
        own = tempfile.TemporaryDirectory(prefix="himl_tb_", ignore_cleanup_errors=True)
    except OSError as err:
        raise explained(err, "Cannot make a temporary folder") from err
    with own as name:
        shown = ShownFolder(Path(name).resolve() / "runs")
        shown.root.mkdir()
        with Board(shown.root, shown.root.parent / "tensorboard.log", address.host, port, refresh) as board:
            _Watch(feeds, shown, board, refresh, notify).go_on(say_url)


class _Watch:
    """What goes on while TensorBoard runs."""

    def __init__(self, feeds: Sequence[RunFeed], shown: ShownFolder, board: Board, refresh: int, notify: Notify) -> None:
        self._feeds = feeds
        self._open = list(feeds)
        self._shown = shown
        self._board = board
        self._refresh = refresh
        self._notify = notify
        self._said: set[str] = set()
        self._trouble = ""
        self._has_trouble = False  # in this round

    def go_on(self, say_url: Callable[[str], None]) -> None:
        for feed in self._feeds:
            self._shown.show(feed.name, feed.files)
        this, due, is_up = Round(self._open), 0.0, False
        while True:
            ended = this.ended(LOOK if is_up else QUICK_LOOK)
            if ended is not None:
                self._take(*ended)
                if this.is_through:
                    self._conclude()
                    due = time.monotonic() + self._refresh
            elif this.is_through and self._open and time.monotonic() >= due:
                this = Round(self._open)
            self._board.check()
            if not is_up and self._board.is_up():
                is_up = True
                say_url(self._board.url)

    def _take(self, feed: RunFeed, error: HimlError | None) -> None:
        """Show what came of one run."""
        if isinstance(error, (ServiceFailed, NotAllowed)):
            self._has_trouble = True
            if not self._trouble:
                self._trouble = str(error)
                self._notify(Notice(f"{error} {error.hint} Still trying; TensorBoard shows what is here.".replace("  ", " ")))
        elif isinstance(error, NotFound):
            self._notify(Notice(f"{error} It is not looked at any more."))
            self._open.remove(feed)
        elif error is not None:
            raise error
        self._shown.show(feed.name, feed.files)
        if error is None and not feed.files:
            self._say_once(without_files(feed))
        if error is None and feed.is_over:
            log.debug("run %s has ended: it is not looked at any more", feed.run.id)
            self._open.remove(feed)

    def _say_once(self, notice: Notice) -> None:
        if len(self._feeds) > 1 and notice.text not in self._said:
            self._said.add(notice.text)
            self._notify(notice)

    def _conclude(self) -> None:
        """After a round. Raises NotFound where nothing can come any more."""
        if self._trouble and not self._has_trouble:
            self._trouble = ""
            self._notify(Notice("The service answers again."))
        self._has_trouble = False
        if not self._open and not any(feed.files for feed in self._feeds):
            raise nothing_to_show(self._feeds)
