"""`python -m star_services.probe URL`: check that a service does its work, not only that its process lives.

Exit code 0 if URL answers with 2xx within five seconds; else 1, with one line of output. PROBE_USER and
PROBE_PASSWORD are sent (basic authentication) if both are set.
"""

from __future__ import annotations

import base64
import os
import sys
import urllib.error
import urllib.request

PATIENCE = 5.0


def main(url: str) -> int:
    """Request the URL once; returns the exit code."""
    request = urllib.request.Request(url)
    user, password = os.environ.get("PROBE_USER"), os.environ.get("PROBE_PASSWORD")
    if user and password:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            answer.read(1)
            return 0
    except urllib.error.HTTPError as error:
        print(f"{url}: {error.code} {error.read(200).decode(errors='replace')}")
    except OSError as error:
        print(f"{url}: {error}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
