"""The folder that a montage is written to: nothing of it is seen there before all of it is complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from types import TracebackType

from himl_cli.core.errors import BadUsage, DiskFailed, HimlError
from himl_cli.core.files import write_atomic
from himl_cli.services.montage.compose.folder_lock import PassingLock
from himl_cli.services.montage.disk_errors import ASIDE, NEW, explained

OLD, LOCK, COMPLETE = "old", "lock", "complete"
TIMES = 20


class OutputFolder:
    """Files are made in `new`, and take their places in *path* by `publish`, all or none; within the `with`, nobody
    else writes a montage there.

    What an earlier call left that was killed is removed first; one that was killed while its files took their places is
    brought to its end. Raises BadUsage where the folder is a link that leads nowhere, DiskFailed where it cannot be
    made or written, HimlError where another process is at work in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._aside = path.absolute() / ASIDE
        self._lock = PassingLock(self._aside / LOCK)
        self._made: list[Path] = []
        self._is_locked = False
        self._is_carried_out = False

    @property
    def new(self) -> Path:
        """Where to write. Names are those of the files in the end."""
        return self._aside / NEW

    def __enter__(self) -> OutputFolder:
        try:
            self._lock_it()
            self._clear_up()
            self.new.mkdir()
        except BaseException as err:
            self._unlock()
            if isinstance(err, OSError):
                raise explained(err, f"Cannot write to '{self.path}'") from err
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with suppress(OSError):  # there may be an error on its way that matters more
                if self._is_carried_out or not self._order.exists():
                    self._empty()
        finally:
            self._unlock()

    def publish(self, names: Sequence[str], stale: Sequence[str]) -> None:
        """Put the files and folders *names* in place, in this order, and take *stale* away.

        Raises DiskFailed; then all is as it was before. Where that cannot be had either, which the message says, old
        and new files stay on the disk, and the next call brings this one to its end.
        """
        order = [*(f"-{name}" for name in stale), *(f"+{name}" for name in names)]
        try:
            write_atomic(self._order, "\n".join(order))
            self._carry_out(order)
        except BaseException as err:
            if self._is_carried_out:
                raise
            if not self._is_undone(order):
                raise self._half_way(err) from err
            if isinstance(err, OSError):
                raise explained(err, f"Cannot put the montage into '{self.path}'") from err
            raise

    @property
    def _order(self) -> Path:
        """What is to be done to have all files in place. As long as it is there, nothing that it needs may go."""
        return self._aside / COMPLETE

    def _carry_out(self, order: Sequence[str]) -> None:
        """Do what is not done yet of *order*; where that fails, undo all of it."""
        try:
            (self._aside / OLD).mkdir(exist_ok=True)
            for step in order:
                if step[0] == "-":
                    self._take_away(step[1:])
                else:
                    self._put(step[1:])
            self._is_carried_out = True
        except BaseException:
            if not self._is_carried_out:
                self._undo(order)
            raise

    def _undo(self, order: Sequence[str]) -> None:
        """Take new files back, and give old ones their places again, as far as that can be done."""
        for name in _put_by(order):
            with suppress(OSError):
                if not os.path.lexists(self.new / name):
                    os.rename(self.path / name, self.new / name)
        for name in self._taken():
            with suppress(OSError):
                if not os.path.lexists(self.path / name):
                    os.rename(self._aside / OLD / name, self.path / name)

    def _is_undone(self, order: Sequence[str]) -> bool:
        """Whether all is as it was before, and will stay so: the order is off the disk."""
        is_back = all(os.path.lexists(self.new / name) for name in _put_by(order)) and all(
            os.path.lexists(self.path / name) for name in self._taken()
        )
        with suppress(OSError):
            if is_back:
                self._order.unlink(missing_ok=True)
        return is_back and not os.path.lexists(self._order)

    def _half_way(self, err: BaseException) -> DiskFailed:
        why = err.strerror or str(err) if isinstance(err, OSError) else "interrupted"
        return DiskFailed(
            f"Cannot put the montage into '{self.path}': {why}; nor could all be made as it was before.",
            hint="Run the command again: that brings it to its end first. Until then old and new files lie there side "
            "by side.",
        )

    def _taken(self) -> list[str]:
        """What is kept of the old files."""
        old = self._aside / OLD
        return os.listdir(old) if old.is_dir() else []

    def _put(self, name: str) -> None:
        new, final, old = self.new / name, self.path / name, self._aside / OLD / name
        if not os.path.lexists(new):
            return  # it is in its place: a call was killed after that
        if final.is_dir() and not final.is_symlink():
            self._take_away(name)
        elif os.path.lexists(final) and not os.path.lexists(old):
            try:
                os.link(final, old, follow_symlinks=False)  # its place is never empty
            except (OSError, NotImplementedError):
                self._take_away(name)
        os.replace(new, final)

    def _take_away(self, name: str) -> None:
        if os.path.lexists(self.path / name) and not os.path.lexists(self._aside / OLD / name):
            os.rename(self.path / name, self._aside / OLD / name)

    def _make(self) -> None:
        """The folder and those above it; which of them are new is kept in mind."""
        missing = self.path.absolute()
        if missing.exists() and not missing.is_dir():
            raise DiskFailed(f"Cannot write to '{self.path}': it is a file.", hint="Name a folder.")
        while not missing.exists():
            if missing.is_symlink():
                what = f"'{missing.name}' is a link to '{os.readlink(missing)}', which does not exist"
                raise BadUsage(f"Cannot write to '{self.path}': {what}.", hint="Make that folder, or name another one.")
            self._made.append(missing)
            missing = missing.parent
        self.path.mkdir(parents=True, exist_ok=True)

    def _lock_it(self) -> None:
        """Another call may take the folders away that it made, with the lock in them, at any moment before the lock is
        ours."""
        for _ in range(TIMES):
            with suppress(FileNotFoundError):
                self._make()
                self._aside.mkdir(exist_ok=True)
                if not self._lock.take():
                    raise HimlError(
                        f"Another montage is being written to '{self.path}'.",
                        hint="Wait until it is complete, or write to another folder by --output_path.",
                    )
                self._is_locked = True
                return
        raise HimlError(f"Another montage is being written to '{self.path}'.", hint="Run the command again.")

    def _clear_up(self) -> None:
        """What a call that was killed left: its files take their places if they were about to, and the rest goes."""
        if self._order.exists():
            self._carry_out(self._left_order())
        self._empty()
        self._is_carried_out = False

    def _left_order(self) -> list[str]:
        """What the killed call wrote down. Raises DiskFailed for what it did not write: names that lead out of the
        folder, say."""
        steps = [step for step in os.fsdecode(self._order.read_bytes()).split("\n") if step]
        for step in steps:
            if step[0] not in "+-" or "\0" in step or PurePath(step[1:]).name != step[1:] or step[1:] == "..":
                raise DiskFailed(
                    f"'{self._order}' is damaged.",
                    hint=f"Remove '{self._aside}', and look through the montage beside it.",
                )
        return steps

    def _empty(self) -> None:
        """Remove all but the lock; the order goes last, without which nobody knows what became of the rest."""
        for each in (OLD, NEW):
            if (self._aside / each).is_dir():
                shutil.rmtree(self._aside / each)
        self._order.unlink(missing_ok=True)

    def _unlock(self) -> None:
        """Give the lock back, and remove folders that were made for nothing."""
        if self._is_locked:
            with suppress(
                OSError
            ):  # Windows keeps a file that is open, and filelock removes it there as it gives the lock back
                self._unlink_lock()
        self._lock.release()  # from here on the lock, if there is one, is somebody else's
        for folder in [self._aside, *self._made] if self._is_locked else self._made:
            with suppress(OSError):
                folder.rmdir()

    def _unlink_lock(self) -> None:
        if not any((self._aside / each).exists() for each in (COMPLETE, NEW, OLD)):
            (self._aside / LOCK).unlink(missing_ok=True)


def _put_by(order: Sequence[str]) -> list[str]:
    """The new files of *order*."""
    return [step[1:] for step in order if step[0] == "+"]
