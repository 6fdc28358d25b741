"""MD5 of complete files, and of files whose parts arrive out of order.

They import hashlib late, since a submission needs their module, but no digest.
"""

from __future__ import annotations

import threading
from pathlib import Path
from queue import SimpleQueue

CHUNK = 1 << 20
SMALL_READ = 32 << 10


def short_hash(text: str) -> str:
    """Name for *text* that is valid in every file system."""
    import hashlib

    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def md5_of(path: str | Path) -> bytes:
    import hashlib

    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb", buffering=0) as source:
        piece = source.read(SMALL_READ)
        digest.update(piece)
        if len(piece) == SMALL_READ:
            # Use one buffer. Allocating memory each time costs as much as reading into it.
            buffer = memoryview(bytearray(CHUNK))
            while length := source.readinto(buffer):
                digest.update(buffer[:length])
    return digest.digest()


class FileDigest:
    """MD5 of a file that is being written. It is read back from the file, so that it covers what is on the disk.

    One thread at a time sets `is_ready`, once. Unlike with `Event`, a Ctrl-C at that moment blocks no one.
    """

    def __init__(self, path: str, size: int, queue: SimpleQueue[FileDigest | None]) -> None:
        import hashlib

        self.path = path
        self.size = size
        self.position = 0
        self.is_ready = False
        self._is_cancelled = False
        self._queue = queue
        self._front = 0  # start of the last part that has no gap before it
        self._ends: dict[int, int] = {}
        self._is_queued = False
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._error: OSError | None = None
        self._reading = threading.Lock()
        self._unready = threading.Lock()  # held until the MD5 is ready
        self._unready.acquire()

    def written(self, start: int, stop: int) -> None:
        """Record the bytes from *start*, where one of the parts begins, to *stop* as written."""
        if stop > start:
            self._ends[start] = stop
        there = self._available()
        if not self._is_queued and (there >= self.size or there - self.position >= CHUNK):
            self._is_queued = True
            self._queue.put(self)

    def _available(self) -> int:
        """End of the bytes without a gap. The search continues from its last position, so that many parts cost no more
        than few."""
        front = self._front
        stop = self._ends.get(front, front)
        while stop in self._ends:
            front, stop = stop, self._ends[stop]
        self._front = front
        return stop

    def result(self) -> bytes:
        """Wait for the MD5. Raises OSError if the file could not be read."""
        with self._unready:
            pass
        if self._error is not None:
            raise self._error
        return self._md5.digest()

    def cancel(self) -> None:
        """Stop, so that the file can be removed. The thread has closed it when this returns."""
        self._is_cancelled = True
        with self._reading:
            self._set_ready()

    def _set_ready(self) -> None:
        if not self.is_ready:
            self.is_ready = True
            self._unready.release()

    def catch_up(self, buffer: memoryview) -> None:
        """Digest the available bytes through *buffer*, in the thread."""
        self._is_queued = False
        with self._reading:
            if self.is_ready:
                return
            try:
                with open(self.path, "rb", buffering=0) as source:
                    source.seek(self.position)
                    while not self._is_cancelled and self.position < (stop := self._available()):
                        length = source.readinto(buffer[: stop - self.position])
                        if not length:
                            raise OSError(f"'{self.path}' is shorter than the data written to it")
                        self._md5.update(buffer[:length])
                        self.position += length
            except OSError as err:
                self._error = err
            if self._error is not None or self.position >= self.size:
                self._set_ready()


class DigestThread:
    def __init__(self) -> None:
        self._queue: SimpleQueue[FileDigest | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._last: set[FileDigest] = set()

    def close(self) -> None:
        """Cancel unfinished digests."""
        for digest in self._last:
            digest.cancel()
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()

    def follow(self, path: str, size: int) -> FileDigest:
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="md5", daemon=True)
            thread.start()  # after a Ctrl-C here, no one must wait for a thread that did not start
            self._thread = thread
        digest = FileDigest(path, size, self._queue)
        self._last = {known for known in self._last if not known.is_ready} | {digest}
        return digest

    def _work(self) -> None:
        buffer = memoryview(bytearray(CHUNK))
        while (digest := self._queue.get()) is not None:
            digest.catch_up(buffer)
