"""Files that lie in the working folder when the script starts: copied there by the job's own command, out of an input."""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Mapping

from himl_cli.core.placeholders import PLACEHOLDER

_RANK = "${LOCAL_RANK:-${OMPI_COMM_WORLD_LOCAL_RANK:-0}}"


def bringing(brought: Mapping[str, str]) -> str:
    """What the command begins with: each file is copied to its place by one rank of a node, the others wait for it.

    What is there stays, since it is another try's: a job that was pre-empted goes on from what it had reached. A copy takes its name once it is whole.
    """
    return "".join(_brought(place, source) for place, source in brought.items())


def _brought(place: str, source: str) -> str:
    target, folder, part = shlex.quote(place), shlex.quote(posixpath.dirname(place) or "."), shlex.quote(f"{place}.part")
    complaint = shlex.quote(f"himl: cannot bring {place}.")
    copying = f"mkdir -p {folder} && cp {_word(source)} {part} && mv {part} {target} || {{ echo {complaint} >&2; exit 1; }}"
    return f'if [ ! -e {target} ]; then if [ "{_RANK}" = 0 ]; then {copying}; else until [ -e {target} ]; do sleep 1; done; fi; fi; '


def _word(source: str) -> str:
    """*source* as one word of bash, its placeholder for the service to fill in."""
    found = PLACEHOLDER.search(source)
    if found is None:
        return shlex.quote(source)
    return f'"{found[0]}"{shlex.quote(source[found.end() :])}'
