"""`python -m star_services.optuna_tables`: create Optuna's tables once, because optuna-dashboard does not create them.

The studies are where `star-exp search` keeps them: in the ledger's database (STAR_LEDGER_URL), in a
schema of their own.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from star.errors import StarError
from star.rundir import Home
from star.search.study import open_storage


def main() -> int:
    """Create Optuna's tables if missing; returns the exit code: 0, or 2 for an error, printed to stderr."""
    try:
        open_storage(Home(Path(os.environ.get("STAR_HOME", "runs"))))
    except StarError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
