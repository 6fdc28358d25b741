"""Workspaces that a script holds as objects of the vendor's SDKs, recognised without importing these."""

from __future__ import annotations

ATTRIBUTES = {
    ("azureml.", "Workspace"): ("subscription_id", "resource_group", "name"),  # azureml.core
    ("azure.ai.ml.", "MLClient"): ("subscription_id", "resource_group_name", "workspace_name"),
}
"""Where a class comes from and its name; which of its attributes hold subscription, resource group and name of the
workspace."""


def azure_names(given: object) -> tuple[str, str, str] | None:
    """Subscription, resource group and name of the workspace that *given* stands for; None where it is no such
    object."""
    for kind in type(given).__mro__:
        for (home, name), attributes in ATTRIBUTES.items():
            if kind.__name__ == name and kind.__module__.startswith(home):
                return _texts(given, attributes)
    return None


def _texts(given: object, attributes: tuple[str, str, str]) -> tuple[str, str, str] | None:
    """The values of *attributes*; None where one is not set (an MLClient of a registry has no workspace)."""
    subscription, group, name = (getattr(given, attribute, None) for attribute in attributes)
    if (
        isinstance(subscription, str)
        and isinstance(group, str)
        and isinstance(name, str)
        and subscription
        and group
        and name
    ):
        return subscription, group, name
    return None
