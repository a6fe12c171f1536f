"""Write the files that pip installs from, out of uv.lock: `make lock` calls this. It needs uv.

- torch.lock: torch, by the hashes of PyPI's build and of the CPU build of download.pytorch.org; pip takes what its index has
- cuda.lock: what PyPI's build for Linux needs besides
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
    hashes = sorted({*re.findall(r"sha256:\w+", everything.pop("torch")), *re.findall(r"sha256:\w+", cuda["torch"])})
    del run["torch"]
    version = cuda.pop("torch").split()[0]
    write("torch.lock", {"torch": " \\\n".join([version, *(f"    --hash={one}" for one in hashes)]) + "\n"})
    write("cuda.lock", {name: lines for name, lines in cuda.items() if name not in everything})
    write("run.lock", run)
    write("all.lock", everything)


if __name__ == "__main__":
    main()
