"""Whether the body of an upload has the MD5 that its headers promise.

The service compares for each request with `Content-MD5`, and for a whole block blob with `x-ms-blob-content-md5`, too
(Azure/azure-storage-ruby#64). Azurite does not look at the body of a list of blocks, and has another code for the rest.
"""

from __future__ import annotations

import base64
import hashlib

from tests.servers.azureml.blob_rules import StorageRefusal
from tests.servers.azureml.messages import Head


class UploadCheck:
    """Of one *request*; `add` takes its body piece by piece."""

    def __init__(self, request: Head) -> None:
        self._promised = request.get("content-md5") or (request.get("x-ms-blob-content-md5") if _puts_whole_blob(request) else "")
        self._digest = hashlib.md5()

    def add(self, content: bytes) -> None:
        if self._promised:
            self._digest.update(content)

    def check(self) -> None:
        """Once all is there. Raises StorageRefusal."""
        found = base64.b64encode(self._digest.digest()).decode()
        if self._promised and found != self._promised:
            message = "The MD5 value specified in the request did not match with the MD5 value calculated by the server."
            raise StorageRefusal(400, "Md5Mismatch", message, details={"UserSpecifiedMd5": self._promised, "ServerCalculatedMd5": found})


def _puts_whole_blob(request: Head) -> bool:
    return request.get("x-ms-blob-type") == "BlockBlob" and "comp=" not in request.first[1]
