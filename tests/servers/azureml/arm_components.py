"""The control plane's route that registers components: what steps of pipelines run."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.servers.azureml.answers import bad_request
from tests.servers.azureml.arm_assets import register_version, version_of
from tests.servers.azureml.arm_job_checks import check_code, check_environment
from tests.servers.azureml.frame import body_of, demand, workspace_of
from tests.servers.azureml.principals import Right
from tests.servers.azureml.state import Json

_REFERENCE = re.compile(r"\$\{\{\s*(inputs|outputs)\.(\w+)\s*\}\}")


def put_component(request: Request) -> Response:
    """Register a version: 201, or 200 where it is there, as it was. Code and environment have to be there, and what the command names."""
    demand(request, Right.WRITE, "components/versions/write")
    workspace, properties = workspace_of(request), body_of(request).get("properties") or {}
    name, version = request.path_params["name"], request.path_params["version"]
    spec = properties.get("componentSpec")
    if not isinstance(spec, dict):
        raise bad_request("The component has no 'componentSpec'.")
    existed = version in workspace.assets["components"].get(name, {})
    if not existed:
        if spec.get("type") == "command":
            _check_command(spec)
            check_code(workspace, _id(spec.get("code")))
            check_environment(workspace, _id(spec.get("environment")))
        register_version(workspace, "components", name, version, properties)
    document = version_of(workspace, "components", name, version)
    return JSONResponse(document, 200 if existed else 201, headers={"Location": f"https://{request.headers['host']}{document['id']}?{request.url.query}"})


def _check_command(spec: Json) -> None:
    if not spec.get("command") or not spec.get("environment"):
        raise bad_request("A command component needs 'command' and 'environment'.")
    unknown = [f"{kind}.{name}" for kind, name in _REFERENCE.findall(spec["command"]) if name not in (spec.get(kind) or {})]
    if unknown:
        raise bad_request(f"The command refers to {', '.join(unknown)}, which the component does not have.")


def _id(text: str | None) -> str | None:
    return text.removeprefix("azureml:") if text and text.startswith(("azureml:/subscriptions/", "azureml:azureml:")) else text


routes = [Route("/components/{name}/versions/{version}", put_component, methods=["PUT"])]
