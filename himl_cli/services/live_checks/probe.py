"""The script of the test jobs. Needs the standard library only, since it runs in any environment of a cluster."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


def say(*words: str) -> None:
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


def write(folder: str) -> None:
    path = Path(folder, "number.txt")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("42\n")


def write_files() -> None:
    Path("outputs", "a b").mkdir(parents=True)
    Path("outputs", "a b", "ü#%20.txt").write_text("odd name\n")
    Path("outputs", "empty.txt").touch()


def main(action: str, *arguments: str) -> None:
    say("himl-live:", action)
    if action == "files":
        write_files()
    elif action == "fail":
        sys.exit(3)
    elif action == "kill":  # as the system ends a process without memory
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "sleep":
        time.sleep(900)
    elif action == "variables":
        say("himl-live variables:", *sorted(os.environ))
    elif action == "output":
        write(os.environ["AZURE_ML_OUTPUT_O"])
    elif action == "trial":  # --x NUMBER
        sys.exit(arguments[-1] == "3")
    elif action == "step":  # --output FOLDER or --input_data FOLDER
        write(arguments[-1]) if "--output" in arguments else say(Path(arguments[-1], "number.txt").read_text())


if __name__ == "__main__":
    main(*sys.argv[1:])
