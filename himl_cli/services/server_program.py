"""TensorBoard or MLflow's server as a process that ends with its parent, which closes the pipe of its standard input.

The arguments are a folder that the process removes at its end, because the parent may have been killed, the name of the
server, and the arguments of the server. The first line of standard input describes the server's `Access`.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import sys
import threading

from himl_cli.services.server_access import Access, run_tensorboard


def main() -> None:
    own, server = sys.argv.pop(1), sys.argv.pop(1)
    access = Access(**json.loads(sys.stdin.readline()))
    starter_is_gone = threading.Event()

    def end_with_starter() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        starter_is_gone.set()
        os.kill(os.getpid(), signal.SIGTERM)  # lets the server clean up

    def clean_up() -> None:
        if starter_is_gone.is_set():
            shutil.rmtree(own, ignore_errors=True)

    # Handles signals until the server installs its own handler
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit())
    threading.Thread(target=end_with_starter, daemon=True).start()
    # Registered before the server's functions, so that it runs after them: one of TensorBoard's creates a folder
    atexit.register(clean_up)
    if server == "mlflow":
        from himl_cli.services.mlflow_app import run_mlflow

        run_mlflow(access, *sys.argv[1:])
    else:
        run_tensorboard(access)


if __name__ == "__main__":
    main()
