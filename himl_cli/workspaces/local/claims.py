"""Claims of GPUs and slots of this machine, and the order in which runs wait for them.

All users share one folder, which has a file for each run that waits (`wait.…`) or has a claim (`hold.…`). A process
holds the lock of the file as long as that is true, and the processes of a job inherit the lock of its claim, so that
the kernel releases it with the last of them. A file without a lock means nothing. Files get their content before their
name, and never change. Their order is that of the times at which they got their names, which no user can set.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import secrets
import stat
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from himl_cli.core.errors import BadUsage, DiskFailed, NotFound
from himl_cli.core.jobs import JobSpec
from himl_cli.core.json_text import read_json
from himl_cli.core.records import dataclass
from himl_cli.core.text import with_and
from himl_cli.core.workspaces import Check
from himl_cli.workspaces.local.gpus import Driver, Gpu, allowed_gpus, variables_of

FOLDER = "HIML_CLAIMS"  # the variable with another folder
WAIT, HOLD, TURN, PART = "wait", "hold", "turn", "part"
LARGEST_FILE = 64 * 1024
# The lock of a claim or of a run ahead wakes a run that waits. These pauses are for what no lock shows
POLL_SECONDS_BEHIND = 10.0 if sys.platform == "linux" else 1.0  # a cancelation elsewhere, another user's lock
POLL_SECONDS_OF_FIRST = 1.0
POLL_SECONDS_OF_DRIVER = 0.25  # while other programs use GPUs
POLL_SECONDS_OF_TURN = 0.05
PART_SECONDS = 60.0  # after which a file without a name is a leftover
TURN_SECONDS = 3  # for which no run needs the lock under which claims are taken
SLACK = 1e-6  # for sums of fractions
SLOT = "slot"


def claims_folder() -> Path:
    return Path(os.environ.get(FOLDER) or "/tmp/himl-claims")  # noqa: S108 - TMPDIR differs between users


@dataclass(frozen=True)
class Need:
    """The resources that a run waits for: *amount* of those in *among*, which are ids of GPUs or names of slots. A
    fraction is a part of one."""

    amount: float
    among: Sequence[str]

    @property
    def is_slot(self) -> bool:
        return self.among[0].startswith(SLOT)

    @property
    def text(self) -> str:
        if self.is_slot:
            return "a slot"
        return f"{self.amount:g} GPU{'s' * (self.amount > 1)}"


def slots_of_user(count: int) -> list[str]:
    """The names of the slots of this user."""
    return [f"{SLOT} {number + 1} of user {_user_id()}" for number in range(count)]


def _user_id() -> int:
    return 0 if sys.platform == "win32" else os.getuid()


class Claimant(NamedTuple):
    """A run in the folder of claims. `names` are the resources that it may get, or has. Of a file that cannot be read,
    only `owner` (the id of its user, -1 if it is unknown) and `problem` are known."""

    name: str
    owner: int = -1
    run: str = ""
    need: Need = Need(0.0, ())
    names: Sequence[str] = ()
    created: int = 0
    problem: str = ""


def entries(kind: str) -> list[Claimant]:
    """The runs that wait (WAIT), in their order, or have claims (HOLD). Deletes files that processes of this user left.
    Follows no links. An unreadable file may be a claim."""
    found = []
    try:
        names = os.listdir(claims_folder())
    except FileNotFoundError:
        return []
    except OSError as err:
        return [Claimant("", problem=f"'{claims_folder()}': {err.strerror}")]
    for name in names:
        if name.startswith(f"{kind}.") and (entry := _read(claims_folder() / name)) is not None:
            found.append(entry)
    return sorted(found, key=lambda each: (each.created, each.name))


def _read(path: Path) -> Claimant | None:
    """The entry of a file, None if no process holds its lock."""
    import fcntl

    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as err:
        with suppress(OSError):
            facts = path.lstat()
            is_file = stat.S_ISREG(facts.st_mode)
            return Claimant(path.name, facts.st_uid, problem=f"'{path}': {err.strerror}") if is_file else None
        return None
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            return None
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if facts.st_uid == os.getuid():
                with suppress(OSError):
                    path.unlink()
            return None
        form = read_json(os.read(handle, LARGEST_FILE))
        need = Need(float(form["amount"]), [str(each) for each in form["among"]])
        if not need.among:
            raise ValueError("no resources")
        run, names = str(form["run"]), [str(each) for each in form.get("claimed", need.among)]
        run = run if run.isprintable() else ascii(run)
        return Claimant(path.name, facts.st_uid, run, need, names, facts.st_ctime_ns)
    except (OSError, OverflowError, ValueError, KeyError, TypeError) as err:
        return Claimant(path.name, os.fstat(handle).st_uid, problem=f"'{path}': {type(err).__name__}: {err}")
    finally:
        os.close(handle)


def shares_in_use(holders: Sequence[Claimant]) -> Counter[str]:
    """The claimed share of each resource, from 0 to 1."""
    found: Counter[str] = Counter()
    for entry in holders:
        for name in entry.names:
            found[name] += min(1.0, entry.need.amount)  # type: ignore[assignment]
    return found


def ahead_of(entry: Claimant, waiting: Sequence[Claimant]) -> list[Claimant]:
    """The runs before *entry* that wait for the same resources. It may overtake the others."""
    before = [each for each in waiting if (each.created, each.name) < (entry.created, entry.name)]
    return [each for each in before if not each.problem and set(each.names) & set(entry.names)]


class Claim:
    """The claim of the run with the folder *folder*. *use_of* returns how another program uses a resource, '' if none
    does. Any item of *events* makes `wait` check everything again. Raises DiskFailed or BadUsage if the folder of
    claims cannot be used.

    `names` are the claimed resources, `handle` holds the lock, for the processes of the job to inherit.
    """

    def __init__(
        self,
        folder: Path,
        need: Need,
        use_of: Callable[[str], str] = lambda name: "",
        events: queue.SimpleQueue[Any] | None = None,
    ) -> None:
        if sys.platform == "win32":
            raise BadUsage("himl has no queue on Windows.", hint="Omit --gpus and --queue, or use WSL.")
        self._need, self._use_of = need, use_of
        self._run_id, self._id = folder.name, id_of(folder)
        self._opened = _opened_folder()
        self._path: Path | None = None
        self._is_first, self._ahead = False, ""
        self._events = events or queue.SimpleQueue()
        self._watched = set[str]()  # names of files, each of which a thread watches
        self.names: Sequence[str] = ()
        self.handle: int | None = None

    def wait(self, is_stopped: Callable[[], bool], on_wait: Callable[[], None]) -> bool:
        """Wait for the resources. Calls *on_wait* once if they are not available at once. Returns False if *is_stopped*
        is true before."""
        ticket, handle = self._publish(WAIT)
        is_first = True
        try:
            while not is_stopped():
                pause = self._pause_before_claim(ticket)
                if pause is None:
                    return True
                if is_first:
                    on_wait()
                    is_first = False
                with suppress(queue.Empty):
                    self._events.get(timeout=pause)
            return False
        finally:
            with suppress(OSError):
                ticket.unlink()
            os.close(handle)

    def release(self) -> None:
        """Release the claim, also of processes that inherited it. Call it once the job has ended."""
        import fcntl

        if self.handle is not None and self._path is not None:
            with suppress(OSError):
                self._path.unlink()
            fcntl.flock(self.handle, fcntl.LOCK_UN)
            os.close(self.handle)
            self.handle = None

    def _pause_before_claim(self, ticket: Path) -> float | None:
        """Take the resources, and return None, if no run is before this one and they are free. Else the longest time
        in seconds until the next check."""
        if self._ahead in self._watched and (claims_folder() / self._ahead).exists():  # nothing has changed
            return POLL_SECONDS_BEHIND
        if not self._is_first and (before := self._before(ticket)) is not None:
            self._ahead = before.name
            self._watch([before])
            return POLL_SECONDS_BEHIND
        self._is_first = True  # from now on: others come later
        if not ticket.exists():  # somebody deleted it
            raise DiskFailed(f"The file of the waiting run, '{ticket}', was deleted.", hint="Submit the run again.")
        free, pause = self._free()
        if free is None:
            return pause
        if (turn := _take_turn()) is None:
            return POLL_SECONDS_OF_TURN
        try:
            free, pause = self._free()  # another run may have taken them
            if free is None:
                return pause
            self.names = free
            self._path, self.handle = self._publish(HOLD, claimed=free)
        finally:
            os.close(turn)
        return None

    def _before(self, ticket: Path) -> Claimant | None:
        """The last of the runs before this one."""
        waiting = entries(WAIT)
        own = next((each for each in waiting if each.name == ticket.name), None)
        before = ahead_of(own, waiting) if own is not None else []
        return before[-1] if before else None

    def _free(self) -> tuple[list[str] | None, float]:
        """The resources to claim. None if too few are free, with the longest time in seconds until the next check."""
        holders = entries(HOLD)
        self._watch([each for each in holders if set(each.names) & set(self._need.among)])
        if any(each.problem for each in holders):
            return None, POLL_SECONDS_OF_DRIVER
        used, amount = shares_in_use(holders), self._need.amount
        whole = {name for each in holders if each.need.amount >= 1 for name in each.names}
        if amount < 1:
            shared = [name for name in self._need.among if 0 < used[name] <= 1 - amount + SLACK and name not in whole]
            if shared:
                return shared[:1], 0.0
        free, count = [name for name in self._need.among if not used[name]], max(1, round(amount))
        if len(free) < count:
            return None, POLL_SECONDS_OF_FIRST
        unused = []
        for name in free:
            if not self._use_of(name):
                unused.append(name)
            if len(unused) == count:
                return unused, 0.0
        return None, POLL_SECONDS_OF_DRIVER

    def _watch(self, claimants: Sequence[Claimant]) -> None:
        """Send an event once the lock of one of these files is free. Waiting for it takes no time of a processor."""
        for name in {each.name for each in claimants} - self._watched:
            self._watched.add(name)
            threading.Thread(target=self._await_lock, args=(claims_folder() / name,), daemon=True).start()

    def _await_lock(self, path: Path) -> None:
        import fcntl

        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_SH)
                self._watched.discard(path.name)
            finally:
                os.close(handle)
        self._events.put(None)

    def _publish(self, kind: str, **facts: Sequence[str]) -> tuple[Path, int]:
        """Make the locked file of this run. Returns its path and its handle."""
        import fcntl

        form = {"run": self._run_id, "amount": self._need.amount, "among": self._need.among, **facts}
        part = claims_folder() / f"{PART}.{secrets.token_hex(8)}"
        path = claims_folder() / f"{kind}.{self._id}.{secrets.token_hex(4)}"
        try:
            handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            os.fchmod(handle, 0o644)  # for all users, with any umask
            fcntl.flock(handle, fcntl.LOCK_EX)
            os.write(handle, json.dumps(form).encode())
            part.rename(path)
        except OSError as err:
            raise DiskFailed(f"Cannot write to '{claims_folder()}': {err.strerror}.") from err
        return path, handle


def id_of(folder: Path) -> str:
    """The part of a file's name that identifies the run with this folder."""
    return hashlib.sha256(os.path.realpath(folder).encode()).hexdigest()[:20]


def _opened_folder() -> int:
    """A handle of the folder of claims, whose lock keeps systemd-tmpfiles from deleting old files in it. Creates the
    folder. Raises DiskFailed, BadUsage."""
    import fcntl

    folder = claims_folder()
    try:
        with suppress(FileExistsError):
            os.mkdir(folder, 0o1777)
            os.chmod(folder, 0o1777)  # noqa: S103 - as /tmp
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        mode = os.fstat(handle).st_mode
        for each in folder.glob(f"{PART}.*"):
            with suppress(OSError):
                if each.lstat().st_mtime < time.time() - PART_SECONDS:
                    each.unlink()
    except OSError as err:
        raise DiskFailed(f"Cannot use '{folder}', where users claim GPUs: {err.strerror}.") from err
    if mode & 0o022 and not mode & stat.S_ISVTX:
        text = f"Users could delete each other's files in '{folder}'."
        raise BadUsage(text, hint=f"Set its sticky bit: chmod 1777 {folder}")
    return handle


def _take_turn() -> int | None:
    """The handle of the lock under which one process at a time takes a claim. None while another one does."""
    import fcntl

    path = claims_folder() / TURN
    with suppress(OSError):
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
            os.chmod(path, 0o644)
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), os.stat(path, follow_symlinks=False)):
                return handle
        except OSError:
            pass
        os.close(handle)
    return None


def _holder_of_turn() -> str:
    """The process and the user that hold the lock of `_take_turn` at this moment, '' if none does."""
    with suppress(OSError):
        inode = f":{(claims_folder() / TURN).stat().st_ino}"
        for line in Path("/proc/locks").read_text().splitlines():  # of any kind, also of processes that wait for it
            words = line.split()
            if words[1] == "FLOCK" and words[5].endswith(inode):
                owner = Path("/proc", words[4]).stat().st_uid
                return f"process {words[4]} of {_user_name(owner)}"
    return ""


class JobClaim(Claim):
    """The claim of a job of this machine, with the folder of its run and the variables *env*."""

    def __init__(self, folder: Path, spec: JobSpec, env: Mapping[str, str], events: queue.SimpleQueue[Any]) -> None:
        self._folder, self._gpus = folder, dict[str, Gpu]()
        if spec.gpus:
            driver = Driver()
            self._gpus = {gpu.uuid: gpu for gpu in allowed_gpus(driver, spec, env)}
            super().__init__(folder, Need(spec.gpus, [*self._gpus]), driver.use_of, events)
        else:
            super().__init__(folder, Need(1.0, slots_of_user(spec.slots)), events=events)

    @property
    def variables(self) -> dict[str, str]:
        """The variables with which the job sees its GPUs only."""
        return variables_of([self._gpus[name] for name in self.names]) if self._gpus else {}

    @property
    def shown(self) -> str | None:
        """The claimed GPUs as text, None for a slot."""
        return ", ".join(self._gpus[name].text for name in self.names) if self._gpus else None

    def reason_to_wait(self) -> str:
        return reasons_to_wait({"": self._folder}).get("", "waits")


def reasons_to_wait(folders: Mapping[str, Path]) -> dict[str, str]:
    """The reasons for which runs wait, by the keys of *folders*, their folders. Omits those that do not wait."""
    waiting, holders = entries(WAIT), entries(HOLD)
    ids = {entry.name.split(".")[1]: entry for entry in waiting}
    found = {}
    for key, folder in folders.items():
        if (entry := ids.get(id_of(folder))) is not None:
            found[key] = _reason_to_wait(entry, waiting, holders)
    return found


def _reason_to_wait(own: Claimant, waiting: Sequence[Claimant], holders: Sequence[Claimant]) -> str:
    used, need = shares_in_use(holders), own.need
    ahead, claimed = len(ahead_of(own, waiting)), sum(1 for name in need.among if used[name])
    parts = [f"{claimed} in use"] if claimed else []
    if not ahead and not need.is_slot and claimed + need.amount <= len(need.among):  # claims do not explain it
        with suppress(NotFound):
            driver = Driver()
            others = sum(1 for name in need.among if not used[name] and driver.use_of(name))
            parts += [f"{others} in use by other programs"] if others else []
    is_late = own.created < time.time_ns() - TURN_SECONDS * 10**9
    if not ahead and is_late and (holder := _holder_of_turn()):
        parts.append(f"{holder} holds the lock of '{claims_folder() / TURN}'")
    unreadable = next((each.problem for each in holders if each.problem), "")
    parts += [f"unknown whether others are: cannot read {unreadable}"] if unreadable else []
    place = f", {ahead} run{'s' * (ahead != 1)} ahead" if ahead else ""
    return f"waits for {need.text}" + (f" ({', '.join(parts)})" if parts else "") + place


def checks() -> Iterator[Check]:
    """The checks of `himl doctor`: each GPU of this machine with its users, and the runs that wait."""
    waiting, holders = entries(WAIT), entries(HOLD)
    gpus = list[Gpu]()
    with suppress(NotFound):
        driver = Driver()
        gpus = driver.gpus()
    for gpu in gpus:
        users = [f"run {each.run} of {_user_name(each.owner)}" for each in holders if gpu.uuid in each.names]
        use = driver.use_of(gpu.uuid)
        state = f"claimed by {with_and(users)}" if users else f"in use by another program: {use}" if use else "free"
        yield Check.passed(f"GPU {gpu.number}", f"{gpu.name} ({gpu.uuid}), {state}.")
    effects = ((holders, "a claim, so no run starts"), (waiting, "a run that waits, so later ones may start first"))
    for entry, effect in ((each, effect) for found, effect in effects for each in found if each.problem):
        text = f"Cannot read {entry.problem}, of {_user_name(entry.owner)}, which may be {effect}."
        yield Check.note("queue", text, "Ask that user to remove the file.")
    for each in filter(lambda each: not each.problem, waiting):
        text = f"Run {each.run} of {_user_name(each.owner)} {_reason_to_wait(each, waiting, holders)}."
        yield Check.passed("queue", text)


def _user_name(user_id: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return f"user {user_id}"
