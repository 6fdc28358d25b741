"""Print the prime numbers below a number."""

from __future__ import annotations

import argparse


def primes_below(limit: int) -> list[int]:
    """Return all primes smaller than *limit*, with the sieve of Eratosthenes."""
    is_prime = [False, False, *([True] * (limit - 2))][: max(limit, 0)]
    for number in range(2, int(max(limit, 0) ** 0.5) + 1):
        if is_prime[number]:
            for multiple in range(number * number, limit, number):
                is_prime[multiple] = False
    return [number for number, prime in enumerate(is_prime) if prime]


def main() -> None:
    parser = argparse.ArgumentParser(description="Print prime numbers.")
    parser.add_argument("-n", "--n", type=int, default=100, help="print the primes below this number")
    args = parser.parse_args()
    primes = primes_below(args.n)
    print(", ".join(map(str, primes)))


if __name__ == "__main__":
    main()
