"""Files that lie in the working folder when the script starts: copied there by the job's own command, out of an
input."""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Mapping

from himl_cli.core.sweeps import PLACEHOLDER

_RANK = "${LOCAL_RANK:-${OMPI_COMM_WORLD_LOCAL_RANK:-0}}"


def bringing(brought: Mapping[str, str]) -> str:
    """What the command begins with: each file is copied to its place by one rank of a node, the others wait for it.

    What is there stays, since it is another try's: a job that was pre-empted goes on from what it had reached. A copy
    takes its name once it is whole. A place that ends with a slash is a folder: all files of its source go there, in
    one command, however many they are.
    """
    return "".join(
        _folder_brought(place, source) if place.endswith("/") else _brought(place, source)
        for place, source in brought.items()
    )


def _brought(place: str, source: str) -> str:
    target, folder, part = (
        shlex.quote(place),
        shlex.quote(posixpath.dirname(place) or "."),
        shlex.quote(f"{place}.part"),
    )
    return _by_one_rank(
        target, f"mkdir -p {folder} && cp {_word(source)} {part} && mv {part} {target} || {_failing(place)}"
    )


def _folder_brought(place: str, source: str) -> str:
    """A loop over the files as they are found in the source; it is left where finding them fails, or copying one."""
    here = shlex.quote(place)
    copying = f'mkdir -p "${{t%/*}}" && cp {_word(source)}"$f" "$t.part" && mv "$t.part" "$t" || exit 1'
    one = _by_one_rank('"$t"', copying)
    loop = f'while IFS= read -r -d "" f; do f="${{f#./}}"; t={here}"$f"; {one}done'
    return f"( set -o pipefail; ( cd {_word(source)} && find . -type f -print0 ) | {loop} ) || {_failing(place)}; "


def _by_one_rank(target: str, copying: str) -> str:
    return (
        f'if [ ! -e {target} ]; then if [ "{_RANK}" = 0 ]; then {copying}; else until [ -e {target} ]; do sleep 1; '
        "done; fi; fi; "
    )


def _failing(place: str) -> str:
    return f"{{ echo {shlex.quote(f'himl: cannot bring {place}.')} >&2; exit 1; }}"


def _word(source: str) -> str:
    """*source* as one word of bash, its placeholder for the service to fill in."""
    found = PLACEHOLDER.search(source)
    if found is None:
        return shlex.quote(source)
    return f'"{found[0]}"{shlex.quote(source[found.end() :])}'
