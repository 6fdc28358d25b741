"""What a SOURCE means, and the files it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.services.checkpoints.source import kind_of
from tests.support.runs import HERE, RETRY, RUN, RecordedRuns, add, found


@pytest.fixture
def runs(project: Path) -> RecordedRuns:
    return RecordedRuns(project)


def test_where_it_goes_in_a_new_job(runs: RecordedRuns) -> None:
    add(runs, "last.ckpt/a", "last.ckpt/b/c", "epoch=1.pt", "sub/x")
    assert found(runs).by_place == {f"{HERE}/last.ckpt/a": f"{HERE}/last.ckpt/a", f"{HERE}/last.ckpt/b/c": f"{HERE}/last.ckpt/b/c"}
    assert found(runs, "epoch=1").by_place == {f"{HERE}/last.pt": f"{HERE}/epoch=1.pt"}
    assert found(runs, source=f"{RUN}:sub/").by_place == {f"{HERE}/x": f"{HERE}/sub/x"}


def test_checkpoint_is_found_beyond_first_page_of_files(runs: RecordedRuns) -> None:
    others = [f"outputs/predictions/{number}" for number in range(1000)]
    add(runs, "last.ckpt", *others, f"{RETRY}/last.ckpt")
    assert found(runs).names == [f"{RETRY}/last.ckpt"]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("https://ml.azure.com/runs/train_1_aa?wsid=/subscriptions/s/resourcegroups/g/workspaces/w", "run"),
        ("https://studio.ml.azure.cn/runs/train_1_aa", "run"),
        ("https://example.org/runs/3/best.ckpt?sig=x", "address"),
        ("http://localhost/a.ckpt", "address"),
        ("train_1_aa", "run"),
        ("train_1_aa:sub/a.ckpt", "run"),
        ("train:train_1_aa", "run"),
        ("here.ckpt", "path"),
    ],
)
def test_what_sort_of_source_it_is(project: Path, text: str, kind: str) -> None:
    (project / "here.ckpt").touch()
    assert kind_of(text, project) == kind


@pytest.mark.parametrize("text", ["lost.ckpt", "lost/a", r"lost\a", "C:/lost.ckpt", r"c:\lost.ckpt", "~/lost"])
def test_what_can_only_be_a_path_is_missed_at_once(project: Path, text: str) -> None:
    with pytest.raises(NotFound, match="There is no file"):
        kind_of(text, project)


@pytest.mark.parametrize("text", ["s3://bucket/hush", "https:/example.org/hush", " azureml://hush"])
def test_malformed_address_is_refused_without_showing_it(project: Path, text: str) -> None:
    with pytest.raises(BadUsage, match="is an address that cannot be read") as caught:
        kind_of(text, project)
    assert "hush" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("best.ckpt", [f"{HERE}/best.ckpt"]),
        (f"{HERE}/best.ckpt", [f"{HERE}/best.ckpt"]),
        ("outputs/model.bin", ["outputs/model.bin"]),
        ("sub/", [f"{HERE}/sub/a", f"{HERE}/sub/b"]),
        ("sub", [f"{HERE}/sub/a", f"{HERE}/sub/b"]),
        ("sub/a", [f"{HERE}/sub/a"]),
        ("outputs/", [f"{HERE}/best.ckpt", f"{HERE}/best.ckpt2", f"{HERE}/sub/a", f"{HERE}/sub/b", "outputs/model.bin"]),
    ],
)
def test_a_file_or_folder_of_a_run(runs: RecordedRuns, path: str, names: list[str]) -> None:
    add(runs, "best.ckpt", "best.ckpt2", "sub/a", "sub/b", "outputs/model.bin")
    assert found(runs, source=f"{RUN}:{path}").names == names
    with pytest.raises(BadUsage, match="names a file or folder of the run"):
        found(runs, "best", source=f"{RUN}:{path}")
