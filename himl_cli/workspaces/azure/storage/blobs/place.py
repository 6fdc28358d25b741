"""Which storage an error speaks of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """A container as messages name it: `label` is what the user asked for, `sign_in` how requests are signed, good
    until `expires`.

    `is_new`: the signature was made just now in place of one that was refused, and nothing shows yet that it is taken.
    """

    label: str
    account: str
    container: str
    host: str
    sign_in: str = ""
    expires: float = 0.0
    is_new: bool = False

    @property
    def storage(self) -> str:
        return f"storage account '{self.account}'"
