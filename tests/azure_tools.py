"""A program called `az` that answers as the Azure CLI does."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from tests.azure_connections import write_program
from tests.servers.azureml.principals import Principal, make_token

AZ = """
import json, pathlib, sys
folder, arguments = pathlib.Path(__file__).parent, sys.argv[1:]
with open(folder / "asked.txt", "a") as file:
    file.write(" ".join(arguments) + "\\n")
answers = json.loads((folder / "answers.json").read_text())
answer = answers["subscription" if "--subscription" in arguments else "plain"]
sys.stderr.write(answer.get("error", ""))
if "token" not in answer:
    sys.exit(1)
print(json.dumps({"accessToken": answer["token"], "expires_on": answer["expires"], "tokenType": "Bearer"}))
"""


class Az:
    """The program: what it answers, and what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = write_program(folder, "az", AZ)

    def answer(self, plain: Mapping[str, object], subscription: Mapping[str, object] | None = None) -> None:
        """With and without `--subscription`."""
        content = {"plain": plain, "subscription": plain if subscription is None else subscription}
        (self.folder / "answers.json").write_text(json.dumps(content))

    @property
    def asked(self) -> list[str]:
        """The command lines so far."""
        path = self.folder / "asked.txt"
        return path.read_text().splitlines() if path.exists() else []


def token_of(principal: Principal) -> dict[str, object]:
    text, seconds = make_token(principal, "https://management.azure.com")
    return {"token": text, "expires": int(time.time() + seconds)}
