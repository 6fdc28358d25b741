"""A lock whose file goes when it is given back, so that nothing is left of it."""

from __future__ import annotations

import os
import sys

from himl_cli.core.processes import ProcessLock


class PassingLock(ProcessLock):
    """The lock of a file that its holder removes before giving it back, and nobody else ever.

    Who had opened that file before, and gets its lock afterwards, has the lock of nothing: others take that of the next
    file of its name.
    """

    def take(self) -> bool:
        """As HeldLock has it; ours is the lock of the file that is there. Raises OSError, FileNotFoundError where its
        folder has gone."""
        while super().take():
            if self._is_there():
                return True
            self.release()
        return False

    def _is_there(self) -> bool:
        if sys.platform == "win32":
            return self._path.exists()  # a file that is open cannot be removed
        try:
            return os.path.samestat(os.fstat(self._held), os.stat(self._path))
        except FileNotFoundError:
            return False
