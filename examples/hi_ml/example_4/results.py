"""Fetch the output dataset of example 4 from Azure ML, and print it."""

from __future__ import annotations

from pathlib import Path

from himl_cli import download_from_datastore


def main() -> None:
    download_from_datastore("himldatasets", "himl_sample4_output/", output_folder="results")
    print((Path("results") / "himl_sample4_output" / "primes.txt").read_text())


if __name__ == "__main__":
    main()
