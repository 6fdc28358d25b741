from __future__ import annotations

import math

import pytest

from himl_cli.workspaces.local.tracking.protocol import MODEL_ATTRIBUTES, RequestError, Searchable, parse_filter, parse_order, sort_items

RUN = Searchable(
    attributes={"run_id": "r1", "run_name": "First try", "status": "FINISHED", "start_time": 1700},
    metrics={"loss": 0.5, "val/loss": -1.5e-3, "odd name": 1.0, "nan": math.nan},
    params={"lr": "0.1", "opt": "Adam"},
    tags={"kind": "100% sure", "mlflow.parentRunId": "p"},
    datasets=[{"name": "iris", "digest": "d1", "context": "train"}, {"name": "mnist", "digest": "d2", "context": None}],
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("   ", True),
        ("metrics.loss = 0.5", True),
        ("metrics.loss=.5", True),
        ("metric.loss>0.4 AND metrics.loss<= 5e-1", True),
        ("metrics.loss > 0.5", False),
        ("metrics.loss >= 0.5", True),
        ("metrics.loss != 0.5", False),
        ("metrics.`val/loss` < -1e-3", True),
        ("metrics.val/loss < -0.001", True),
        ('metrics."odd name" = 1', True),
        ("metrics.nan = 1", False),
        ("metrics.nan != 1", True),
        ("metrics.absent < 1", False),
        ("metrics.absent != 1", False),
        ("params.lr = '0.1'", True),
        ('parameters.lr = "0.1"', True),
        ("param.opt like 'A%'", True),
        ("param.opt LIKE 'a%'", False),
        ("param.opt ILIKE 'a_AM'", True),
        ("params.opt LIKE 'Ad'", False),
        ("params.opt LIKE '%d%m'", True),
        ("params.opt LIKE '%dm'", False),
        ("tags.kind LIKE '100!% sure'", False),
        ("tags.mlflow.parentRunId = 'p' and tags.`mlflow.parentRunId` = 'p'", True),
        ("tags.absent IS NULL and params.lr is not null", True),
        ("tags.kind IS NULL", False),
        ("tags.absent != 'x'", False),
        ("run_id IN ('r0', 'r1')", True),
        ("attributes.run_id NOT IN ('r0','r1')", False),
        ("attr.status = 'FINISHED' and run.`Run name` ILIKE 'first%'", True),
        ("created > 1699", True),
        ("start_time < 1700", False),
        ("dataset.name = 'mnist'", True),
        ("datasets.digest IN ('d9')", False),
        ("dataset.context = 'train'", True),
    ],
)
def test_filters(text: str, expected: bool) -> None:
    assert all(comparison.holds(RUN) for comparison in parse_filter(text)) is expected


@pytest.mark.parametrize(
    "text",
    [
        "metrics.loss",
        "metrics.loss >",
        "metrics.loss > '0.5'",
        "metrics.loss > 0.5 or metrics.loss < 0.1",
        "metrics.loss > 0.5 and",
        "metrics.loss > 0.5 metrics.loss < 1",
        "metrics.loss LIKE '1'",
        "metrics.loss IS NULL",
        "metrics.loss > 12abc",
        "params.lr = 0.1",
        "params.lr > '0.1'",
        "tags.kind IN ('a')",
        "tags.kind = 'open",
        "nonsense.key = 'x'",
        "attributes.colour = 'x'",
        "dataset.colour = 'x'",
        "run_id IN ()",
        "run_id IN ('a'",
        "start_time = 'yesterday'",
        "and metrics.loss > 1",
        "; drop table runs",
    ],
)
def test_a_bad_filter_is_refused(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_filter(text)
    assert (caught.value.code, caught.value.status) == ("INVALID_PARAMETER_VALUE", 400)


@pytest.mark.parametrize(
    ("clauses", "expected"),
    [
        ([], "abcd"),
        (["metrics.m"], "cabd"),
        (["metrics.m ASC"], "cabd"),
        (["metrics.m desc"], "acbd"),
        (["params.p DESC", "metrics.m"], "cabd"),
        (["start_time DESC"], "dcba"),
        (["tags.`t`", "created ASC"], "dabc"),
    ],
)
def test_orders_put_what_has_no_value_last(clauses: list[str], expected: str) -> None:
    items = [
        (Searchable({"start_time": 1}, {"m": 2.0}, {"p": "x"}), "a"),
        (Searchable({"start_time": 2}, {"m": math.nan}, {"p": "x"}), "b"),
        (Searchable({"start_time": 3}, {"m": -1.0}, {"p": "x"}), "c"),
        (Searchable({"start_time": 10}, {}, {}, {"t": "1"}), "d"),
    ]
    assert "".join(sort_items(items, [parse_order(clause) for clause in clauses])) == expected


@pytest.mark.parametrize("clause", ["", "metrics.m upwards", "metrics.m ASC DESC", "colour", "dataset.name", "metrics."])
def test_a_bad_order_is_refused(clause: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_order(clause)
    assert str(caught.value).startswith("Invalid")


def test_models_have_attributes_of_their_own() -> None:
    assert parse_filter("creation_timestamp > 5", MODEL_ATTRIBUTES)[0].value == 5.0
    with pytest.raises(RequestError, match="Invalid attribute key 'run_id'"):
        parse_filter("run_id = 'x'", MODEL_ATTRIBUTES)


@pytest.mark.timeout(20)
def test_a_pattern_of_many_wildcards_takes_no_time() -> None:
    item = Searchable(tags={"t": "a" * 2000})
    assert not parse_filter(f"tags.t LIKE '{'%a' * 200}b'")[0].holds(item)
