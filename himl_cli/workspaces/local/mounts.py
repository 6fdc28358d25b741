"""What kind of file system a folder lies on."""

from __future__ import annotations

import re
import sys
from pathlib import Path

NETWORK_TYPES = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afpfs", "9p", "ceph", "lustre", "glusterfs", "beegfs", "gpfs"}


def is_network_folder(folder: Path) -> bool:
    """Whether *folder* lies on a network file system, as far as the platform tells: Linux by its mount table, Windows
    by UNC paths."""
    resolved = folder.resolve()
    if sys.platform == "win32":
        return str(resolved).startswith("\\\\")
    return file_system_of(resolved, _mount_table()) in NETWORK_TYPES


def file_system_of(folder: Path, mount_table: str) -> str:
    """The type of the deepest mount in *mount_table* (the format of /proc/mounts) that holds *folder*; '' where none
    does."""
    best, kind = "", ""
    for line in mount_table.splitlines():
        parts = line.split()
        if len(parts) < 3:
            continue
        mount_point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), parts[1])
        holds = folder.as_posix() == mount_point or folder.as_posix().startswith(mount_point.rstrip("/") + "/")
        if holds and len(mount_point) >= len(best):
            best, kind = mount_point, parts[2]
    return kind


def _mount_table() -> str:
    try:
        return Path("/proc/mounts").read_text(errors="replace")
    except OSError:
        return ""
