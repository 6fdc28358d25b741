"""What the other end of an SSH connection sends is checked before it is used."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.errors import ServiceFailed
from himl_cli.core.logged import RunResults
from himl_cli.core.runs import Run
from himl_cli.workspaces.remote.channel import packed, unpacked
from tests.support.azure import write_program
from tests.support.running import Himl, write_files


@pytest.mark.parametrize("run_id", ["", ".", "..", "../evil", "a/b", "a\\b", "x\0y", "y" * 256])
def test_a_run_with_an_id_that_is_no_name_is_refused(run_id: str) -> None:
    """Ids are names of folders here."""
    bad, good = Run(run_id, "train"), Run("train_1_aa", "train")
    replies: Sequence[tuple[Any, Any]] = [
        (Run, bad),
        (Sequence[Run], [good, bad]),
        (Mapping[str, tuple[Run, RunResults]], {"train_1_aa": (good, RunResults()), run_id: (bad, RunResults())}),
    ]
    for kind, reply in replies:
        with pytest.raises(ServiceFailed, match="a run with an invalid id"):
            unpacked(kind, packed(reply))
    assert unpacked(Run, packed(good)) == good


# The other end of a submission, which names another run than the one that was sent
STARTS_ANOTHER = r"""
import struct, sys
out, source = sys.stdout.buffer, sys.stdin.buffer
def send(kind, body):
    out.write(kind + struct.pack(">I", len(body)) + body); out.flush()
def receive():
    kind, length = struct.unpack(">cI", source.read(5)); return source.read(length)
out.write(b"\0himl remote\n")
send(b"R", b"\x80")
receive(), receive()
send(b"P", b"\x90")
send(b"R", %r)
"""


def test_a_reply_about_another_run_is_refused(
    himl: Himl, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "PATH",
        str(write_program(tmp_path / "programs", "ssh", STARTS_ANOTHER % packed(Run("other_1_aa", "other")))),
        prepend=os.pathsep,
    )
    write_files(project, {"train.py": ""})
    refused = himl("submit", "train.py", "--cluster", "ssh:box")
    assert (refused.code, "The other end started run 'other_1_aa' instead of 'train_" in refused.stderr) == (5, True), (
        refused.stderr
    )
    assert not (project / "most_recent_run.txt").exists()
