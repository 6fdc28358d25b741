"""What a command that met names or links of somebody else has to show for itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set

from stress.faults import judge as faults
from stress.faults.judge import Ended, Verdict
from stress.names.hostile import Blob
from stress.names.tree import digest
from stress.records import Outcome

OWN = re.compile(r"\.himl-transfer\.(db(-wal|-shm|-journal)?|lock)|\.himl-ranks.*")
COPY_MARK = re.compile(r"\.himl-[0-9a-f]{6}")
"""What the name of a copy has in it where two would be one file."""
LEAST_SHOWN = 40
"""So many signs of a name that is too long for a line are enough to know it by."""


def shown(name: str) -> str:
    """*name* as it may stand in a line: every run of blanks and of signs that cannot be printed as one blank."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in name).split())


def is_named(name: str, said: str) -> bool:
    """Whether one line of *said* tells *name*; of a long one its beginning, and as Python would write it does as well."""
    forms = {shown(name), shown(repr(name)[1:-1])}
    return any(form[:LEAST_SHOWN] in line for form in forms for line in said.splitlines())


def raw_signs(text: str, but: str = "\n") -> list[str]:
    """Signs in *text* that a terminal would obey, or that turn what it shows; none of those in *but*."""
    return sorted({repr(sign) for sign in text if sign not in but and not sign.isprintable()})


def places_of(tree: Mapping[str, str], target: str) -> dict[str, str]:
    """What lies below *target*, but for folders."""
    inside = {path: what for path, what in tree.items() if path.startswith(f"{target}/") and what != "folder"}
    return {path[len(target) + 1 :]: what for path, what in inside.items()}


def is_own(path: str, state: str) -> bool:
    """Whether *path* is a file that earlier versions kept in the folder *state*, and that himl removes."""
    return path.startswith(f"{state}/") and OWN.fullmatch(path[len(state) + 1 :]) is not None


def file_problems(blobs: Sequence[Blob], places: Mapping[str, str], said: str, *, refused: Set[str], must: Set[str], counted: int = 0) -> list[str]:
    """What is wrong with the files that came.

    Each of *blobs* is exact at its own place (a copy may have a mark in its name), or is not there and named in *said*. Those called as one of
    *refused* may not be there, those of *must* have to. Nothing else may have come. *counted*: so many may be told by their number alone.
    """
    wrong: list[str] = []
    kept: set[str] = set()
    for blob in blobs:
        found = [path for path, what in places.items() if COPY_MARK.sub("", path) == blob.name and what.startswith(f"file {digest(blob.content)}")]
        kept.update(found)
        if found and blob.name in refused:
            wrong.append(f"{blob.name!r} is there")
        elif not found and blob.name in must:
            wrong.append(f"{blob.name!r} is lacking")
        elif not found and not is_named(blob.name, said):
            counted -= 1
            if counted < 0:
                wrong.append(f"{blob.name!r} is neither there nor named")
    return wrong + [f"{path!r} should not be there, or not so ({what.partition(' ')[0]})" for path, what in places.items() if path not in kept]


def judge(ended: Ended | None, documented: Set[int], problems: Sequence[str], *, is_all_there: bool) -> Verdict:
    """As for faults: the outcome of one call (None: it did not end); *problems* are those of what it left and said.

    One that leaves something out and says so has reported it, with exit code 0 as well.
    """
    verdict = faults.judge(ended, documented, problems, prints_on_failure=True)
    return Verdict(Outcome.reported) if verdict.outcome is Outcome.survived and not is_all_there else verdict
