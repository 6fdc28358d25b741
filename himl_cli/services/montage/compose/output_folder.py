"""The folder that a montage is written to: nothing of it is seen there before all of it is complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from himl_cli.core.errors import BadUsage, DiskFailed, HimlError
from himl_cli.core.locks import HeldLock
from himl_cli.core.whole_file import write_whole
from himl_cli.services.montage.disk_errors import ASIDE, NEW, explained

OLD, LOCK, COMPLETE = "old", "lock", "complete"
TIMES = 20


class OutputFolder:
    """Files are made in `new`, and take their places in *path* by `publish`, all or none; within the `with`, nobody else writes a montage there.

    What an earlier call left that was killed is removed first; one that was killed while its files took their places is brought to its end.
    Raises BadUsage where the folder is a link that leads nowhere, DiskFailed where it cannot be made or written, HimlError where another process is at
    work in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._aside = path.absolute() / ASIDE
        self._lock = HeldLock(self._aside / LOCK)
        self._made: list[Path] = []
        self._is_locked = False
        self._is_published = False

    @property
    def new(self) -> Path:
        """Where to write. Names are those of the files in the end."""
        return self._aside / NEW

    def __enter__(self) -> OutputFolder:
        try:
            self._make()
            self._lock_it()
            self._clear_up()
            self.new.mkdir()
        except BaseException as err:
            self._unlock()
            if isinstance(err, OSError):
                raise explained(err, f"Cannot write to '{self.path}'") from err
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(OSError):  # there may be an error on its way that matters more
            if not self._is_published:
                self._restore()
            self._empty()
        self._unlock()

    def publish(self, names: Sequence[str], stale: Sequence[str]) -> None:
        """Put the files and folders *names* in place, in this order, and take *stale* away. Raises DiskFailed; then all is as it was before."""
        order = [*(f"-{name}" for name in stale), *(f"+{name}" for name in names)]
        try:
            write_whole(self._aside / COMPLETE, "\n".join(order))
            self._carry_out(order)
        except BaseException as err:
            with suppress(OSError):
                (self._aside / COMPLETE).unlink(missing_ok=True)
            if isinstance(err, OSError):
                raise explained(err, f"Cannot put the montage into '{self.path}'") from err
            raise
        self._is_published = True

    def _carry_out(self, order: Sequence[str]) -> None:
        """Do what is not done yet of *order*; where that fails, undo all of it."""
        (self._aside / OLD).mkdir(exist_ok=True)
        put: list[str] = []
        try:
            for step in order:
                if step[0] == "-":
                    self._take_away(step[1:])
                else:
                    put.append(step[1:])
                    self._put(step[1:])
        except BaseException:
            for name in put:
                with suppress(OSError):
                    if not os.path.lexists(self.new / name):
                        os.rename(self.path / name, self.new / name)
            self._restore()
            raise

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

    def _restore(self) -> None:
        """Give what was taken away its place again, as far as that is free."""
        old = self._aside / OLD
        for name in os.listdir(old) if old.is_dir() else ():
            with suppress(OSError):
                if not os.path.lexists(self.path / name):
                    os.rename(old / name, self.path / name)

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
        """Another call may take the folder away, with the lock in it, at any moment before the lock is ours."""
        for _ in range(TIMES):
            with suppress(FileNotFoundError):
                self._aside.mkdir(exist_ok=True)
                if not self._lock.take():
                    raise HimlError(
                        f"Another montage is being written to '{self.path}'.", hint="Wait until it is complete, or write to another folder by --output_path."
                    )
                if (self._aside / LOCK).exists():
                    self._is_locked = True
                    return
                self._lock.release()
        raise HimlError(f"Another montage is being written to '{self.path}'.", hint="Run the command again.")

    def _clear_up(self) -> None:
        """What a call that was killed left: its files take their places if they were about to, and the rest goes."""
        order = self._aside / COMPLETE
        if order.exists():
            self._carry_out([step for step in order.read_text(encoding="utf-8").split("\n") if step])
        else:
            self._restore()
        self._empty()

    def _empty(self) -> None:
        (self._aside / COMPLETE).unlink(missing_ok=True)
        for each in (NEW, OLD):
            if (self._aside / each).is_dir():
                shutil.rmtree(self._aside / each)

    def _unlock(self) -> None:
        """Give the lock back, and remove folders that were made for nothing."""
        if self._is_locked:
            with suppress(OSError):
                self._unlink_lock()  # before it is given back: whoever takes it then sees that it is gone
            self._lock.release()
            with suppress(OSError):
                self._unlink_lock()  # Windows keeps a file that is open
                self._aside.rmdir()
        for folder in self._made:
            with suppress(OSError):
                folder.rmdir()

    def _unlink_lock(self) -> None:
        if not any((self._aside / each).exists() for each in (COMPLETE, NEW, OLD)):
            (self._aside / LOCK).unlink(missing_ok=True)
