"""TensorBoard's event files, and a running `himl tb` or `himl ui`."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from tests.support.running import Himl, until

NAME = "events.out.tfevents.1772366400.node.7.0"

WRITER = """
import os, sys, time
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

def write(writer, tag, step, value):
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
    writer.add_event(Event(wall_time=1772366400.0 + step, step=step, summary=summary))
    writer.flush()
"""
"""The beginning of a script that writes event files."""


def event_bytes(values: Sequence[float], tag: str = "loss") -> bytes:
    """An event file with *values* at steps from 0. A file with fewer values is an exact prefix of it."""
    with tempfile.TemporaryDirectory() as folder:
        writer = EventFileWriter(folder)
        for step, value in enumerate(values):
            writer.add_event(
                Event(
                    wall_time=1772366400.0 + step,
                    step=step,
                    summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)]),
                )
            )
        writer.close()
        (path,) = Path(folder).iterdir()
        content = path.read_bytes()
    return _without_start_time(content)


def _without_start_time(content: bytes) -> bytes:
    """Remove the first record, which has the time of writing."""
    length = int.from_bytes(content[:8], "little")
    return content[8 + 4 + length + 4 :]


def scalars(folder: Path, tag: str = "loss") -> list[tuple[int, float]]:
    """Step and value of each point that TensorBoard reads from the event files in *folder*."""
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [(point.step, point.value) for point in accumulator.Scalars(tag)]


DIRECT = build_opener(ProxyHandler({}))


def is_closed(port: int, host: str = "127.0.0.1") -> bool:
    """Whether no server listens on the port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        return probe.connect_ex((host, port)) != 0


def bearing(token: str) -> dict[str, str]:
    """The header by which programs sign in to a board with a *token*."""
    return {"Authorization": f"Bearer {token}"} if token else {}


class Board:
    """A running board. `line` is the line with its `address`, which is the `url` with its `token`, and `host` the
    host for requests.
    """

    def __init__(self, process: subprocess.Popen[bytes], said: Path, host: str = "127.0.0.1") -> None:
        self.process = process
        self.host = host
        self._said = said
        assert process.stdout is not None
        self.line = process.stdout.readline().decode()
        found = re.search(r"(http://[^\s\"]+/)(?:\?token=(\w+))?", self.line)
        assert found, self.line + self.talk
        self.address, self.url, self.token = found[0], found[1], found[2] or ""

    @property
    def talk(self) -> str:
        """All of stderr."""
        return self._said.read_text("utf-8")

    @property
    def port(self) -> int:
        return int(self.url.rstrip("/").rpartition(":")[2])

    def ask(self, path: str, **query: str) -> Any:
        """TensorBoard's reply, None if it does not have the data (yet)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        try:
            asked = Request(f"http://{host}:{self.port}/{path}?{urlencode(query)}", headers=bearing(self.token))
            with DIRECT.open(asked, timeout=60) as answer:
                return json.load(answer)
        except HTTPError as err:
            err.close()
        except (URLError, HTTPException, OSError):
            pass
        return None

    def values(self, run: str, tag: str = "loss") -> list[float]:
        return [value for _, _, value in self.ask("data/plugin/scalars/scalars", run=run, tag=tag) or []]

    def shows(self, run: str, values: Sequence[float]) -> None:
        """Wait until that run has these values."""
        until(
            lambda: self.values(run) == list(values),
            lambda: f"{run} is {values}, but {self.values(run)}; there are {self.ask('data/runs')}; {self.talk}",
        )

    def says(self, text: str, times: int = 1) -> None:
        """Wait until stderr contains *text* *times* times."""
        until(lambda: self.talk.count(text) >= times, lambda: f"'{text}' is said, but: {self.talk}")

    def end(self, number: int = signal.SIGINT) -> int:
        """End it with a signal, and return its exit code once TensorBoard has ended."""
        self.process.send_signal(number)
        code = self.process.wait(60)
        until(lambda: is_closed(self.port, self.host), "the server has ended")
        return code


@contextmanager
def serving(
    himl: Himl,
    tmp_path: Path,
    *options: str,
    env: Mapping[str, str] | None = None,
    host: str = "127.0.0.1",
    prefix: Sequence[str] = (),
    stdin: int | None = subprocess.DEVNULL,
    command: Sequence[str] = ("tb", "--refresh", "1"),
) -> Iterator[Board]:
    """`himl tb` with an interval of a second, or another *command*, on a free port. `prefix` precedes the program."""
    port = () if "--port" in options else ("--port", "0")
    said, own = tmp_path / "said.txt", tmp_path / "tmp"
    own.mkdir(exist_ok=True)
    with said.open("wb") as talk:
        process = subprocess.Popen(
            [*prefix, str(himl.program), *command, *port, *options],
            cwd=himl.folder,
            env=os.environ | {"TMPDIR": str(own)} | dict(env or {}),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=talk,
            start_new_session=True,
        )
    try:
        yield Board(process, said, host)
    finally:
        process.kill()
        process.communicate()


PROJECTOR: dict[str, str | bytes] = {
    "projector_config.pbtxt": 'embeddings {\n  tensor_path: "00000/default/tensors.tsv"\n'
    '  metadata_path: "00000/default/metadata.tsv"\n}\n',
    "00000/default/tensors.tsv": "1.0\t2.0\n3.0\t4.0\n5.0\t6.0\n",
    "00000/default/metadata.tsv": "a\nb\nc\n",
}
"""Files of TensorBoard's projector, as PyTorch's `add_embedding` writes them."""

LONG = event_bytes([1.0, 0.5, 0.25, 0.125])
SHORT = event_bytes([1.0, 0.5])
