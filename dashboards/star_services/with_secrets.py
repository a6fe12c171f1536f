"""`python -m star_services.with_secrets NAME=FILE ... -- COMMAND ...`: run a command with secrets in its environment.

Each FILE's content, without surrounding white space, becomes the variable NAME of the command only, and is visible in
no compose file, no `docker inspect` and no list of processes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Set the variables, and replace this process by the command.

    Raises:
        SystemExit: with one sentence, if the arguments are wrong, a file cannot be read or is empty, or the command
            cannot be started.
    """
    if "--" not in arguments[:-1]:
        raise SystemExit("with_secrets: give NAME=FILE ..., then --, then a command.")
    split = arguments.index("--")
    environment = dict(os.environ)
    for pair in arguments[:split]:
        name, _, file = pair.partition("=")
        try:
            value = Path(file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SystemExit(
                f"with_secrets: {name}: {file} cannot be read: {getattr(error, 'strerror', error)}."
            ) from None
        if not value:
            raise SystemExit(f"with_secrets: {name}: {file} is empty; `make secrets` fills it.")
        environment[name] = value
    command = arguments[split + 1 :]
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        raise SystemExit(f"with_secrets: {command[0]}: {error.strerror}.") from None


if __name__ == "__main__":
    main(sys.argv[1:])
