"""Inputs that a job is to find at a path of the user's choice: linked there by the job's own command, whatever the
service thinks of paths."""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Iterable, Mapping
from itertools import combinations

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import DataSpec, JobSpec

VARIABLE = "AZURE_ML_INPUT_"


def targets_of(inputs: Iterable[DataSpec]) -> dict[str, str]:
    """By key, where the inputs that have a `target=` are to lie: an absolute path, or one from the working folder of
    the script."""
    places = {item.key: posixpath.normpath(item.target) for item in inputs if item.target}
    return {
        key: f"./{place}" if place.startswith("-") else place for key, place in places.items()
    }  # not to be taken for an option


def check_targets(spec: JobSpec) -> None:
    """Raises BadUsage for targets that cannot be links of their own: one within another, or where the snapshot has
    files already."""
    targets = targets_of(spec.inputs)
    for (one, place), (other, other_place) in combinations(targets.items(), 2):
        if _is_within(place, other_place) or _is_within(other_place, place):
            raise BadUsage(
                f"The inputs '{one}' and '{other}' cannot lie at '{place}' and '{other_place}': one would be inside "
                "the other."
            )
    for key, place in targets.items():
        if place == ".":
            raise BadUsage(
                f"Input '{key}': target=. is refused: the data would cover the script's own folder.",
                hint="Name another folder.",
            )
        if not place.startswith("/") and any(_is_within(name, place) for name in spec.snapshot.files):
            raise BadUsage(
                f"Input '{key}': target={place} is refused: the snapshot has files of its own there.",
                hint="Name another folder.",
            )


def laying_out(targets: Mapping[str, str]) -> str:
    """What the command begins with: each of *targets* becomes a link to its input, and what the variable of the input
    says.

    All ranks of a node do it, maybe at once: making a link either works or finds one (`-n`: and does not go into it).
    What is there and is something else stays as it is, and the job fails with a word in its log.
    """
    return "".join(_laid(key, target) for key, target in targets.items())


def _laid(key: str, target: str) -> str:
    source = f'"${{{{inputs.{key}}}}}"'
    link, parent = shlex.quote(target), shlex.quote(posixpath.dirname(target) or ".")
    complaint = shlex.quote(
        f"himl: the input {key} cannot lie at {target}: something else is there, or nothing may be written there."
    )
    return (
        f"[ -e {link} ] || {{ mkdir -p {parent} && ln -sn {source} {link}; }} 2>/dev/null || true; "
        f"[ {link} -ef {source} ] || {{ echo {complaint} >&2; exit 1; }}; "
        f"export {VARIABLE}{key}={link}; "
    )


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
