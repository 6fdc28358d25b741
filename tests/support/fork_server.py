"""A Python process that has the imports of many scripts loaded, and runs each script in a fork.

Tests import this module, and the interpreter of a client runs it as a script, so it imports only the standard library.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

READ_AT_START = (
    "PYTHON",
    "LC_",
    "LD_",
    "DYLD_",
    "COVERAGE_",
    "MALLOC_",
    "OPENSSL_",
    "LANG",
)  # how variables begin that a process reads when it starts
READ_AT_IMPORT = "AZUREML_DEFAULT_"  # prefix of variables that imports read: a server has those of its first call
servers: dict[tuple[str, ...], subprocess.Popen[bytes]] = {}


def run(
    python: list[str], modules: list[str], command: list[str], cwd: Path, env: Mapping[str, str]
) -> subprocess.CompletedProcess[bytes]:
    """Run the script `command[0]` with its arguments by *python* (with options), after importing *modules*.

    Starts a new process on other systems than Linux, with HIML_TEST_START=1, and if a variable of *env* affects the
    start of Python."""
    others = {name for name, value in env.items() if name.startswith(READ_AT_START) and BEFORE.get(name) != value} - {
        "PYTHONDONTWRITEBYTECODE"
    }
    if sys.platform != "linux" or env.get("HIML_TEST_START") == "1" or "HIML_TEST_REACH" in env or others:
        return subprocess.run([*python, *command], cwd=cwd, env=env, capture_output=True, stdin=subprocess.DEVNULL)
    key = (*python, *modules)
    if (server := servers.pop(key, None)) is None:
        at_import = {name: value for name, value in env.items() if name.startswith(READ_AT_IMPORT)}
        server = subprocess.Popen(
            [*python, __file__, *modules],
            env=BEFORE | at_import,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
    assert server.stdin is not None
    assert server.stdout is not None
    with TemporaryDirectory() as folder:
        streams = [Path(folder, "stdout"), Path(folder, "stderr")]
        call = {"command": command, "cwd": str(cwd), "environment": dict(env), "streams": list(map(str, streams))}
        try:
            server.stdin.write(json.dumps(call).encode() + b"\n")
            server.stdin.flush()
            code = int(server.stdout.readline())
        except BaseException:  # such as the end of the test's time
            os.killpg(server.pid, signal.SIGKILL)  # also the script
            server.communicate()
            raise
        servers[key] = server
        return subprocess.CompletedProcess(command, code, *[stream.read_bytes() for stream in streams])


def close() -> None:
    """End all servers of this process."""
    while servers:
        servers.popitem()[1].communicate()


def serve() -> Any:
    """Import the given modules, and return each script to run in a fork of this process, which continues with the
    next one.
    """
    del sys.path[0]  # this folder, whose names may shadow packages
    for name in sys.argv[1:]:
        importlib.import_module(name)
    gc.freeze()
    for line in sys.stdin.buffer:
        if not (process := os.fork()):
            return json.loads(line)
        os.write(1, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
    sys.exit()


BEFORE = dict(os.environ)
if __name__ == "__main__":
    called = serve()
    os.environ.clear()
    os.environ.update(called["environment"])
    time.tzset()
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in os.environ
    os.chdir(called["cwd"])
    for number, opened in enumerate([os.devnull, *called["streams"]]):
        os.dup2(os.open(opened, os.O_RDWR | os.O_CREAT), number)
    sys.argv = called["command"]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    code: object = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            sys.stderr.write(f"{code}\n")
    except BaseException:  # noqa: BLE001 - as the interpreter itself
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(
        code if isinstance(code, int) else int(code is not None)
    )  # at once: tearing the modules down takes longer than most scripts
