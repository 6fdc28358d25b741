"""A compute target as azureml-core asks for it before it submits: the resource of the control plane, by another door."""

from __future__ import annotations

from starlette.routing import Route

from tests.servers.azureml.arm_computes import get_compute

routes = [Route("/rp/computes/{name}", get_compute, methods=["GET"])]
