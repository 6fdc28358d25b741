"""Stress for `himl`: cases drawn by a seed, run on the double of Azure ML, and judged. `python -m stress --help` tells more."""
