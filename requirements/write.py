"""Write the files that pip installs from, out of uv.lock: `make lock` calls this. It needs uv.

- cpu.lock: torch's build for CPUs, of download.pytorch.org
- torch.lock: torch's build of PyPI; cuda.lock: what it needs besides on Linux
- run.lock: what running needs, for `make table4`
- all.lock: all extras, for the tests and the image
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
RUN = ("slurm", "search", "postgres")


def exported(*flags: str) -> dict[str, str]:
    """Each package's lines, with its hashes, by name."""
    line = ["uv", "export", "--quiet", "--locked", "--no-emit-project", "--no-annotate", "--no-header", *flags]
    text = subprocess.run(line, cwd=HERE.parent, check=True, capture_output=True, text=True).stdout
    blocks = re.split(r"^(?=\S)", text, flags=re.M)
    found: dict[str, str] = {}
    for block in filter(None, blocks):  # a package may have a block for each of several Pythons
        name = block.partition("==")[0]
        found[name] = found.get(name, "") + block
    return found


def write(name: str, packages: dict[str, str]) -> None:
    head = "# Written by requirements/write.py from uv.lock; `make lock` renews both.\n"
    (HERE / name).write_text(head + "".join(packages.values()))


def main() -> None:
    run = exported("--group=build", "--group=cpu", *(f"--extra={name}" for name in RUN))
    everything = exported("--group=build", "--group=cpu", "--all-extras")
    cuda = exported("--group=build", "--group=cuda", "--all-extras")
    builds = [block for block in re.split(r"^(?=\S)", everything.pop("torch"), flags=re.M) if "+cpu" in block]
    del run["torch"]
    # without its marker, or pip on macOS would be content with none
    write("cpu.lock", {"torch": re.sub(r" ; [^\\]*", " ", "".join(builds))})
    write("torch.lock", {"torch": cuda.pop("torch")})
    write("cuda.lock", {name: lines for name, lines in cuda.items() if name not in everything})
    write("run.lock", run)
    write("all.lock", everything)


if __name__ == "__main__":
    main()
