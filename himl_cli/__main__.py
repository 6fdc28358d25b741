"""The program's entry: `himl`, and `python -m himl_cli` for where that is not on PATH."""

import signal
import sys


def main() -> None:
    """Run himl. Ctrl-C while its modules are still being imported ends the process plainly, without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.argv[1:2] == ["--complete"]:
        from himl_cli.commands._complete import answer

        return answer(sys.argv[2:])
    from himl_cli.app import main as run

    signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
