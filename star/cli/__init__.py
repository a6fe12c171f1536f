"""The command line, `star-exp`."""

import sys

if sys.platform == "win32":  # here, before an import fails on what Windows does not have
    print("star-exp runs on Linux: on Windows use it in WSL, where it is what it is on Linux.", file=sys.stderr)
    sys.exit(2)
