"""Write the prime numbers below a number to an output file of the run."""

from __future__ import annotations

import argparse

from himl_cli import submit_to_azure_if_needed


def primes_below(limit: int) -> list[int]:
    """Return all primes smaller than *limit*, with the sieve of Eratosthenes."""
    is_prime = [False, False, *([True] * (limit - 2))][: max(limit, 0)]
    for number in range(2, int(max(limit, 0) ** 0.5) + 1):
        if is_prime[number]:
            for multiple in range(number * number, limit, number):
                is_prime[multiple] = False
    return [number for number, prime in enumerate(is_prime) if prime]


def main() -> None:
    run_info = submit_to_azure_if_needed(
        compute_cluster_name="cpu-cluster",
        wait_for_completion=True,
        wait_for_completion_show_output=True,
    )
    parser = argparse.ArgumentParser(description="Print prime numbers.")
    parser.add_argument("-n", "--n", type=int, default=100, help="print the primes below this number")
    parser.add_argument("-o", "--output", default="primes.txt", help="name of the file to write")
    args = parser.parse_args()
    primes = primes_below(args.n)
    output = run_info.output_folder / args.output
    output.write_text("\n".join(map(str, primes)))
    print(f"{len(primes)} primes written to {output}")


if __name__ == "__main__":
    main()
