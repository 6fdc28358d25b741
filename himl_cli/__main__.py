"""The entry point of `himl`, and of `python -m himl_cli` if himl is not on PATH."""

import atexit
import gc
import os
import signal
import sys
from itertools import takewhile

# Ctrl-C during imports ends the process without a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)
# With the default of 700, imports cause some fifty garbage collections, which find nothing. A command for a job makes
# 45,000 objects, one for Azure ML 70,000 to 110,000.
gc.set_threshold(120_000)

ELSEWHERE = ("cluster", "workspace", "dry_run", "resume", "from", "sweep", "crossval", "different_seeds", "help")


def may_run_here(words: list[str]) -> bool:
    """Whether `himl submit` with *words* may need a supervisor on this machine. Before the parser and the settings are
    read, that is an assumption, which costs a process if it is wrong."""
    options = {word.partition("=")[0].lstrip("-").replace("-", "_") for word in words if word.startswith("--")}
    variables = [f"HIML_SUBMIT_{name.upper()}" for name in ELSEWHERE]
    is_here = options.isdisjoint(ELSEWHERE) and os.environ.keys().isdisjoint(variables)
    is_open = None not in (sys.stdin, sys.stdout, sys.stderr)  # else a pipe to the supervisor could take their place
    return bool(words) and is_here and is_open and not {"-w", "-h"}.intersection(words)


# The supervisor takes as long to load as this process.
if sys.argv[1:2] == ["submit"] and may_run_here([*takewhile(lambda word: word != "--", sys.argv[2:])]):
    from himl_cli.core.processes import end_standby, start_standby
    from himl_cli.workspaces.local import SUPERVISOR

    start_standby(SUPERVISOR)
    atexit.register(end_standby, SUPERVISOR)

if sys.argv[1:2] == ["--complete"]:
    from himl_cli.commands.complete import main as main
else:
    from himl_cli.app import main as main

if __name__ == "__main__":
    main()
