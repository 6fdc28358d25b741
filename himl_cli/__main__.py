"""The program's entry: `himl`, and `python -m himl_cli` for where that is not on PATH."""

import signal
import sys


def main() -> None:
    """Run himl. Ctrl-C while its modules are still being imported, or when it is through, ends the process plainly,
    without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.argv[1:2] == ["--complete"]:
        from himl_cli.commands.complete import answer

        return answer(sys.argv[2:])
    from himl_cli.app import main as run
    from himl_cli.core.errors import Interrupted

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run()
    except KeyboardInterrupt:  # just before the error edge, or just behind it
        sys.exit(Interrupted.exit_code)
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()
