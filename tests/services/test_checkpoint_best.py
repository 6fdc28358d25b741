"""Which of a run's checkpoints is the best, by their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from himl_cli.core.blobs import BlobInfo
from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.services.checkpoints.select import Candidates, candidates_of, choice_of, choose
from tests.support.runs import HERE, RETRY, RUN, RecordedRuns, add, found, name
from tests.support.stores import ListedFiles


@pytest.fixture
def runs(project: Path) -> RecordedRuns:
    return RecordedRuns(project)


@pytest.mark.parametrize(
    ("names", "metric", "goal", "best"),
    [
        (["epoch=1-val_loss=0.30.ckpt", "epoch=2-val_loss=0.12.ckpt", "epoch=3-val_loss=1e-3.ckpt", "last.ckpt"], None, None, "epoch=3-val_loss=1e-3.ckpt"),
        (["epoch=1-val_acc=0.30.ckpt", "epoch=2-val_acc=0.9.ckpt"], None, None, "epoch=2-val_acc=0.9.ckpt"),
        (["epoch=1-val_acc=0.30.ckpt", "epoch=2-val_acc=0.9.ckpt"], None, "minimize", "epoch=1-val_acc=0.30.ckpt"),
        (["epoch=1-val_loss=nan.ckpt", "epoch=2-val_loss=7.ckpt"], None, None, "epoch=2-val_loss=7.ckpt"),
        (["epoch=1-val/loss=0.3.ckpt", "epoch=2-val/loss=0.1.ckpt"], "val/loss", None, "epoch=2-val/loss=0.1.ckpt"),
        (["epoch=1-val_loss=0.3-val_acc=0.9.ckpt", "epoch=2-val_loss=0.1-val_acc=0.8.ckpt"], "val/acc", None, "epoch=1-val_loss=0.3-val_acc=0.9.ckpt"),
        (["epoch=1-val_acc=inf.ckpt", "epoch=2-val_acc=0.9.ckpt"], None, None, "epoch=2-val_acc=0.9.ckpt"),
        (["epoch=1-val_acc=inf.ckpt"], None, None, "epoch=1-val_acc=inf.ckpt"),
        (["resnet-val_loss=0.30.ckpt", "resnet-val_loss=0.20.ckpt"], "val_loss", None, "resnet-val_loss=0.20.ckpt"),
        (["a_val_loss=0.1.ckpt", "val_loss=0.2.ckpt"], "val_loss", None, "val_loss=0.2.ckpt"),
        (["best-val_loss=0.1.ckpt", "epoch=3-val_loss=0.2.ckpt"], None, None, "best-val_loss=0.1.ckpt"),
        (["epoch=3 (val_loss=0.1).ckpt", "epoch=4-val_loss=0.2.ckpt"], None, None, "epoch=3 (val_loss=0.1).ckpt"),
        (["epoch=0-val_loss=0.1.onnx", "epoch=1-val_loss=0.2.ckpt"], None, None, "epoch=1-val_loss=0.2.ckpt"),
        (["epoch=0-val_loss=0.1.h5", "epoch=1-val_loss=0.2.h5"], None, None, "epoch=0-val_loss=0.1.h5"),
        (["best.ckpt", "last.ckpt"], None, None, "best.ckpt"),
        (["best_val_loss.ckpt", "best_val_auc.ckpt"], "val/auc", "maximize", "best_val_auc.ckpt"),
        (["best.ckpt", f"{RETRY}/best.ckpt"], None, None, f"{RETRY}/best.ckpt"),
        (["epoch=1-val_loss=0.1.ckpt", f"{RETRY}/epoch=2-val_loss=0.2.ckpt"], None, None, "epoch=1-val_loss=0.1.ckpt"),
        (["epoch=1-val_loss=0.1.ckpt", f"{RETRY}/epoch=1-val_loss=0.1.ckpt"], None, None, f"{RETRY}/epoch=1-val_loss=0.1.ckpt"),
    ],
)
def test_the_best_by_names(runs: RecordedRuns, names: list[str], metric: str | None, goal: str | None, best: str) -> None:
    add(runs, *names)
    assert name(runs, "best", metric, goal) == best


@pytest.mark.parametrize(
    ("names", "metric", "said", "hinted"),
    [
        (["epoch=1-val_loss=0.3-val_acc=0.9.ckpt"], None, "2 metrics in their names: val_loss, val_acc", "--metric val_loss"),
        (["epoch=1-val_loss=0.1.ckpt", "epoch=2-val_loss=0.1.ckpt"], None, "2 checkpoints with the best val_loss, 0.1", f"{RUN}:epoch=2-val_loss=0.1.ckpt"),
        (["best_a.ckpt", "best_b.ckpt"], None, "2 checkpoints that are the best by their names", f"{RUN}:best_a.ckpt, {RUN}:best_b.ckpt"),
        (["best.ckpt", "epoch=2-val_loss=0.1.ckpt"], None, "2 checkpoints that are the best by their names", f"{RUN}:best.ckpt"),
        (["best_a.ckpt", f"{RETRY}/best_b.ckpt"], None, "2 checkpoints that are the best by their names", f"{RUN}:{RETRY}/best_b.ckpt"),
        (["a-val_loss=0.1.ckpt", "b-val_loss=0.2.ckpt"], "val_loss", "2 metrics that may be 'val_loss': a-val_loss, b-val_loss", "--metric a-val_loss"),
        (["epoch=1-neg_log_loss=-0.9.ckpt"], None, "whether 'neg_log_loss'", "--goal maximize"),
        (["epoch=1-score=0.1.ckpt"], None, "whether 'score' is to be small or great", "--goal maximize"),
        (["epoch=1-val_loss=0.1.ckpt"], "score", "whether 'score'", "--goal"),
    ],
)
def test_what_cannot_be_told_apart_is_listed(runs: RecordedRuns, names: list[str], metric: str | None, said: str, hinted: str) -> None:
    add(runs, *names)
    with pytest.raises(BadUsage) as caught:
        found(runs, "best", metric)
    assert said in str(caught.value)
    assert hinted in caught.value.hint


def test_the_best_one_twice_is_one(runs: RecordedRuns) -> None:
    add(runs, "best.ckpt", "epoch=2-val_loss=0.1.ckpt", content={"best.ckpt": "same", "epoch=2-val_loss=0.1.ckpt": "same"})
    assert name(runs, "best") == "epoch=2-val_loss=0.1.ckpt"


def test_no_best_one(runs: RecordedRuns) -> None:
    add(runs, "last.ckpt", "epoch=1.ckpt")
    with pytest.raises(NotFound, match="no checkpoint whose name says that it is the best") as caught:
        found(runs, "best")
    assert "--metric NAME" in caught.value.hint
    with pytest.raises(NotFound, match="'val/loss' in its name, and the run did not log it") as unlogged:
        found(runs, "best", "val/loss")
    assert unlogged.value.hint == "It logged no metric at all."


def test_what_a_metric_is_taken_for_is_told(runs: RecordedRuns) -> None:
    add(runs, "resnet-val_loss=0.30.ckpt")
    assert found(runs, None, "val_loss").why == "'resnet-val_loss' in names is taken for val_loss."


class WithoutMd5s(ListedFiles):
    """Files of a service that has no MD5 of them on record."""

    def md5(self, blob: BlobInfo) -> None:
        return None


@pytest.mark.parametrize(("size", "taken"), [(8, "epoch=3-val_loss=0.12.ckpt"), (9, None)])
def test_best_without_md5_prefers_name_with_metric_value(runs: RecordedRuns, size: int, taken: str | None) -> None:
    """Only where the sizes are equal; otherwise both count as the best, which is an error."""
    runs.add(RUN)
    sizes = {"best.ckpt": size, "epoch=2-val_loss=0.20.ckpt": 8, "epoch=3-val_loss=0.12.ckpt": 8}
    blobs = [BlobInfo(f"{HERE}/{each}", number, "etag", None, None) for each, number in sizes.items()]
    files = WithoutMd5s(runs.workspace.run_files(RUN), blobs)
    offer = Candidates(runs.workspace.run(RUN), files, candidates_of(blobs), list)
    if taken is None:
        with pytest.raises(BadUsage, match="2 checkpoints that are the best") as caught:
            choose(offer, choice_of("best"))
        assert "--metric val_loss" in caught.value.hint
    else:
        chosen = choose(offer, choice_of("best"))
        assert (chosen.inside, "no MD5 is on record" in chosen.why) == (f"{HERE}/{taken}", True)
