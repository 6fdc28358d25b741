"""Calls of a program's functions in a client's environment. One process imports the client, and its forks make all
calls at once.

Tests import this module, and the client's interpreter runs it as a script, so it imports only the standard library.
"""

from __future__ import annotations

import atexit
import gc
import importlib.util
import json
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

CAN_FORK = hasattr(os, "fork")
OUTPUT, ERRORS, RESULT = "output.txt", "errors.txt", "result.json"


@dataclass(frozen=True)
class Call:
    """A *function*, its arguments, and the variables and the folder of its process."""

    function: str
    folder: str
    variables: Mapping[str, str]
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Called:
    """The exit of such a process, and the result of the function."""

    code: int
    errors: str
    result: Any


def variables_of_machine(home: Path) -> dict[str, str]:
    """The variables of this process that a program needs, with a separate *home*, which is created."""
    from tests.support.processes import MARK

    home.mkdir(parents=True, exist_ok=True)
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "TEMP", "TMP", MARK) if name in os.environ}
    return {**kept, "HOME": str(home), "USERPROFILE": str(home), "PYTHONUTF8": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}


def call_all(python: Path, program: Path, calls: Mapping[str, Call], seconds: float = 400) -> dict[str, Called]:
    """The results of *calls* by name. Without fork, each process imports the client itself."""
    batches = [calls] if CAN_FORK else [{name: call} for name, call in calls.items()]
    codes: dict[str, int] = {}
    for batch in batches:
        given = json.dumps({name: asdict(call) for name, call in batch.items()})
        variables = dict(next(iter(batch.values())).variables)
        command = [str(python), str(Path(__file__)), str(program)]
        done = subprocess.run(
            command, input=given, env=variables, capture_output=True, text=True, timeout=seconds, check=False
        )
        assert CAN_FORK is False or done.returncode == 0, done.stderr
        codes |= json.loads(done.stdout.splitlines()[-1]) if CAN_FORK else dict.fromkeys(batch, done.returncode)
    return {name: _called(Path(call.folder), codes[name]) for name, call in calls.items()}


def _called(folder: Path, code: int) -> Called:
    result = folder / RESULT
    return Called(
        code,
        (folder / ERRORS).read_text("utf-8", "replace"),
        json.loads(result.read_text("utf-8")) if result.exists() else None,
    )


def main() -> None:
    """Import the program *argv[1]*, make the calls from stdin, and print their exit codes."""
    program, calls = Path(sys.argv[1]), json.load(sys.stdin)
    sys.path[0] = str(program.parent)
    spec = importlib.util.spec_from_file_location(program.stem, program)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[program.stem] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not CAN_FORK:
        (call,) = calls.values()
        _call(module, call)
    gc.freeze()
    processes = {name: os.fork() or _call(module, call) for name, call in calls.items()}
    codes = {name: os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for name, process in processes.items()}
    os.write(1, f"\n{json.dumps(codes)}\n".encode())


def _call(module: Any, call: Any) -> NoReturn:
    """Make one call in this process, and end it as the interpreter does."""
    os.environ.clear()
    os.environ.update(call["variables"])
    os.chdir(call["folder"])
    for number, name in ((1, OUTPUT), (2, ERRORS)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    code: object = 0
    try:
        result = getattr(module, call["function"])(*call["arguments"])
        Path(RESULT).write_text(json.dumps(result), encoding="utf-8")
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 - as the interpreter itself
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    main()
