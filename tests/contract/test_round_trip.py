"""What upload takes, download gives back, whatever the names, on every kind of datastore."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from himl_cli.core.files import is_bookkeeping
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.plan import DownloadRequest, Filters, UploadRequest
from himl_cli.services.transfer.upload import upload
from himl_cli.workspaces.base import BlobStore
from tests.contract.test_blob_store import azure_datastore, datastore
from tests.support.folders import contents

SIGNS = st.sampled_from("ab.C: \\\n\t\r\x1b\x7f\x85\u2028\u202eé\u0301%?*#&+~'\"<>|\U0001f600")
LETTERS = SIGNS | st.characters(exclude_characters="/\0", exclude_categories=["Cs"])
ODD = [
    "C:\\x",
    "C:",
    "..\\up",
    "\\\\host\\x",
    "two\nlines",
    "end.",
    "end ",
    "...",
    "aux.txt",
    "x.himl-part",
    ".himl-transfer.db",
    "%2e%2e",
    "e\u0301",
    "é",
    "~",
]
PARTS = (st.text(LETTERS, min_size=1, max_size=12) | st.sampled_from(ODD)).filter(lambda part: part not in (".", "..", ".himl"))
NAMES = st.lists(PARTS, min_size=1, max_size=3).map("/".join)
_numbers = count()


@pytest.fixture(params=[datastore, azure_datastore], ids=["local", "azure"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlobStore]:
    with ExitStack() as stack:
        yield stack.enter_context(request.param(request, tmp_path, {}))[0]


@pytest.mark.skipif(sys.platform == "win32", reason="NEEDS a file system that takes any name")
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(NAMES, min_size=1, max_size=12))
def test_what_upload_takes_download_gives_back(store: BlobStore, names: set[str]) -> None:
    prefix = f"case-{next(_numbers)}"
    with tempfile.TemporaryDirectory() as folder:
        here, back = Path(folder) / "here", Path(folder) / "back"
        made = {name for name in names if _put(here / name, name.encode())}
        seen = {name for name in made if not any(map(is_bookkeeping, name.split("/")))}
        if not seen:
            return
        up = upload(store, UploadRequest(here, prefix))
        kept_out = {one.name for one in up.refused} | {one.name for one in up.failed}
        taken = {name for name in seen if f"{prefix}/{name}" not in kept_out}
        down = download(store, DownloadRequest(back, Filters(f"{prefix}/"), strip_prefix=True)) if taken else None
        came = contents(back)
        assert came == {name: name.encode() for name in taken}
        assert down is None or down.problem() is None
        assert up.files == len(taken)


def _put(path: Path, body: bytes) -> bool:
    """Whether the file system takes the file beside the others."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    except OSError:
        return False
    return True
