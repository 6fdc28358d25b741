"""A container of Azure Storage that a workspace is to know as a datastore."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

DATASTORE_NAME = re.compile(r"[A-Za-z0-9_]{1,255}")


@dataclass(frozen=True)
class ContainerSpec:
    """Container *container* of account *account*; `key` is the account's, empty where the workspace knows the container
    already.

    `subscription` is that of the account, where it is another than the workspace's. `name` is what a new datastore is
    called; empty: made of the account's and the container's names.
    """

    account: str
    container: str
    key: str = field(default="", repr=False)
    subscription: str = ""
    name: str = ""
