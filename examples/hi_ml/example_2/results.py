"""Fetch and print the log of the latest run."""

from __future__ import annotations

from pathlib import Path

from himl_cli import get_most_recent_run


def main() -> None:
    run = get_most_recent_run("most_recent_run.txt")
    for name in run.get_file_names():
        if name.startswith("user_logs/std_log"):
            log = Path("outputs") / Path(name).name
            run.download_file(name, log)
            print(log.read_text())


if __name__ == "__main__":
    main()
