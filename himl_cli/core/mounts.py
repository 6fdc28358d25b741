"""The mounted file systems of this machine: which of them belong to it alone, and which share locks with others."""

from __future__ import annotations

import re
import sys
from collections.abc import Set
from pathlib import Path

# File systems of one machine, which a WAL journal of SQLite requires: a list of the others is never complete
LOCAL_TYPES = {
    *("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs", "tmpfs", "ramfs", "rootfs", "overlay"),
    *("apfs", "hfs", "ntfs", "ntfs3", "fuseblk", "exfat", "vfat", "msdos"),
}


# Those of several machines that see each other's locks, and the options of mounts that do not show them
WITH_LOCKS = {"nfs", "nfs4", "lustre", "ceph", "gpfs", "cifs", "smb3"}


WITHOUT_LOCKS = {"nolock", "local_lock=all", "local_lock=posix", "local_lock=flock", "localflock", "nobrl"}


def mount_table() -> str:
    """The mount table of Linux or macOS in the format of /proc/mounts, empty on other systems."""
    try:
        return Path("/proc/mounts").read_text(errors="replace")
    except OSError:
        program = Path("/sbin/mount")  # of macOS
        if not program.exists():
            return ""
    import subprocess

    return mounts_of_macos(subprocess.run([program], capture_output=True, text=True, check=False).stdout)


def mounts_of_macos(text: str) -> str:
    """The output of macOS's `mount` in the format of /proc/mounts."""
    found = re.findall(r"^(?:.*) on (/.*) \((\w+)[^()]*\)$", text, re.MULTILINE)
    return "".join(f"- {re.sub(' ', lambda _: chr(92) + '040', point)} {kind}\n" for point, kind in found)


def is_local_folder(folder: Path) -> bool:
    """Whether *folder* is known to be on a file system of this machine alone, by the mount table, and by UNC paths on
    Windows."""
    if sys.platform == "win32":
        return not str(folder.resolve()).startswith("\\\\")
    return mount_of(folder.resolve(), mount_table())[0] in LOCAL_TYPES


def shares_locks(folder: Path) -> bool | None:
    """Whether the processes on all machines that share *folder* see each other's locks. None if that is unknown."""
    if sys.platform == "win32":
        return True
    kind, options = mount_of(folder.resolve(), mount_table())
    return kind in LOCAL_TYPES or (not options & WITHOUT_LOCKS if kind in WITH_LOCKS else None)


def mount_of(folder: Path, mounts: str) -> tuple[str, Set[str]]:
    """The type and the options of the deepest mount in *mounts* (the format of /proc/mounts) that contains *folder*, or
    ''."""
    best, kind, options, path = "", "", "", f"{folder.as_posix()}/"
    for parts in map(str.split, mounts.splitlines()):
        if len(parts) >= 3:
            mount_point = parts[1].rstrip("/")
            if "\\" in mount_point:
                mount_point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), mount_point)
            if path.startswith(f"{mount_point}/") and len(mount_point) >= len(best):
                best, kind, options = mount_point, parts[2], ",".join(parts[3:4])
    return kind, {*options.split(",")}
