"""Logs of a running job: what a process has written so far goes to the run's artifacts, a piece at a time."""

from __future__ import annotations

from pathlib import Path

from tests.servers.azureml.jobs.places import Place

PIECE = 4 * 1024 * 1024  # what a block of an append blob holds at most


class GrowingLog:
    """One file and the blob that follows it. With *whole* the blob is made anew each time, as older agents do; else it is appended to."""

    def __init__(self, path: Path, place: Place, *, whole: bool) -> None:
        self.path = path
        self._whole = whole
        self._sent = -1
        self._blob = place.storage.client.get_blob_client(place.container, place.path)

    def push(self) -> None:
        """Send what is new; the first time also where there is nothing yet."""
        size = self.path.stat().st_size if self.path.is_file() else 0
        if size == self._sent:
            return
        if self._whole:
            self._blob.upload_blob(self.path.read_bytes(), overwrite=True)
            self._sent = size
            return
        if self._sent < 0 or size < self._sent:
            self._begin()
        with self.path.open("rb") as source:
            source.seek(self._sent)
            while piece := source.read(PIECE):
                self._blob.append_block(piece)
                self._sent += len(piece)

    def _begin(self) -> None:
        """Replace what is there in one step: readers never find nothing."""
        self._blob.create_append_blob()
        self._sent = 0

    def last_lines(self, count: int = 20) -> str:
        """The end of the file, as far as it is text."""
        if not self.path.is_file():
            return ""
        return "\n".join(self.path.read_bytes()[-8192:].decode(errors="replace").splitlines()[-count:])
