"""Other users of this machine, for tests that run as root."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

ADA, BOB, EVE = 61001, 61002, 61003
LAB = 61100  # a group
# Show the interpreter "$1", but nothing else of its closed folder "$2", to other users, by a mount at "$3"
OPENED = 'mount --bind "$1" "$3" && mount -t tmpfs -o mode=755 tmpfs "$2" && mkdir -p "$1" && mount --bind "$3" "$1"'
IN_NAMESPACE = f"""
set -e
{OPENED}
user=$4; groups=$5; shift 5
exec setpriv --reuid="$user" --regid="$user" "$groups" "$@"
"""


@contextmanager
def shared_folder() -> Iterator[Path | None]:
    """A folder of root that all users can read, None if this process cannot act as other users."""
    if sys.platform != "linux" or os.geteuid() != 0 or not all(map(shutil.which, ("setpriv", "unshare"))):
        yield None
        return
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        while folder.exists():
            with suppress(FileNotFoundError):  # the supervisor of an ended run may close the workspace meanwhile
                shutil.rmtree(folder)


def closed_interpreter() -> tuple[str, str]:
    """The folder of the interpreter, and the topmost one above it that other users cannot enter, '' if there is
    none.
    """
    interpreter = Path(sys.base_prefix).resolve()
    closed = (str(each) for each in reversed(interpreter.parents) if not each.stat().st_mode & 0o001)
    return str(interpreter), next(closed, "")


def as_user(user: int, folder: Path, group: int | None = None) -> Sequence[str]:
    """The words before a command that run it as *user*, without rights of root, with a home in *folder*. A member of a
    *group* shares new files with it."""
    home, mount = folder / f"home_{user}", folder / "python"
    for each in (home, mount):
        each.mkdir(exist_ok=True)
    os.chown(home, user, user)
    interpreter, closed = closed_interpreter()
    groups = "--clear-groups" if group is None else f"--groups={group}"
    to_other = ["setpriv", f"--reuid={user}", f"--regid={user}", groups]
    if closed:
        space = ["unshare", "-m", "--propagation", "private", "sh", "-c", IN_NAMESPACE]
        to_other = [*space, "sh", interpreter, closed, str(mount), str(user), groups]
    if group is not None:
        to_other += ["sh", "-c", 'umask 002 && exec "$0" "$@"']
    return [*to_other, "env", f"HOME={home}", *(f"--unset={name}" for name in os.environ if name.startswith("XDG_"))]
