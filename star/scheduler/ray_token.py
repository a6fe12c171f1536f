"""Sets up Ray's token. Ray reads it when it is imported, so this has to run first."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from star.errors import ExecutorError


def prepare() -> None:
    """Make sure that Ray is used with a token: the cluster's, or for a private Ray a new one where none is set up.

    Raises:
        ExecutorError: RAY_ADDRESS names a cluster, but no token authentication is set up here.
    """
    if not os.environ.get("RAY_ADDRESS"):
        os.environ["RAY_AUTH_MODE"] = "token"
        known = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
        if not known and not (Path.home() / ".ray" / "auth_token").exists():
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    elif os.environ.get("RAY_AUTH_MODE") != "token":
        raise ExecutorError(
            "--executor ray: RAY_ADDRESS names a cluster, but RAY_AUTH_MODE is not `token`: whoever reaches such a cluster can run "
            "code on it. Start it with RAY_AUTH_MODE=token and a token (`ray get-auth-token --generate`), and set both here."
        )
