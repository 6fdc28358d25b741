"""The cache of brought checkpoints: what nobody used for a month makes room when another is brought."""

from __future__ import annotations

import os
import time
from pathlib import Path

import platformdirs
import pytest

from himl_cli.core.errors import DiskFailed
from himl_cli.services.checkpoints.fetch import KEPT_DAYS, USED, cache_folder

DAY = 24 * 3600.0


def filled(key: str, days_ago: float) -> Path:
    """A folder with a file, that was used so many days ago."""
    with cache_folder(key) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "last.ckpt").write_text(key)
    moment = time.time() - days_ago * DAY
    os.utime(folder / USED, (moment, moment))
    return folder


def top() -> Path:
    return platformdirs.user_cache_path("himl", appauthor=False) / "checkpoints"


def test_what_was_not_used_for_long_goes_and_the_rest_stays() -> None:
    old, young = filled("old", KEPT_DAYS + 1), filled("young", KEPT_DAYS - 1)
    with cache_folder("new") as new:
        assert (old.exists(), (young / "sub" / "last.ckpt").read_text(), new.is_dir()) == (False, "young", True)
    assert sorted(path.name for path in top().iterdir() if path.is_dir()) == sorted([young.name, new.name])


def test_what_is_used_again_stays() -> None:
    old = filled("old", KEPT_DAYS + 1)
    with cache_folder("old") as folder, cache_folder("new"):
        assert (folder, (folder / "sub" / "last.ckpt").read_text()) == (old, "old")


def test_a_folder_without_a_note_counts_by_its_own_time() -> None:
    old = filled("old", 0)
    (old / USED).unlink()
    with cache_folder("new"):
        assert old.exists()
    long_ago = time.time() - 100 * DAY
    os.utime(old, (long_ago, long_ago))
    with cache_folder("new"):
        assert not old.exists()


def test_a_cache_that_cannot_be_made_is_said() -> None:
    top().parent.mkdir(parents=True)
    top().write_text("a file")
    with pytest.raises(DiskFailed, match="Cannot make himl's cache folder"), cache_folder("new"):
        pass
