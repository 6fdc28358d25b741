"""TensorBoard over runs whose event files keep coming."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from himl_cli.core.events import Notice, Notify
from himl_cli.core.processes import take_time_to_end
from himl_cli.services.tensorboard.board import SECONDS_TO_END, Board
from himl_cli.services.tensorboard.lineup import Lineup
from himl_cli.services.tensorboard.ports import free_port, is_here_only
from himl_cli.services.tensorboard.shown_folder import ShownFolder
from himl_cli.services.tensorboard.watch import Watch
from himl_cli.services.transfer.disk import explained


@dataclass(frozen=True)
class Address:
    """Where TensorBoard is to be reached."""

    host: str = "localhost"
    port: int = 6006


def serve(
    lineup: Lineup,
    address: Address,
    refresh: int,
    notify: Notify,
    say_url: Callable[[str], None],
    first_look_over: Callable[[], None] = lambda: None,
) -> None:
    """Show the runs in TensorBoard and look for new ones and for new event files every *refresh* seconds, until this is
    interrupted.

    Runs are chosen while TensorBoard comes up. *say_url* is called once it answers; it shows what is here while the
    rest arrives. Raises what `Lineup.begin` does, HimlError where TensorBoard ends by itself, NotFound where no run has
    event files, DiskFailed.
    """
    port = free_port(address.host, address.port)
    try:
        own = tempfile.TemporaryDirectory(prefix="himl_tb_", ignore_cleanup_errors=True)
    except OSError as err:
        raise explained(err, "Cannot make a temporary folder") from err
    with own as name:
        shown = ShownFolder(Path(name).resolve() / "runs")
        shown.root.mkdir()
        with Board(shown.root, shown.root.parent / "tensorboard.log", address.host, port, refresh, notify) as board:
            lineup.begin()
            if address.port not in (port, 0):
                notify(Notice(f"Port {address.port} is taken: TensorBoard takes {port}."))
            if not is_here_only(address.host):
                notify(
                    Notice(
                        f"Nobody has to sign in to TensorBoard: whoever reaches {address.host}:{port} sees these runs."
                    )
                )
            watch = Watch(lineup, shown, refresh, notify)
            try:
                watch.go_on(board, say_url, first_look_over)
            except KeyboardInterrupt:
                take_time_to_end(SECONDS_TO_END)  # a second Ctrl-C would leave TensorBoard behind
                raise
