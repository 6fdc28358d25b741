"""Texts that programs logged, as they are read back."""

from __future__ import annotations

from pathlib import Path

from himl_cli.workspaces.local.logged_values import read_texts


def test_moments_with_and_without_a_time_zone_have_one_order(tmp_path: Path) -> None:
    (tmp_path / "logged").mkdir()
    times = ("2026-01-01T10:00:00+02:00", "2026-01-01T09:00:00", "2026-01-01T08:30:00+00:00")
    lines = [f'{{"kind": "scalar", "values": {{"name": "said at {time}"}}, "time": "{time}"}}\n' for time in times]
    (tmp_path / "logged" / "words.jsonl").write_text("".join(lines))
    [texts] = read_texts(tmp_path, "run")
    assert [point.value.removeprefix("said at ") for point in texts.points] == [times[0], times[2], times[1]]
