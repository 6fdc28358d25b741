"""Python environments that hold one MLflow client each, made on demand and kept below `.cache/clients`."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "clients"
SECONDS_TO_BUILD = 1800
REQUIREMENTS: Mapping[str, tuple[str, ...]] = {
    "mlflow2": ("mlflow==2.22.5", "scikit-learn>=1.4,<1.8", "pillow"),
    "mlflow3": ("mlflow>=3.17,<4", "scikit-learn>=1.4,<2", "pillow"),
}
SKINNY = "skinny3"  # mlflow-skinny, which the environment of the tests holds
FULL = tuple(REQUIREMENTS)
ALL = (SKINNY, *FULL)


def client_python(name: str) -> Path:
    """The interpreter of the client called *name*, built first where it is not there. Raises CalledProcessError when that fails."""
    if name == SKINNY:
        return Path(sys.executable)
    requirements = REQUIREMENTS[name]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = CACHE / f"{name}-{hashlib.sha256(' '.join((version, *requirements)).encode()).hexdigest()[:12]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock", timeout=SECONDS_TO_BUILD):
        complete = folder / "complete"
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            _build(folder, requirements)
            complete.touch()
    return _python_of(folder)


def _build(folder: Path, requirements: tuple[str, ...]) -> None:
    python = str(_python_of(folder))
    uv = shutil.which("uv")
    if uv:
        _run(uv, "venv", "--quiet", "--python", sys.executable, str(folder))
        _run(uv, "pip", "install", "--quiet", "--python", python, *requirements)
        return
    _run(sys.executable, "-m", "venv", str(folder))
    _run(python, "-m", "pip", "install", "--quiet", "--upgrade", "pip")
    _run(python, "-m", "pip", "install", "--quiet", *requirements)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=SECONDS_TO_BUILD, stdin=subprocess.DEVNULL, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})


def _python_of(folder: Path) -> Path:
    return folder / "Scripts" / "python.exe" if sys.platform == "win32" else folder / "bin" / "python"
