"""The entry point of `himl`, and of `python -m himl_cli` if himl is not on PATH."""

import gc
import signal
import sys

# Ctrl-C during imports ends the process without a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)
# With the default of 700, imports cause some fifty garbage collections, which find nothing. A command for a job makes
# 45,000 objects.
gc.set_threshold(60_000)

if sys.argv[1:2] == ["--complete"]:
    from himl_cli.commands.complete import main as main
else:
    from himl_cli.app import main as main

if __name__ == "__main__":
    main()
