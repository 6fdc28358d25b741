"""Event files as TensorBoard's own writer makes them, and its own reading of them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

NAME = "events.out.tfevents.1772366400.node.7.0"

WRITER = """
import os, sys, time
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

def write(writer, tag, step, value):
    writer.add_event(Event(wall_time=1772366400.0 + step, step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)])))
    writer.flush()
"""
"""The beginning of a script that writes event files."""


def event_bytes(values: Sequence[float], tag: str = "loss") -> bytes:
    """An event file with *values* at steps from 0; that of fewer values is its beginning, byte by byte."""
    with tempfile.TemporaryDirectory() as folder:
        writer = EventFileWriter(folder)
        for step, value in enumerate(values):
            writer.add_event(Event(wall_time=1772366400.0 + step, step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)])))
        writer.close()
        (path,) = Path(folder).iterdir()
        content = path.read_bytes()
    return _without_start_time(content)


def _without_start_time(content: bytes) -> bytes:
    """Drop the first record, which holds the moment of writing."""
    length = int.from_bytes(content[:8], "little")
    return content[8 + 4 + length + 4 :]


def scalars(folder: Path, tag: str = "loss") -> list[tuple[int, float]]:
    """Step and value of each point that TensorBoard reads from the event files in *folder*."""
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [(point.step, point.value) for point in accumulator.Scalars(tag)]
