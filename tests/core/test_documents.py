"""Tests of records as JSON documents."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.documents import from_document, to_document
from himl_cli.core.jobs import Editables, EngineSpec, Entry, EntryKind, JobSpec, Snapshot
from himl_cli.core.json_text import Spelled
from himl_cli.core.runs import Run, RunStatus
from himl_cli.core.sweeps import Draw, EarlyStop, SearchRange, SweepSpec

SPACE = {"lr": SearchRange(Draw.choice, [Spelled("1e5"), "a", 3, True, 0.5], "words")}
SPEC = JobSpec(
    "exp",
    Entry(EntryKind.module, "train"),
    Snapshot(Path("/code"), ["a.py"], 3),
    arguments=["--lr"],
    env={"A": "B"},
    sweep=SweepSpec(SPACE, early_stop=EarlyStop("bandit", slack_factor=0.1)),
    engine=EngineSpec("slurm", {"time": "1", "requeue": None}, ["module load x"], grace=5.0),
    editables=Editables("/code", ["src"]),
)


def test_records_return_from_json_with_the_types_of_their_fields() -> None:
    text = json.dumps(to_document(SPEC))
    found = from_document(JobSpec, json.loads(text))
    assert json.dumps(to_document(found)) == text
    assert (found.entry, found.snapshot.root, found.engine) == (SPEC.entry, Path("/code"), SPEC.engine)
    assert found.sweep is not None
    assert found.sweep.space["lr"].draw is Draw.choice
    assert [str(value) for value in found.sweep.space["lr"].values] == ["1e5", "a", "3", "True", "0.5"]
    run = Run("r", "exp", RunStatus.failed, parent="p", tags={"a": "b"})
    assert from_document(Run, json.loads(json.dumps(to_document(run)))) == run


def test_documents_of_other_versions_are_read_as_far_as_possible() -> None:
    document = to_document(SPEC)
    del document["webhook"], document["sweep"]
    later = {**document, "new": {"of": ["a", "later", "himl"]}, "entry": {**document["entry"], "new": 1}}
    found = from_document(JobSpec, later)
    assert (found.webhook, found.sweep, found.entry) == (None, None, SPEC.entry)
    wrongs: Sequence[dict[str, Any]] = (
        {"entry": 5},
        {"entry": {"kind": "none", "target": "x"}},
        {"env": ["a"]},
        {"arguments": 5},
        {"snapshot": {}},
    )
    for wrong in wrongs:
        with pytest.raises((AttributeError, KeyError, TypeError, ValueError)):
            from_document(JobSpec, {**document, **wrong})
    del document["snapshot"]
    with pytest.raises(KeyError, match="'snapshot'"):
        from_document(JobSpec, document)
