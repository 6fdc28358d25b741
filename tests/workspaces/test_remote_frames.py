"""What the other end of an SSH connection sends is checked before it is used."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.errors import ServiceFailed
from himl_cli.core.logged import RunResults
from himl_cli.core.runs import Run
from himl_cli.workspaces.remote import channel
from himl_cli.workspaces.remote.channel import packed, unpacked
from tests.support.azure import write_program
from tests.support.running import Himl, Outcome, write_files


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


# The other end, which answers each call by a line of *answers*, and sends what *fetched* makes for a fetch
SPEAKS = r"""
import os, struct, sys, time
sys.path[:0] = %(path)r
import msgspec
out, source = sys.stdout.buffer, sys.stdin.buffer
pack = msgspec.msgpack.encode
def send(kind, body):
    out.write(kind + struct.pack(">I", len(body)) + body); out.flush()
def receive():
    kind, length = struct.unpack(">cI", source.read(5)); return source.read(length)
def pieces(*made, data=b""):
    head = pack(made)
    return struct.pack(">I", len(head)) + head + data
md5 = bytes.fromhex("900150983cd24fb0d6963f7d28e17f72")  # of abc
out.write(b"\0himl remote\n")
send(b"R", pack({}))
receive()
while True:
    method = msgspec.msgpack.decode(receive())["method"]
    if method == "run": send(b"R", pack({"id": "train_1_aa", "experiment": "train", "status": "Completed"}))
    elif method == "run_files": send(b"R", pack({"label": "files", "origin": "o"}))
    elif method == "list":
        send(b"P", pack([{"name": name, "size": 3, "etag": "e"} for name in %(names)r])); send(b"R", pack(None))
    elif method == "fetch":
        %(fetched)s
        send(b"R", pack(None))
    else: send(b"R", pack(None))
"""


@pytest.fixture
def speak(himl: Himl, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Download from another end that sends the files *names* and, for a fetch, the frames that *fetched* makes."""

    def download(fetched: str, names: Sequence[str] = ("ok",)) -> Outcome:
        text = SPEAKS % {"fetched": fetched, "names": names, "path": sys.path}
        folder = write_program(tmp_path / "programs", "ssh", text)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return himl("download", "train_1_aa", "--output_dir", "here", "-w", "ssh:box")

    return download


@pytest.mark.parametrize(
    ("fetched", "said"),
    [
        ("send(b'X', pieces([0, 0, 3, True, md5], data=b'abd'))", "do not match"),
        ("send(b'X', pieces([0, 0, 2, True, md5], data=b'ab'))", "incomplete"),
        ("send(b'X', pieces([0, 0, 4, True, md5], data=b'abcd'))", "did not request"),
        ("send(b'X', pieces([0, 1, 3, True, md5], data=b'abc'))", "did not request"),
        ("send(b'X', pieces([0, 2**63, 3, True, md5], data=b'abc'))", "did not request"),
        ("send(b'X', pieces([1, 0, 3, True, md5], data=b'abc'))", "did not request"),
        ("send(b'X', pieces([-1, 0, 3, True, md5], data=b'abc'))", "did not request"),
        ("send(b'X', pieces([0, 0, 3, True, md5], data=b'abcd'))", "invalid message"),
        ("send(b'X', pieces([0, 0, -3, True, md5], data=b''))", "invalid message"),
        ("send(b'X', pieces([0, 0, 3, True, 'text'], data=b'abc'))", "invalid message"),
        ("send(b'X', struct.pack('>I', 2**32 - 1) + b'abc')", "invalid message"),
        ("send(b'X', b'')", "invalid message"),
        ("send(b'D', b'abc')", "unexpected message"),
        ("send(b'?', b'abc')", "unknown kind"),
        ("out.write(b'X' + struct.pack('>I', 2**31)); out.flush()", "too large"),
        ("pass", "did not send all"),
    ],
)
def test_a_frame_that_is_not_the_requested_file_is_refused(
    fetched: str, said: str, speak: Callable[..., Outcome], project: Path
) -> None:
    """No file gets its name."""
    ended = speak(fetched)
    assert (ended.code != 0, said in ended.stderr, "Traceback" in ended.stderr) == (True, True, False), ended.stderr
    assert not (project / "here" / "train_1_aa" / "ok").exists()


def test_signs_of_life_alone_end_the_call(speak: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "LONGEST_WORK", 0.0)
    monkeypatch.setattr(channel, "ALIVE_EVERY", 0.1)
    ended = speak("while True: send(b'A', b''); time.sleep(0.01)")
    assert (ended.code, "The other end has worked on a call for" in ended.stderr) == (5, True), ended.stderr


def test_files_are_written_below_the_folder_of_the_download_only(
    speak: Callable[..., Outcome], project: Path, tmp_path: Path
) -> None:
    """Whatever their names are, and where links in that folder lead."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (project / "here" / "train_1_aa").mkdir(parents=True)
    (project / "here" / "train_1_aa" / "link").symlink_to(elsewhere)
    (project / "here" / "train_1_aa" / "ok").symlink_to(elsewhere / "ok")
    each = "for number in range(9): send(b'X', pieces([number, 0, 3, True, md5], data=b'abc'))"
    names = [
        "../up",
        str(elsewhere / "absolute"),
        "..",
        "a/../../up",
        "link/file",
        "ok",
        "a\\..\\..\\up",
        "e\x1b[2Jvil",
    ]
    ended = speak(each, [*names, "train/ok"])
    assert (ended.code != 0, "\x1b" in ended.stderr + ended.stdout) == (True, False), ended.stderr
    assert [*elsewhere.iterdir()] == []
    found = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*up*")}
    assert not found, found


ENDLESS = {
    "a greeting": "while True: out.write(b'hello ' * 10000)",
    "errors": "while True: sys.stderr.buffer.write(b'hello ' * 10000)",
}


@pytest.mark.parametrize("what", ENDLESS)
def test_endless_output_ends_the_command(
    what: str, himl: Himl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the memory or the disk is full."""
    text = f"import sys\nout = sys.stdout.buffer\n{ENDLESS[what]}\n"
    monkeypatch.setenv("PATH", str(write_program(tmp_path / "programs", "ssh", text)), prepend=os.pathsep)
    ended = himl("runs", "list", "-w", "ssh:box")
    assert (ended.code, "'box': it prints without end" in ended.stderr) == (5, True), ended.stderr
    assert len(ended.stderr) < 1000


def test_texts_have_no_control_characters(himl: Himl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those of ssh nor a version."""
    for text in (
        r"print('\x1b[2Jevil', file=sys.stderr); sys.exit(255)",
        r"print('\x1b[2Jevil'); sys.exit(1)",
        r"out.write(b'\0himl remote\nR\0\0\0\x10\x81\xa7version\xa6\x1b[2Jab'); out.flush(); sys.stdin.read(1)",
    ):
        program = f"import sys\nout = sys.stdout.buffer\n{text}\n"
        monkeypatch.setenv("PATH", str(write_program(tmp_path / "programs", "ssh", program)), prepend=os.pathsep)
        ended = himl("runs", "list", "-w", "ssh:box")
        assert (ended.code != 0, "\x1b" in ended.stderr, "[2J" in ended.stderr) == (True, False, True), ended.stderr


def test_a_file_ends_once(speak: Callable[..., Outcome], project: Path) -> None:
    """One that is complete stays, whatever comes later."""
    ended = speak("send(b'X', pieces([0, 0, 3, True, md5], [0, 3, 0, True, md5], data=b'abc'))", ["ok", "other"])
    assert (ended.code != 0, "did not request" in ended.stderr, "other" in ended.stderr) == (True, True, True)
    assert (project / "here" / "train_1_aa" / "ok").read_bytes() == b"abc"
    assert not (project / "here" / "train_1_aa" / "other").exists()
