"""Versions of resource manager's routes: those that the provider has published, as its specification and the pages made of it list them."""

from __future__ import annotations

from starlette.requests import Request

from tests.servers.azureml.answers import ServiceError
from tests.servers.azureml.state import Workspace

PUBLISHED = (
    *("2021-03-01-preview", "2022-02-01-preview", "2022-05-01", "2022-06-01-preview", "2022-10-01", "2022-10-01-preview", "2022-12-01-preview"),
    *("2023-02-01-preview", "2023-04-01", "2023-04-01-preview", "2023-06-01-preview", "2023-08-01-preview", "2023-10-01"),
    *("2024-01-01-preview", "2024-04-01", "2024-04-01-preview", "2024-07-01-preview", "2024-10-01", "2024-10-01-preview"),
    *("2025-01-01-preview", "2025-04-01", "2025-04-01-preview", "2025-06-01", "2025-07-01-preview", "2025-09-01", "2025-10-01-preview", "2025-12-01"),
)
"""Of all that lies below a workspace."""
OLDER = (
    *("2018-03-01-preview", "2018-11-19", "2019-05-01", "2019-06-01", "2019-11-01", "2020-01-01", "2020-02-18-preview", "2020-03-01", "2020-04-01"),
    *("2020-05-01-preview", "2020-05-15-preview", "2020-06-01", "2020-08-01", "2020-09-01-preview", "2021-01-01", "2021-04-01", "2021-07-01"),
    "2022-01-01-preview",
)
"""Of workspaces and computes only."""
WITH_PATHS = ("2024-01-01-preview",)
"""In which inputs and outputs of jobs have a `pathOnCompute`; later ones lack it again."""


def check_version(request: Request, workspace: Workspace, rest: str) -> None:
    """Answer 400, as resource manager does, where *request*, to *rest* below *workspace*, names no version, or one that was never published."""
    version = request.query_params.get("api-version")
    if not version:
        raise ServiceError(400, "MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required for all requests.", gateway=True)
    kind = rest.strip("/").partition("/")[0]
    known = (*OLDER, *PUBLISHED) if kind in ("", "computes") else PUBLISHED
    if version not in known:
        message = (
            f"No registered resource provider found for location '{workspace.location}' and API version '{version}' for type "
            f"'{'/'.join(filter(None, ('workspaces', kind)))}'. The supported api-versions are '{', '.join(known)}'. "
            f"The supported locations are '{workspace.location}'."
        )
        raise ServiceError(400, "NoRegisteredProviderFound", message, gateway=True)


def has_paths(request: Request) -> bool:
    """Whether the request's version knows `pathOnCompute`."""
    return request.query_params.get("api-version") in WITH_PATHS
