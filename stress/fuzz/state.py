"""Parsers of other files that himl wrote, and anybody may have written over: records, orders, notes, caches; and of its word to other ranks."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

from himl_cli.api import submit_if_needed
from himl_cli.core.errors import BadUsage, DiskFailed
from himl_cli.services.checkpoints.names import is_whole
from himl_cli.services.runs.mirror_state import MirrorFile
from himl_cli.services.submission.environment import imports_himl
from himl_cli.workspaces.azure.connection import DiskCache
from himl_cli.workspaces.azure.storage.datastore_records import DatastoreRecord
from himl_cli.workspaces.local.launch_request import job_from_stored_form, request_from_json
from himl_cli.workspaces.local.logged_values import read_logged_files, read_texts
from himl_cli.workspaces.local.run_folder import PLAN, RECORD, RunFolder
from stress.fuzz.strategies import contents, damaged, json_files, json_texts
from stress.fuzz.target import Target, written
from stress.fuzz.workspace import JOB

SPEC: dict[str, Any] = {
    "experiment": "exp",
    "entry": {"kind": "script", "target": "train.py"},
    "snapshot": {"root": "/x", "files": ["train.py"], "size": 10},
    "python": "python",
    "arguments": ["--a"],
    "inputs": [{"key": "INPUT_0", "name": "d"}],
    "outputs": [],
    "sweep": {"space": {"lr": {"draw": "choice", "values": [1, 2]}}, "early_stop": {"policy": "median"}, "max_trials": 2},
    "env_names": ["A"],
    "has_secrets": False,
}
ORDER = {
    "run_folder": "/x",
    "spec": {**{name: value for name, value in SPEC.items() if name not in ("env_names", "has_secrets")}, "env": {}},
} | {
    "command": "python train.py",
    "inputs": {"INPUT_0": "/d"},
    "outputs": {},
}
NOTE = {"run_id": JOB, "place": {"folder": "/w"}, "is_starting": False, "failure": "", "away": "", "not_before": 1.5} | {
    "runs": {JOB: {"there": "x", "row": 3}}
}
NOTE_PLAIN = {"run_id": JOB, "place": {}, "runs": {}}
LINES = (
    (
        '{"kind": "table", "values": {"a": 1, "b": "x"}, "step": 3, "time": "2026-11-20T10:40:57+00:00"}\n'
        '{"kind": "scalar", "values": {"name": "text"}, "time": "2026-11-20T10:40:57"}\n'
        '{"kind": "list", "values": {"name": "NaN"}, "step": null, "time": "2026-11-20T10:40:57+00:00"}\n'
        '{"kind": "image", "values": {"name": "a.png"}, "time": "2026-11-20T10:40:57+00:00"}\n'
    ),
)
HELD = {
    "key": "key",
    "expires": 4e9,
    "value": {"name": "d", "type": "AzureBlob", "account": "a", "container": "c", "endpoint": "", "protocol": "https", "credentials": "None"},
}
SCRIPT = (
    "import himl_cli\nfrom himl_cli.api import x\nprint(1)\n",
    "def f(a):\n    import himl_cli; return (yield a)\n",
    "# coding: latin-1\nx = 'é himl_cli'\n",
)
DAMAGED = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What `resuming` takes for a record of another form, and says so."""


def _records(content: bytes) -> None:
    written("plan.json", content)
    folder = RunFolder(Path.cwd())
    plan = folder.read(PLAN)
    written("job.json", content)
    folder.read(RECORD)
    written("why", content)
    assert folder.why_canceled()
    try:
        job_from_stored_form(plan["job"], {})
    except DAMAGED:
        return


def _order(text: str) -> None:
    try:
        request_from_json(text)
    except (*DAMAGED, RecursionError):
        return


def _note(content: bytes) -> None:
    written(f"recordings/{JOB}.json", content)
    note = MirrorFile(Path.cwd(), JOB).read()
    if note is not None:
        note.is_due()
        note.to_json()


def _logged(content: bytes) -> None:
    written("logged/name.jsonl", content)
    read_logged_files(Path.cwd(), lambda name: True)
    list(read_texts(Path.cwd(), JOB))


def _kept(content: bytes) -> None:
    kept = DiskCache(Path.cwd() / "cache")
    kept.put("datastores", "key", 1, seconds=60)
    (path,) = (Path.cwd() / "cache").rglob("*.json")
    path.write_bytes(content)
    found = DatastoreRecord.from_json(kept.get("datastores", "key"))
    if found is not None:
        from himl_cli.workspaces.azure.config import PUBLIC

        found.info(PUBLIC)
        found.url(PUBLIC)


def _checkpoints() -> list[bytes]:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"x" * 50)
    header = b'{"__metadata__": {"format": "pt"}, "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'
    return [file.getvalue(), len(header).to_bytes(8, "little") + header + b"\0" * 8]


def _whole(content: bytes) -> None:
    for name in ("last.ckpt", "model.safetensors"):
        is_whole(written(name, content))


def _word(text: str) -> None:
    if "\0" in text:
        return  # no variable can have it
    try:
        os.environ[submit_if_needed.DOWNLOADED_VARIABLE] = text
    except UnicodeEncodeError:
        return
    submit_if_needed.downloaded().get("0badcafe0bad")


def targets() -> list[Target]:
    return [
        Target("state/run_records", lambda: json_files([{"job": SPEC}, {"many": {"jobs": []}}]), _records, (DiskFailed,)),
        Target("state/order", lambda: json_texts([ORDER]), _order, ()),
        Target("state/note", lambda: json_files([NOTE, NOTE_PLAIN]), _note, (DiskFailed,)),
        Target("state/logged", lambda: contents(LINES, ('{"kind": "', '"values": ', '"step": ', "\n")), _logged, ()),
        Target("state/kept", lambda: json_files([HELD]), _kept, (BadUsage,)),
        Target("state/checkpoint", lambda: damaged(_checkpoints()), _whole, ()),
        Target("state/brought", lambda: json_texts([{"0badcafe0bad": "/x"}]), _word, ()),
        Target("state/script", lambda: contents(SCRIPT, ("import ", "himl", "(", "\\", "'''")), lambda content: imports_himl(written("train.py", content)), ()),
    ]
