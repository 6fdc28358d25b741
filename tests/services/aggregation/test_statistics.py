"""Mean, spread and middle, as pandas has them."""

from __future__ import annotations

import math
import statistics

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from himl_cli.core.logged import STATISTICS
from himl_cli.services.runs.aggregate import Statistics, statistics_of
from tests.services.aggregation.records import aggregation

MODERATE = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6)


def of(*values: object) -> Statistics:
    return statistics_of(aggregation({str(place): {"x": value} for place, value in enumerate(values)}))["x"]  # type: ignore[dict-item]


@given(st.lists(MODERATE, min_size=2, max_size=30))
def test_they_are_those_of_pandas(values: list[float]) -> None:
    found, theirs = of(*values), pd.Series(values)
    for name in STATISTICS:
        assert getattr(found, name) == pytest.approx(getattr(theirs, name)(), rel=1e-9, abs=1e-9), name
    assert found.count == len(values)


def test_what_is_no_number_does_not_count() -> None:
    assert of(1.0, math.nan, None, "word", 3, True) == of(1.0, 3.0) == Statistics(2.0, math.sqrt(2), 1.0, 3.0, 2.0, 2)
    assert of("word", math.nan) == Statistics(None, None, None, None, None, 0)
    assert of(5.0) == Statistics(5.0, None, 5.0, 5.0, 5.0, 1)


def test_infinities_count() -> None:
    found = of(1.0, math.inf)
    assert (found.mean, found.min, found.max) == (math.inf, 1.0, math.inf)
    assert found.std is not None
    assert math.isnan(found.std)


def test_large_and_tiny_numbers_do_not_overflow() -> None:
    assert of(1e308, 1e308, 1.2e308).mean == pytest.approx(statistics.fmean([1e300, 1e300, 1.2e300]) * 1e8)
    assert of(1e300, 3e300).std == pytest.approx(math.sqrt(2) * 1e300)
    assert of(1e308, 1.5e308).median == pytest.approx(1.25e308)
    assert of(1e-300, 3e-300).std == pytest.approx(math.sqrt(2) * 1e-300, rel=1e-9, abs=0.0)
    assert of(2.0, 2.0, 2.0).std == 0.0
