"""The documents that `--json` prints, and the errors of each exit code, match the records in `documents.json`.

After an intended change, `scripts/generate golden` renews the records.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.running import Himl, validator, write_files
from tests.support.runs import RecordedRuns, posix
from tests.support.runs import recorded as recorded
from tests.support.web import FileServer

RECORD = Path(__file__).with_name("documents.json")
VOLATILE = {"seconds", "duration", "times", "time"}
RUN = re.compile(r"\b([a-z]+)_\d{10}_[0-9a-f]{8}")
TIME = re.compile(r"20\d\d-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|\+00:00)?")
RECORDED_DAY = "2026-03-01T12:"
SCRIPT = (
    "import pathlib, sys\nprint('epoch 1')\npathlib.Path('outputs/best.txt').write_text('0.9')\n"
    "sys.exit(int((sys.argv[1:] or ['0'])[0]))\n"
)
DOCUMENTS: dict[str, list[str]] = {
    "runs_list": ["runs", "list"],
    "runs_show": ["runs", "show", "train_3_cc"],
    "runs_show_several": ["runs", "show", "base_1_aa", "train_2_bb"],
    "runs_aggregate": ["runs", "aggregate", "train_3_cc"],
    "runs_aggregate_no_stats": ["runs", "aggregate", "base_1_aa", "train_3_cc", "--no_stats"],
    "runs_logs": ["runs", "logs", "train_3_cc", "--file", "std_log_process_1.txt"],
    "runs_cancel": ["runs", "cancel", "train_3_cc"],
    "runs_tag": ["runs", "tag", "train_3_cc", "stage=final"],
    "runs_delete": ["runs", "delete", "base_1_aa", "--yes"],
    "download": ["download", "train_3_cc"],
    "download_list": ["download", "train_3_cc", "--list"],
    "datastore_upload": ["datastore", "upload", "data", "digits"],
    "datastore_list": ["datastore", "list"],
    "datastore_download": ["datastore", "download", "stored", "copy"],
    "checkpoint_fetch": ["checkpoint", "fetch", "kept_4_dd"],
    "checkpoint_push": ["checkpoint", "push", "data/a.txt", "--from", "kept_4_dd"],
    "tb_sync_only": ["tb", "kept_4_dd", "--sync_only"],
    "submit": ["submit", "train.py", "--tag", "team=blue"],
    "submit_no_wait": ["submit", "train.py", "--no_wait"],
    "submit_sweep": ["submit", "train.py", "--sweep", "lr=0.1,0.2"],
    "submit_settings": ["submit", "train.py", "--show_settings", "--env_var", "KEY=value"],
    "workspace_show": ["workspace", "show"],
    "doctor": ["doctor"],
    "init": [
        "init",
        "--subscription_id",
        "00000000-0000-0000-0000-000000000000",
        "--resource_group",
        "rg",
        "--workspace_name",
        "ws",
    ],
}
ERRORS: dict[str, tuple[int, list[str]]] = {
    "job_failed": (1, ["submit", "train.py", "--", "7"]),
    "transfer_incomplete": (1, ["datastore", "download", "stored", "differing"]),
    "usage": (2, ["runs", "list", "--experimnt", "x"]),
    "needs_yes": (2, ["runs", "delete", "base_1_aa"]),
    "not_found": (3, ["runs", "logs", "train_3_cc", "--file", "std_log_process_9.txt"]),
    "run_not_found": (3, ["runs", "show", "train_3_cd"]),
    "workspace_not_found": (3, ["runs", "list", "--workspace", "nowhere"]),
}
FETCHED: dict[str, tuple[int, dict[str, Any]]] = {
    "not_allowed": (4, {"status": 403}),
    "service_failed": (5, {"status": 501}),
    "integrity_failed": (6, {"headers": {"Content-MD5": "AAAAAAAAAAAAAAAAAAAAAA=="}}),
}


def compare(name: str, document: Any, folders: dict[str, Path]) -> None:
    """Compare *document* with the record *name*, with *folders* replaced by their names and variable parts by words."""
    found, record = steady(document, folders), json.loads(RECORD.read_text(encoding="utf-8"))
    if os.environ.get("HIML_TEST_GOLDEN") == "write":
        record = dict(sorted({**record, name: found}.items()))
        RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    # The order of keys must match.
    assert json.dumps(found, indent=1) == json.dumps(record[name], indent=1)


def steady(value: Any, folders: dict[str, Path], key: str = "") -> Any:
    if isinstance(value, dict):
        is_recorded = str(value.get("started", "")).startswith(RECORDED_DAY)
        return {name: steady(entry, folders, "" if is_recorded else name) for name, entry in value.items()}
    if isinstance(value, list) and key not in VOLATILE:
        return [steady(entry, folders) for entry in value]
    if key == "build_user":
        return f"<{key}>"
    if isinstance(value, str):
        for name, folder in folders.items():
            value = value.replace(str(folder), name)
        value = RUN.sub(r"\1_ID", value.replace("\\", "/").replace(sys.executable, "PYTHON"))
        return TIME.sub(lambda found: found[0] if found[0].startswith(RECORDED_DAY) else "TIME", value)
    return f"<{key}>" if key in VOLATILE and value is not None else value


@pytest.fixture(autouse=True)
def filled(project: Path, recorded: RecordedRuns) -> None:
    recorded.add("kept_4_dd", files={"outputs/checkpoints/last.ckpt": "weights", "logs/events.out.tfevents.1": b""})
    write_files(
        project, {"train.py": SCRIPT, "data/a.txt": "a", "data/sub/b.txt": "bb", "differing/stored/c.txt": "other"}
    )
    write_files(project / ".himl" / "datastores" / "local", {"stored/c.txt": "ccc"})


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_is_as_on_record(himl: Himl, project: Path, name: str) -> None:
    outcome = himl(*DOCUMENTS[name], "--json")
    document = outcome.json()
    # Its output depends on the machine.
    if name == "doctor":
        document = [{key: entry[key] if key == "name" else "" for key in entry} for entry in document]
    if name == "workspace_show":
        document[0]["facts"]["journal"] = ""
    compare(
        name,
        {"exit_code": outcome.code if name != "doctor" else 0, "document": document},
        {"PROJECT": project, "HOME": project.parent / "home"},
    )


@pytest.mark.parametrize("name", ERRORS)
def test_error_is_as_on_record(himl: Himl, project: Path, name: str) -> None:
    code, arguments = ERRORS[name]
    outcome = himl(arguments[0], "--json", *arguments[1:]) if arguments[0] == "submit" else himl(*arguments, "--json")
    compare(f"error_{name}", {"exit_code": outcome.code, **_last_object(outcome.raw_stderr)}, {"PROJECT": project})
    assert outcome.code == code


@pytest.mark.parametrize("name", FETCHED)
def test_error_of_a_web_address_has_its_code(himl: Himl, web: FileServer, name: str) -> None:
    code, options = FETCHED[name]
    web.put("/last.ckpt", b"weights", **options)
    outcome = himl("checkpoint", "fetch", web("/last.ckpt"), "--json")
    assert (outcome.code, outcome.error_json()["code"]) == (code, name)


@posix
def test_interrupted_submit_has_its_code_and_run(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import time\nprint('up', flush=True); time.sleep(600)\n"})
    process = himl.start("submit", "train.py", "--json")
    assert process.stderr is not None
    assert b"up\n" in iter(process.stderr.readline, b"")
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate(timeout=100)
    compare(
        "error_interrupted",
        {"exit_code": process.returncode, "document": json.loads(printed), **_last_object(said)},
        {"PROJECT": project},
    )


def _last_object(stderr: bytes) -> dict[str, Any]:
    """The error of a command, after any output of its job."""
    document: dict[str, Any] = json.loads(stderr.splitlines()[-1])
    validator("error").validate(document)
    return document
