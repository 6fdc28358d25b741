"""The program's entry: `himl`, and `python -m himl_cli` for where that is not on PATH."""

import signal
import sys

# Ctrl-C while modules are still being imported ends the process plainly, without a traceback
signal.signal(signal.SIGINT, signal.SIG_DFL)

if sys.argv[1:2] == ["--complete"]:
    from himl_cli.commands.complete import main as main
else:
    from himl_cli.app import main as main

if __name__ == "__main__":
    main()
