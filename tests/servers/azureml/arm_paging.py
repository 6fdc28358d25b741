"""Lists in pages, as ARM gives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.servers.azureml.frame import workspace_of


def page_of(request: Request, documents: Sequence[dict[str, Any]], *, size: int | None = None) -> Response:
    """The page that `$skipToken` asks for, with the link to the next one. The link is absolute and carries the whole query."""
    query = dict(request.query_params)
    start = int(query.get("$skipToken", "0") or 0)
    size = min(size or 1000, workspace_of(request).page_size)
    answer: dict[str, Any] = {"value": documents[start : start + size]}
    if start + size < len(documents):
        query["$skipToken"] = str(start + size)
        answer["nextLink"] = f"https://{request.headers['host']}{workspace_of(request).path}{request.url.path}?{urlencode(query, safe='$')}"
    return JSONResponse(answer)
