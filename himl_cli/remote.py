"""`python -m himl_cli.remote`, the other end of a workspace that himl reaches by SSH. ssh starts it, no user does."""

from __future__ import annotations

from himl_cli.workspaces.remote.agent import serve

if __name__ == "__main__":
    serve()
