"""`python -m himl_cli.remote`, the other end of a workspace that himl reaches by SSH. ssh starts it, no user does."""

from __future__ import annotations

import gc

gc.set_threshold(120_000)  # as in `himl_cli.__main__`

from himl_cli.workspaces.remote.agent import serve  # noqa: E402

if __name__ == "__main__":
    serve()
