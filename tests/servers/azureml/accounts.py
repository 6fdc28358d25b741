"""The storage accounts of a stage. Azurite has to know them from its start, so there are only so many, and they go from test to test, emptied."""

from __future__ import annotations

from collections import deque

from tests.servers.azureml.storage import Storage

COUNT = 200  # twice as many as the workspaces that can be there at one time


class Accounts:
    """Free ones are taken in turn, so that an account rests as long as possible."""

    def __init__(self, prefix: str, key: str) -> None:
        self.key = key
        self.names = [f"{prefix}{number:03d}" for number in range(COUNT)]
        self._free = deque(self.names)
        self._taken: dict[str, Storage] = {}

    def take(self, azurite: str) -> Storage:
        if not self._free:
            raise RuntimeError(f"all {COUNT} storage accounts of this stage are in use: a test left its workspaces behind, or makes very many")
        storage = Storage(self._free.popleft(), self.key, azurite)
        self._taken[storage.account] = storage
        return storage

    def give_back(self, storage: Storage) -> None:
        storage.wipe()
        storage.close()
        del self._taken[storage.account]
        self._free.append(storage.account)

    def close(self) -> None:
        for storage in self._taken.values():
            storage.close()
