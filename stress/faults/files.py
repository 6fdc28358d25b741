"""The files that commands move, the same in each run: all sizes from none to more than goes in one request."""

from __future__ import annotations

import random

from tests.support.tensorboard import NAME, event_bytes

MANY, MOST = 40, 300_000
MIDDLE, LARGE = 6 << 20, 34 << 20
EDGES = (0, 1, 2, (16 << 10) - 1, 16 << 10, (16 << 10) + 1)


def moved_files() -> dict[str, bytes]:
    """42 files: the empty one, small ones, one of 6 MiB and one of 34 MiB."""
    dice = random.Random("files")
    sizes = [*EDGES, *(round(MOST ** dice.random()) for _ in range(MANY - len(EDGES)))]
    files = {f"part_{number:02d}.bin": dice.randbytes(size) for number, size in enumerate(sizes)}
    return {**files, "middle.bin": dice.randbytes(MIDDLE), "large.bin": dice.randbytes(LARGE)}


def checkpoint_bytes() -> bytes:
    return random.Random("checkpoint").randbytes(LARGE)


def event_files() -> dict[str, bytes]:
    """Three event files by their names, of some 20 KB, 1 MB and 10 MB."""
    short = event_bytes([1.0 / (step + 1) for step in range(500)])
    return {NAME.replace(".7.", f".{number}."): short * times for number, times in enumerate((1, 50, 500))}


def project_files(dice: random.Random) -> dict[str, bytes]:
    """A project with a script, 30 modules and 9 MiB of data, none of which was ever sent before."""
    token = dice.randbytes(8).hex()
    modules = {f"lab/module_{number:02d}.py": f"NAME = '{token}-{number}'\n".encode() * dice.randint(1, 400) for number in range(30)}
    environment = b"name: lab\ndependencies:\n- python=3.11\n- pip\n- pip:\n  - mlflow-skinny\n"
    weights = token.encode() + random.Random("weights").randbytes(9 << 20)
    return {"train.py": b"print('trained')\n", "environment.yml": environment, "data/weights.bin": weights, **modules}
