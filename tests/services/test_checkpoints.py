"""Which checkpoint a job goes on from: by names, and only one that was written to its end."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from himl_cli.services.checkpoints.names import Kind, best_first, is_whole, on_disk, rank_of
from tests.support.running import write_files

HERE = "outputs/checkpoints"


def archive(text: str = "weights" * 100) -> bytes:
    """A file as torch.save writes it: a zip archive."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("archive/data.pkl", text)
    return stream.getvalue()


def tensors() -> bytes:
    header = json.dumps({"__metadata__": {"epoch": "3"}, "w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(16)


@pytest.mark.parametrize(
    ("names", "best"),
    [
        (["recovery_epoch=9.ckpt", "recovery_epoch=10.ckpt"], "recovery_epoch=10.ckpt"),
        (["recovery_9", "recovery_010"], "recovery_010"),
        (["recovery_epoch=9.ckpt", "recovery_epoch=9-v1.ckpt", "recovery_epoch=9-v2.ckpt"], "recovery_epoch=9-v2.ckpt"),
        (["recovery_epoch=9-step=100.ckpt", "recovery_epoch=8-step=999.ckpt"], "recovery_epoch=9-step=100.ckpt"),
        (["recovery.ckpt", "recovery-v1.ckpt"], "recovery-v1.ckpt"),
        (["recovery_epoch=0.ckpt", "last.ckpt", "autosave.ckpt", "best.ckpt"], "recovery_epoch=0.ckpt"),
        (["last.ckpt", "autosave.ckpt", "autosave-v1.ckpt"], "autosave-v1.ckpt"),
        (["last.ckpt", "epoch=30.ckpt"], "last.ckpt"),
        (["recovery_epoch=3.ckpt", "recovery_epoch=7.ckpt.tmp", ".recovery_epoch=8.ckpt", "recovery_epoch=9.ckpt~"], "recovery_epoch=3.ckpt"),
        (["best.ckpt", "notes.txt", "my_recovery_9.ckpt"], None),
    ],
)
def test_the_highest_epoch_is_gone_on_from(names: list[str], best: str | None) -> None:
    assert [*best_first(f"{HERE}/{name}" for name in names)][:1] == ([f"{HERE}/{best}"] if best else [])


def test_highest_epoch_across_retry_folders_is_chosen_first() -> None:
    names = [f"{HERE}/recovery_epoch=5.ckpt", "outputs/retry_001/checkpoints/recovery_epoch=7.ckpt", "outputs/retry_002/checkpoints/recovery_epoch=6.ckpt"]
    assert best_first(names)[0] == names[1]
    same = [f"{HERE}/recovery_epoch=7-v3.ckpt", "outputs/retry_002/checkpoints/recovery_epoch=7.ckpt", "outputs/retry_010/checkpoints/recovery_epoch=7.ckpt"]
    assert best_first(same) == [same[2], same[1], same[0]]


@pytest.mark.parametrize("name", ["recovery_1.ckpt", "outputs/recovery_1.ckpt", f"{HERE}/old/recovery_1.ckpt", "outputs/retry_x/checkpoints/recovery_1.ckpt"])
def test_files_elsewhere_do_not_count(name: str) -> None:
    assert rank_of(name) is None


def test_another_folder_may_be_named() -> None:
    assert best_first(["ckpt/recovery_1", "retry_001/ckpt/recovery_2", f"{HERE}/recovery_3"], "ckpt") == ["retry_001/ckpt/recovery_2", "ckpt/recovery_1"]


@given(st.sets(st.integers(0, 10_000), min_size=1))
def test_epochs_are_numbers_and_no_text(epochs: set[int]) -> None:
    assert best_first(f"{HERE}/recovery_epoch={epoch}.ckpt" for epoch in epochs)[0] == f"{HERE}/recovery_epoch={max(epochs)}.ckpt"


@pytest.mark.parametrize(("content", "ending"), [(archive(), "ckpt"), (tensors(), "safetensors")])
def test_a_file_that_ends_too_early_is_not_whole(tmp_path: Path, content: bytes, ending: str) -> None:
    path = tmp_path / f"recovery_1.{ending}"
    path.write_bytes(content)
    assert is_whole(path)
    for size in (*range(0, len(content), 7), len(content) - 1):
        path.write_bytes(content[:size])
        assert not is_whole(path) or (ending == "ckpt" and size < 4), size


def test_checkpoint_folder_counts_once_all_files_are_whole(tmp_path: Path) -> None:
    folder = tmp_path / HERE / "recovery_epoch=4.ckpt"
    folder.mkdir(parents=True)
    assert on_disk(tmp_path) is None
    write_files(folder, {"a.pt": archive(), "b.pt": archive()})
    assert on_disk(tmp_path) == folder
    write_files(folder, {"b.pt": archive()[:50]})
    assert on_disk(tmp_path) is None


def test_a_half_written_newest_one_is_passed_over_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files: dict[str, str | bytes] = {"recovery_1.ckpt": archive(), "recovery_2.ckpt": archive(), "recovery_3.ckpt": archive()[:-9], "recovery_4.ckpt": b""}
    write_files(tmp_path / HERE, files)
    assert on_disk(tmp_path) == tmp_path / HERE / "recovery_2.ckpt"
    assert [f"'{HERE}/recovery_{epoch}.ckpt'" in record.getMessage() for epoch, record in zip((4, 3), caplog.records, strict=True)] == [True, True]


def test_what_a_submit_brought_is_the_last_choice(tmp_path: Path) -> None:
    write_files(tmp_path / HERE, {"last.ckpt": archive()})
    assert on_disk(tmp_path) == tmp_path / HERE / "last.ckpt"
    assert on_disk(tmp_path, least=Kind.autosave) is None
    write_files(tmp_path, {"outputs/retry_001/checkpoints/recovery_0.ckpt": archive()})
    assert on_disk(tmp_path) == tmp_path / "outputs/retry_001/checkpoints/recovery_0.ckpt"
