"""The documented table of routes is the double's."""

from __future__ import annotations

import re

from tests.azure.route_table import all_routes, documented


def test_document_lists_exactly_the_routes_of_the_double() -> None:
    lines = documented().splitlines()[2:]
    named = [re.sub(r"\\\|", "|", line).split(" | ")[0].removeprefix("| ") for line in lines]
    assert sorted(named) == sorted(row.shown for row in all_routes()), "renew it: python -m tests.azure.route_table"
