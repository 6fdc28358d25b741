"""The files of a folder, special folders (a small disk, a read-only folder), and himl's records of downloads."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from tests.support.running import until

IN_NAMESPACE = 'mount -t tmpfs -o "$1" tmpfs "$0" && shift && exec "$@"'


def files_below(folder: Path) -> list[Path]:
    """All files below *folder*, even while other processes change it (pathlib's rglob raises if a folder is
    removed).
    """
    return [
        path
        for above, _, names in os.walk(folder)
        for path in sorted(Path(above, name) for name in names)
        if path.is_file()
    ]


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of each file below *folder* by relative path, without files that are removed meanwhile."""
    found = {}
    for path in files_below(folder):
        with suppress(FileNotFoundError):
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def files_with(folder: Path, text: str) -> list[Path]:
    """The files below *folder* that contain *text*."""
    return [folder / name for name, content in contents(folder).items() if text.encode() in content]


@dataclass(frozen=True)
class SmallDisk:
    """A folder on a tiny file system. Without root, it exists only for commands with `prefix`, each with a new one."""

    folder: Path
    prefix: Sequence[str]

    @property
    def is_shared(self) -> bool:
        """Whether the test and all commands share the disk."""
        return not self.prefix


@dataclass(frozen=True)
class SharedDisk:
    """A folder that commands with a `prefix` see at `mount`, each through its own client, as different machines do."""

    program: Path
    folder: Path
    mount: Path

    def prefix(self, *, has_locks: bool) -> Sequence[str]:
        """Without *has_locks*, no client sees locks of the others."""
        client = f'SHARED_DISK="{self.folder}" SHARED_DISK_LOCKS={int(has_locks)} "{self.program}" "{self.mount}" -f -s'
        ready = f'until mountpoint -q "{self.mount}"; do kill -0 $CLIENT || exit 99; sleep 0.05; done'
        script = f'{client} & CLIENT=$!; {ready}; "$@"; CODE=$?; umount -l "{self.mount}"; exit $CODE'
        return ("unshare", "--mount", "sh", "-c", script, "sh")


def built_shared_disk(folder: Path) -> SharedDisk | None:
    """A shared disk in *folder*, None if this machine cannot mount it."""
    disk = SharedDisk(folder / "shared_disk", folder / "disk", folder / "mount")
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True)
    source = Path(__file__).with_name("shared_disk.c")
    if flags.returncode or not _works(["gcc", "-O1", str(source), "-o", str(disk.program), *flags.stdout.split()]):
        return None
    for path in (disk.folder, disk.mount):
        path.mkdir()
    return disk if _works([*disk.prefix(has_locks=True), "true"]) else None


@contextmanager
def mounted_small_disk(folder: Path, *, kib: int, inodes: int = 0) -> Iterator[SmallDisk | None]:
    """A tmpfs of *kib* KiB at *folder*, with at most *inodes* files (0: any number), None if that is not possible."""
    folder.mkdir()
    size = f"size={kib}k,nr_inodes={inodes}" if inodes else f"size={kib}k"
    if sys.platform != "linux":
        yield None
    elif _works(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)]):
        try:
            yield SmallDisk(folder, ())
        finally:
            _unmount(folder)
    elif _works(["unshare", "-rm", "sh", "-c", IN_NAMESPACE, str(folder), size, "true"]):
        yield SmallDisk(folder, ("unshare", "-rm", "sh", "-c", IN_NAMESPACE, str(folder), size))
    else:
        yield None


@contextmanager
def made_read_only(folder: Path) -> Iterator[bool]:
    """Make *folder* and its contents read-only for this user within the context. Returns whether that worked."""
    if sys.platform != "win32" and os.geteuid() != 0:
        modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*")) if not path.is_symlink()}
        for path, mode in modes.items():
            path.chmod(mode & ~0o222)
        yield True
        for path, mode in modes.items():
            path.chmod(mode)
    elif sys.platform == "linux" and _works(["mount", "--bind", str(folder), str(folder)]):
        try:
            read_only = ["mount", "-o", "remount,ro,bind", str(folder)]
            until(lambda: _works(read_only), "the processes that still write below the folder end")
            yield True
        finally:
            _unmount(folder)
    else:
        yield False


@contextmanager
def mounted_image(image: Path, folder: Path, options: str) -> Iterator[bool]:
    """The file system of *image*, mounted with *options* at *folder*, which is new or empty. Returns whether that
    worked."""
    folder.mkdir(exist_ok=True)
    if sys.platform == "linux" and _works(["mount", "-o", f"loop,{options}", str(image), str(folder)]):
        try:
            yield True
        finally:
            until(lambda: _works(["umount", str(folder)]), "the processes of himl that use the folder end")
    else:
        yield False


def copy_image(image: Path, target: Path) -> None:
    """Copy an image that is mounted, as a power cut at one moment would leave it."""
    copies = target, target.with_name(f"{target.name}.again")
    while True:
        for copy in copies:
            subprocess.run(["cp", "--sparse=always", str(image), str(copy)], check=True)
        if filecmp.cmp(*copies, shallow=False):
            return copies[1].unlink()


def unmount_leftovers() -> None:
    """Unmount what killed processes of pytest left mounted, since pytest fails if it cannot delete their folders."""
    if sys.platform != "linux":
        return
    for line in Path("/proc/mounts").read_text().splitlines():
        mount = Path(line.split(" ")[1])
        for base in mount.parents:
            if base.parent.name.startswith("pytest-of-"):
                with suppress(OSError, ValueError):  # it had no process, or its folder is about to be deleted
                    os.kill(int((base / ".lock").read_text()), 0)
                    break
                _works(["umount", "--lazy", str(mount)])


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _works(command: list[str]) -> bool:
    return shutil.which(command[0]) is not None and subprocess.run(command, capture_output=True).returncode == 0


def state_of(folder: Path) -> Path:
    """The file with the state of downloads to *folder*."""
    target = os.fsencode(os.path.realpath(folder))
    (entry,) = (path.parent for path in transfers().glob("*/target") if path.read_bytes().split(b"\n", 1)[1] == target)
    return entry / "state.db"


def transfers() -> Path:
    return platformdirs.user_cache_path("himl", appauthor=False) / "transfers"


def meetings() -> Path:
    return platformdirs.user_cache_path("himl", appauthor=False) / "ranks"
