"""Record the arcs (from one line to the next) of himl_cli that each test takes. `stress/mutation.py` copies this file
into the environment's site-packages. A `.pth` file imports it in each process with HIML_TEST_REACH, the folder of the
results. It is also a plugin of pytest (PYTEST_DONT_REWRITE, since it is imported earlier)."""

from __future__ import annotations

import atexit
import os
import pickle
from typing import Any

FOLDER = os.environ.get("HIML_TEST_REACH", "")


class Tracer:
    """Coverage of this process. A process that `fork` creates records its own."""

    def __init__(self) -> None:
        import coverage

        source = os.environ["HIML_TEST_REACH_SOURCE"]
        self._coverage = coverage.Coverage(
            data_file=None, branch=True, source=[source], config_file=False, messages=False
        )
        self._root = os.path.dirname(source)
        self._coverage._warn_no_data = False
        self._coverage.start()
        atexit.register(self.write)
        os.register_at_fork(after_in_child=self.restart)
        for name in ("_exit", "execv", "execve"):
            setattr(os, name, self._written_before(getattr(os, name)))

    def restart(self) -> None:
        self._coverage.stop()
        self._coverage.erase()
        self._coverage.start()

    def write(self, test: str = "") -> None:
        """Write the arcs since the last call for *test*, by default the one that pytest sets in the environment."""
        self._coverage.stop()
        data = self._coverage.get_data()
        arcs = {
            os.path.relpath(file, self._root).replace(os.sep, "/"): data.arcs(file) for file in data.measured_files()
        }
        self._coverage.erase()
        if any(arcs.values()):
            path = os.path.join(FOLDER, f"{os.getpid()}-{os.urandom(6).hex()}")
            with open(path, "wb") as file:
                pickle.dump((test or os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0], arcs), file)
            os.rename(path, f"{path}.arcs")

    def _written_before(self, function: Any) -> Any:
        def wrapped(*arguments: Any) -> Any:
            self.write()
            return function(*arguments)

        return wrapped


TRACER = Tracer() if FOLDER else None


def pytest_runtest_logfinish(nodeid: str) -> None:
    if TRACER:
        TRACER.write(nodeid)
        TRACER.restart()
