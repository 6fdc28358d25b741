"""What himl is compared with, and what of it can be had on this machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks.raw import Raw
from tests.support.clients import PythonMissing, client_python

VERSIONS_OF = "from importlib.metadata import version; import sys; print('\\n'.join(version(name) for name in sys.argv[1:]))"


def peer_python(raw: Raw, environment: str, candidate: str, *packages: str) -> Path | None:
    """The Python of the *environment* of `tests.support.clients`, made where it is not there; notes the versions of *packages* in it.

    None, and *candidate* noted as left out, where it cannot be had.
    """
    try:
        python = client_python(environment)
        said = subprocess.run([str(python), "-c", VERSIONS_OF, *packages], stdout=subprocess.PIPE, text=True, check=True).stdout
    except PythonMissing as e:
        raw.leave_out(candidate, f"it needs {e}")
    except (subprocess.SubprocessError, OSError) as e:
        raw.leave_out(candidate, f"its environment cannot be made ({type(e).__name__})")
    else:
        raw.name_peers(**dict(zip(packages, said.split(), strict=True)))
        return python
    return None
