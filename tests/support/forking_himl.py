"""`himl` with its imports behind it: a copy of this process runs each command that `tests/support/forked_himl.py` asks for.

A copy is the program in all that a test can see of a command: a process of its own with its arguments, streams, variables, folder
and exit code. Only what earlier copies imported is imported already. The tests start this file as a script; it knows no other test module.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import tempfile
import threading
import time
import types
import warnings
from pathlib import Path
from typing import Any, NoReturn

LENGTH = 8  # bytes that say how long the request after them is
FLUSH_FAILED = 120
"""What Python itself exits with then."""
TOLERATED = "datetime.datetime.utcnow"
"""What warns from Python 3.12 on: azure-ai-ml calls it whatever it is asked for."""
NOT_KEPT = ("himl_cli.__main__", "matplotlib", "mlflow", "numpy", "optuna", "pandas", "pyarrow", "tensorboard", "_")
"""Begins of modules that few commands need and every copy would have to carry; the entry looks at the arguments of its process."""


def main() -> None:
    """Serve requests that come through the socket *argv[1]* until that is closed; *argv[2]* is the installed program."""
    asking = socket.socket(fileno=int(sys.argv[1]))
    sys.path[0] = str(Path(sys.argv[2]).parent)  # as the program has it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the tests, and they end this
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    running: dict[int, int] = {}  # process ids, and where to tell the exit code
    while True:
        ready, _, _ = select.select([asking.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _tell_of_ended(running)
        if asking.fileno() in ready:
            request, streams = _received(asking)
            if request is None:
                return
            _import(request["modules"])
            process = os.fork()
            if process == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                asking.close()
                for number in (woken, wake, *running.values()):
                    os.close(number)
                _be(request, streams)
            running[process] = streams.pop()
            for number in streams:
                os.close(number)


def _tell_of_ended(running: dict[int, int]) -> None:
    for process in list(running):
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            told = running.pop(process)
            try:
                os.write(told, b"%d" % os.waitstatus_to_exitcode(status))
            except BrokenPipeError:
                pass  # whoever asked has waited long enough
            os.close(told)


def _received(asking: socket.socket) -> tuple[Any, list[int]]:
    """A request, and descriptors for its three streams and for what is told of it; None when nobody asks any more."""
    begin, streams, _, _ = socket.recv_fds(asking, LENGTH, 4)
    if not begin:
        return None, streams
    length, text = int.from_bytes(begin, "big"), b""
    while len(text) < length:
        text += asking.recv(length - len(text))
    return json.loads(text), streams


def _import(names: list[str]) -> None:
    """What a copy imported, so that later ones need not."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            pass  # it is not to be had by its name
    if names:
        assert threading.active_count() == 1, f"a copy would not have all of {threading.enumerate()}"
        gc.collect()
        gc.freeze()  # what a copy does not write to, it need not have twice


def _be(request: Any, streams: list[int]) -> NoReturn:
    """Be the program, or a script that Python runs: its arguments, its variables, its folder, its streams."""
    told, known = streams.pop(), set(sys.modules)
    os.write(told, b"%d\n" % os.getpid())
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["variables"])
    os.chdir(request["folder"])
    sys.argv[:] = request["command"]
    tempfile.tempdir = None
    time.tzset()
    code: object = 0
    try:
        if request["script"]:
            _run_script(sys.argv[0])
        else:
            _run_himl()
    except SystemExit as end:
        code = end.code
    except BaseException as failure:  # noqa: BLE001 - as the interpreter itself
        trace = failure.__traceback__
        for _ in range(2):  # without this function and the one it called
            trace = trace.tb_next if trace else None
        code = 1
        try:
            sys.excepthook(type(failure), failure.with_traceback(trace), trace)
        except SystemExit as end:
            code = end.code
    _end(code, told, known)


def _run_himl() -> None:
    from himl_cli.__main__ import main as himl

    himl()


def _run_script(path: str) -> None:
    """As `python -W error -W ignore:TOLERATED PATH`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", TOLERATED, DeprecationWarning)
    sys.path[0] = str(Path(path).parent)
    sys.modules["__main__"] = script = types.ModuleType("__main__")
    script.__file__ = path
    exec(compile(Path(path).read_bytes(), path, "exec"), vars(script))


def _end(code: object, told: int, known: set[str]) -> NoReturn:
    """End as the interpreter does, but leave it to the system to free what thousands of modules hold."""
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
    number = code if isinstance(code, int) else int(code is not None)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        number = FLUSH_FAILED
    os.write(told, json.dumps([name for name in sys.modules if name not in known and _is_kept(name)]).encode() + b"\n")
    os._exit(number & 0xFF)


def _is_kept(name: str) -> bool:
    """Whether a module is one that is installed, and worth it."""
    where = getattr(sys.modules[name], "__file__", None) or ""
    return where.startswith((sys.prefix, sys.base_prefix, str(Path(__file__).parents[2] / "himl_cli"))) and not name.startswith(NOT_KEPT)


if __name__ == "__main__":
    main()
