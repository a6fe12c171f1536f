"""docs/volunteer.md: rows that two people ran become one table at a third's."""

from __future__ import annotations

import re
import sys
import tarfile
from pathlib import Path

from tests.helpers import DATA, ROOT, star_exp

TABLE = ROOT / "experiments" / "table3.yaml"
TINY = ROOT / "tests" / "profiles" / "tiny.yaml"


def names_of_folders(bundle: Path, home: Path) -> list[str]:
    """Return the files of a bundle that name the home, the checkout or the interpreter."""
    private = [str(path).encode() for path in (home, ROOT, Path(sys.prefix))]
    with tarfile.open(bundle) as archive:
        members = [one for one in archive.getmembers() if one.isfile() and not one.name.startswith("code/")]
        contents = {one.name: archive.extractfile(one).read() for one in members}  # type: ignore[union-attr]
    contents = {
        name: re.sub(rb'"command": ".*"', b"", content) for name, content in contents.items()
    }  # as it was typed
    return [name for name, content in contents.items() if any(path in content for path in private)]


def test_rows_of_two_people_are_one_table(images: Path, tmp_path: Path) -> None:
    text = re.sub(r"^use: .*$", "use: []", TABLE.read_text(), flags=re.MULTILINE)
    assert "use: []" in text
    file = tmp_path / "table3.yaml"
    file.write_text(text)
    for name, row in (("ann", "baseline"), ("bob", "MIM")):
        home = tmp_path / name
        (home / "data").mkdir(parents=True)
        (home / "data" / "fashion-mnist").symlink_to(DATA)
        small = ("--profile", str(TINY), "--seeds", "0", "--rows", row, "--plain")
        done = star_exp("run", file, *small, home=home)
        assert done.returncode == 0 and "all done: 9 jobs computed" in done.stdout, done.stdout + done.stderr
        bundle = tmp_path / f"{name}.tar.gz"
        assert star_exp("export", "table3", "--to", bundle, home=home).returncode == 0
        assert not names_of_folders(bundle, home), "the bundle names folders of the machine where it was made"
        checked = star_exp("verify", bundle, home=tmp_path / "checked")
        assert checked.returncode == 0 and "6 numbers: 6 identical" in checked.stdout, checked.stdout
        assert star_exp("import", bundle, home=tmp_path / "third").returncode == 0
    done = star_exp("report", file, "--profile", str(TINY), "--seeds", "0", home=tmp_path / "third")
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "third" / "reports" / "table3" / "tiny" / "report.md").read_text()
    for row, is_there in (("baseline", True), ("MIM", True), ("MIM + view", False)):
        line = next(line for line in rows.splitlines() if line.startswith(f"| {row} |"))
        assert ("(not run)" in line) != is_there, line
