"""The checks of `himl doctor --ssh`: the connection to another machine, himl there, and what jobs need."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, suppress

from himl_cli import __version__
from himl_cli.core.errors import BadUsage, HimlError
from himl_cli.core.workspaces import Check
from himl_cli.workspaces.remote.address import RemoteAddress
from himl_cli.workspaces.remote.connection import RemoteChannel, how_to_update, socket_folder, ssh_command
from himl_cli.workspaces.remote.install import set_up

SSH, HIML, PYTHON, DISK = "ssh", "remote himl", "remote python", "remote disk"
LEAST_FREE = 1 << 30  # bytes that a run and its files may soon need


def remote_checks(address: RemoteAddress, *, needs_slurm: bool) -> Iterator[Check]:
    """Check a new connection, and the machine at *address*, which must have sbatch if it *needs_slurm*."""
    if socket_folder() is not None:
        with suppress(OSError):  # other commands keep their connection, and the next one is new
            program, *words = ssh_command(address.host)
            subprocess.run([program, "-O", "stop", *words], capture_output=True)
    seconds, there = list[float](), ""
    try:
        for _ in range(2):
            begin = time.monotonic()
            with closing(RemoteChannel(address)) as channel:
                there = channel.there.version
            seconds.append(time.monotonic() - begin)
    except BadUsage as err:  # ssh itself works
        yield Check.passed(SSH, f"ssh can connect to '{address.host}'.")
        yield Check.failed(HIML, str(err), err.hint)
        return
    except HimlError as err:
        yield Check.failed(SSH, str(err), err.hint)
        return
    yield Check.passed(
        SSH, f"A first call of '{address.host}' took {seconds[0]:.1f} s, a second one {seconds[1]:.1f} s."
    )
    if socket_folder() is None:
        text = "Calls do not share a connection, so that each one logs in."
        yield Check.note(SSH, text, "Set XDG_RUNTIME_DIR to a folder of yours with a short path. Not on Windows.")
    if there == __version__:
        yield Check.passed(HIML, f"himl {there} runs there and here.")
    else:
        text = f"himl {there} runs there, and himl {__version__} here."
        yield Check.note(HIML, text, f"Install this version there: {how_to_update(address)}")
    has_own = bool(address.python) and not address.run_with
    wanted = {address.python: has_own, "bash": bool(address.setup), "sbatch": needs_slurm}
    programs = [name for name, is_needed in wanted.items() if is_needed]
    try:
        facts = set_up(address, address.himl_python, "", [], programs)
    except HimlError as err:
        yield Check.failed(PYTHON, str(err), err.hint)
        return
    table = f"[remote.{address.table}]"
    for name in facts.lacking:
        remedies = {"bash": "Install bash there, or omit 'setup'.", "sbatch": "Name a login node as 'host' of Slurm."}
        remedy = remedies.get(name, f"Name another one: python in {table}")
        yield Check.failed(PYTHON, f"There is no '{name}' there.", remedy)
    if not facts.lacking:
        jobs = f"'{address.python}'" if address.python else "the same"
        yield Check.passed(PYTHON, f"himl runs with Python {facts.python}, and jobs with {jobs}.")
    free = f"The home folder there has {facts.free / 1e9:,.1f} GB free."
    if facts.free < LEAST_FREE:
        yield Check.note(DISK, free, f"Free some space, or name another folder: folder in {table}")
    else:
        yield Check.passed(DISK, free)
