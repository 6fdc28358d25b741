"""Fetch and print the output file of the latest run."""

from __future__ import annotations

from pathlib import Path

from himl_cli import download_files_from_run_id, get_most_recent_run_id


def main() -> None:
    run_id = get_most_recent_run_id("most_recent_run.txt")
    download_files_from_run_id(run_id, output_folder="results", prefix="outputs/primes.txt")
    print((Path("results") / "outputs" / "primes.txt").read_text())


if __name__ == "__main__":
    main()
