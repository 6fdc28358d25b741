"""How to sign in, as the user set it: HIML_* variables, else `[azure]` in himl.private.toml or himl.toml."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from himl_cli.core.errors import NotAllowed
from himl_cli.core.redaction import MASK
from himl_cli.core.settings import PRIVATE_FILE, Setting, section_settings
from himl_cli.core.text import did_you_mean
from himl_cli.workspaces.azure.places.clouds import CLOUD_VARIABLE, CLOUDS

VARIABLES = {
    "tenant_id": "HIML_TENANT_ID",
    "service_principal_id": "HIML_SERVICE_PRINCIPAL_ID",
    "service_principal_password": "HIML_SERVICE_PRINCIPAL_PASSWORD",
}
KEYS = (*VARIABLES, "cloud")
SECRET = "service_principal_password"


@dataclass(frozen=True)
class ServicePrincipal:
    """An application that signs in with a secret; `place` says where its id was set, `in_files` as AzureSettings has
    it."""

    tenant_id: str
    client_id: str
    secret: str = field(repr=False)
    place: str
    in_files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AzureSettings:
    """What was set, empty where nothing was; `places` maps a key to where it stands (a variable, or FILE:LINE)."""

    tenant_id: str = ""
    service_principal_id: str = ""
    service_principal_password: str = field(default="", repr=False)
    cloud: str = ""
    places: Mapping[str, str] = field(default_factory=dict)

    @property
    def in_files(self) -> dict[str, str]:
        """What was not set by its variable: the variable's name, and what to name instead (`tenant_id in
        FILE:LINE`)."""
        return {
            name: f"{key} in {self.places[key]}"
            for key, name in VARIABLES.items()
            if self.places.get(key, name) != name
        }

    def service_principal(self) -> ServicePrincipal | None:
        """The service principal, or None where neither its id nor its password is set.

        Raises NotAllowed naming the parts that are missing.
        """
        if not (self.service_principal_id or self.service_principal_password):
            return None
        parts = {
            "tenant_id": self.tenant_id,
            "service_principal_id": self.service_principal_id,
            SECRET: self.service_principal_password,
        }
        missing = [key for key, value in parts.items() if not value]
        if missing:
            given = " and ".join(f"{key} ({self.places.get(key, 'given')})" for key, value in parts.items() if value)
            raise NotAllowed(
                f"The service principal is only partly set: {given}, but no {' and no '.join(missing)}.",
                hint=f"Set {' and '.join(VARIABLES[key] for key in missing)}, or the keys in [azure] of "
                f"{PRIVATE_FILE}; or unset the rest.",
            )
        place = self.places.get("service_principal_id", "given")
        return ServicePrincipal(
            self.tenant_id, self.service_principal_id, self.service_principal_password, place, self.in_files
        )


def azure_settings(start: Path) -> AzureSettings:
    """The settings that count for *start*: each variable wins over the files, and himl.private.toml over himl.toml.

    Raises BadUsage for a key that is not known, a value that is no text, and a password outside himl.private.toml.
    """
    values: dict[str, str] = {}
    places: dict[str, str] = {}
    for key, setting in section_settings(start, "azure").items():
        values[key], places[key] = _checked(setting), setting.place
    if os.environ.get(CLOUD_VARIABLE):
        values.pop("cloud", None)  # the variable wins; whoever chooses the cloud reads it
    for key, name in VARIABLES.items():
        text = os.environ.get(name, "").strip()
        if text:
            values[key], places[key] = text, name
    return AzureSettings(**values, places=places)


def settings_facts(start: Path) -> Sequence[tuple[str, str, str]]:
    """Each key with its value and where that stands (`default` where it is not set); the secret's value is masked.

    Raises what `azure_settings` raises.
    """
    settings = azure_settings(start)
    values = {key: getattr(settings, key) for key in KEYS}
    values[SECRET] = MASK if values[SECRET] else ""
    variable = os.environ.get(CLOUD_VARIABLE, "").strip()
    places = {**settings.places, "cloud": CLOUD_VARIABLE} if variable else settings.places
    return [
        (key, variable if key == "cloud" and variable else value, places.get(key, "default"))
        for key, value in values.items()
    ]


def _checked(setting: Setting) -> str:
    if setting.key not in KEYS:
        raise setting.wrong(
            "is not known.", hint=did_you_mean(setting.key, KEYS) or f"Keys of [azure]: {', '.join(KEYS)}."
        )
    if not isinstance(setting.value, str):
        raise setting.wrong("must be text.", hint="Write it in quotes.")
    if setting.key == SECRET and setting.file.name != PRIVATE_FILE:
        raise setting.wrong(
            "is a secret, and this file is sent with every job.",
            hint=f"Move it to {PRIVATE_FILE}, which is never sent.",
        )
    if setting.key == "cloud" and setting.value.lower() not in CLOUDS:
        raise setting.wrong(
            f"is no cloud that himl knows: '{setting.value}'.",
            hint=f"There are {', '.join(cloud.name for cloud in CLOUDS.values())}.",
        )
    return setting.value.strip()
