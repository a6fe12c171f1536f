"""`star-exp verify` of real bundles: a table made again, runs computed again, numbers that were changed on the way."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from star.errors import DataError
from star.report.agree import compare
from star.rundir import Home
from star.scheduler.unpack import unpack
from tests.cli.test_auto import write
from tests.helpers import star_exp


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four rows of a script's numbers, three seeds each, as one file."""
    folder = tmp_path_factory.mktemp("bundle")
    file, home = write(folder), folder / "home"
    assert star_exp("run", file, "--plain", home=home, cwd=folder).returncode == 0
    done = star_exp("export", "seeds", "--to", folder / "seeds.tar.gz", home=home, cwd=folder)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(home)
    file.unlink()
    (folder / "draw.py").unlink()  # a reviewer has the bundle alone
    return folder / "seeds.tar.gz"


def changed(bundle: Path, target: Path, name: str, old: str, new: str) -> Path:
    """The bundle with a text changed in files of a name, and sums that fit, as somebody who cheats would make it."""
    with tarfile.open(bundle) as source:
        files = {one.name: source.extractfile(one).read() for one in source.getmembers() if one.isfile()}  # type: ignore[union-attr]
    hit = [one for one in files if one.endswith(name) and old.encode() in files[one]]
    assert hit, name
    files[hit[0]] = files[hit[0]].replace(old.encode(), new.encode(), 1)
    if hit[0] != "manifest.json":
        manifest = json.loads(files["manifest.json"])
        manifest["files"][hit[0]] = hashlib.sha256(files[hit[0]]).hexdigest()
        files["manifest.json"] = json.dumps(manifest).encode()
    with tarfile.open(target, "w:gz") as out:
        for one, content in files.items():
            entry = tarfile.TarInfo(one)
            entry.size = len(content)
            out.addfile(entry, io.BytesIO(content))
    return target


def test_a_table_is_made_again_from_the_results(bundle: Path, tmp_path: Path) -> None:
    done = star_exp("verify", bundle, home=tmp_path / "home", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "seeds (none): 12 numbers: 12 identical" in done.stdout
    with tarfile.open(bundle) as source:
        told = json.loads(source.extractfile("reports/seeds/none/provenance.json").read())  # type: ignore[union-attr]
    value = next(cell for cell in told["cells"] if cell["row"] == "near")["sources"][1]["value"]
    forged = changed(bundle, tmp_path / "forged.tar.gz", "reports/seeds/none/provenance.json", str(value), "9.5")
    done = star_exp("verify", forged, "--json", home=tmp_path / "home", cwd=tmp_path)
    assert done.returncode == 1
    found = {one["name"]: one for one in json.loads(done.stdout)["numbers"]}
    assert found["near | Score | seed 1"]["degree"] == "differs" and found["near | Score | seed 1"]["again"] == value
    assert sum(one["degree"] == "identical" for one in found.values()) == 11


def test_runs_are_computed_again(bundle: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    done = star_exp("verify", bundle, "--rows", "[nf]*", "--seeds", "1,2", "--plain", home=home, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "far · seed 1: fit/score" in done.stdout and "6 numbers: 6 identical" in done.stdout
    assert "over other seeds)" in done.stdout and not (home / "ledger.sqlite").exists(), (
        "the user's own ledger is not touched"
    )
    again = star_exp("verify", bundle, "--rows", "[nf]*", "--seeds", "1,2", "--plain", home=home, cwd=tmp_path)
    assert "nothing was left to compute" in again.stdout, "it goes on where it was"
    result = min((home / "verify").glob("*/given/jobs/fit-*/result.json"))
    value = json.loads(result.read_text())["metrics"]["score"]
    forged = changed(
        bundle, tmp_path / "forged.tar.gz", f"{result.parent.name}/result.json", str(value), str(value + 50)
    )
    done = star_exp("verify", forged, "--rows", "*", "--plain", home=home, cwd=tmp_path)
    assert done.returncode == 1 and "differs" in done.stdout and "11 identical" in done.stdout


def test_numbers_for_programs_are_all_that_is_printed(bundle: Path, tmp_path: Path) -> None:
    done = star_exp("verify", bundle, "--rows", "far", "--seeds", "2", "--json", home=tmp_path / "home", cwd=tmp_path)
    assert done.returncode == 0 and json.loads(done.stdout)["counts"] == {"identical": 1}


def test_a_store_of_the_users_is_neither_read_nor_written(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "shared.sqlite"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    done = star_exp("verify", bundle, home=tmp_path / "home", cwd=tmp_path)
    assert done.returncode == 0 and "12 identical" in done.stdout and not store.exists()


def test_the_bundles_script_runs_and_not_what_became_of_it(tmp_path: Path) -> None:
    file, home = write(tmp_path), tmp_path / "home"
    assert star_exp("run", file, "--plain", home=home, cwd=tmp_path).returncode == 0
    assert star_exp("export", "seeds", "--to", tmp_path / "b.tar.gz", home=home, cwd=tmp_path).returncode == 0
    script = tmp_path / "draw.py"
    script.write_text(script.read_text().replace("args.mean +", "100 + args.mean +"))
    done = star_exp(
        "verify", tmp_path / "b.tar.gz", "--rows", "near", "--seeds", "1", "--plain", home=home, cwd=tmp_path
    )
    assert done.returncode == 0 and "1 identical" in done.stdout and "another key" not in done.stderr, done.stdout


def test_how_numbers_agree() -> None:
    given = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0, "e": 1.0, "f": float("nan")}
    again = {"a": 1.0, "b": 1.0 + 1e-8, "c": 1.2, "d": 3.0, "f": float("nan")}
    seeds = {"c": [1.0, 1.1, 0.9], "d": [1.0, 1.1, 0.9]}
    found = {one.name: one.degree for one in compare(given, again, seeds, None)}
    assert found == {
        "a": "identical",
        "b": "to rounding",
        "c": "as another seed",
        "d": "differs",
        "e": "missing",
        "f": "identical",
    }
    assert [one.degree for one in compare({"c": 1.0}, {"c": 1.2}, seeds, 0.1)] == ["differs"]
    assert [one.degree for one in compare({"c": 1.0}, {"c": 1.2}, {}, 0.3)] == ["within 0.3"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rows", "nobody"], "--rows nobody: matches no row"),
        (["--rows", "far", "--seeds", "7"], "--seeds 7: far has no such seed; it has 0, 1, 2."),
        (["--seeds", "1"], "--seeds 1: of which rows?"),
    ],
)
def test_mistakes(options: list[str], message: str, bundle: Path, tmp_path: Path) -> None:
    done = star_exp("verify", bundle, *options, home=tmp_path / "home", cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    gone = star_exp("verify", tmp_path / "nothing.tar.gz", home=tmp_path / "home", cwd=tmp_path)
    assert gone.returncode == 2 and "there is no such file" in gone.stderr
    (tmp_path / "text.tar.gz").write_text("no bundle")
    other = star_exp("verify", tmp_path / "text.tar.gz", home=tmp_path / "home", cwd=tmp_path)
    assert other.returncode == 2 and "is no bundle of `star-exp export`" in other.stderr


@pytest.mark.parametrize(
    "name, old, new, says",
    [
        ("result.json", '"metrics": {', '"metrics": [1], "x": {', "does not hold what a file of that name holds"),
        ("result.json", "{", "", "is damaged"),
        ("seeds@none.json", "{", "[", "is damaged"),
        ("manifest.json", '"profile"', '"profil"', "is damaged"),
        ("manifest.json", '"files": {', '"files": [], "x": {', "does not say which experiment"),
    ],
)
def test_bundles_of_strangers(name: str, old: str, new: str, says: str, bundle: Path, tmp_path: Path) -> None:
    """Their sums fit, and what they hold does not: nothing of them is taken in."""
    bad = changed(bundle, tmp_path / "bad.tar.gz", name, old, new)
    for command in ("import", "verify"):
        done = star_exp(command, bad, home=tmp_path / "home")
        assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not list((tmp_path / "home").rglob("result.json"))


def test_bundles_with_bytes_changed_on_the_way(bundle: Path, tmp_path: Path) -> None:
    """Whatever gives up, gzip, zlib, tar, JSON or a sum, it is one sentence."""
    content, seen = bundle.read_bytes(), set()
    for at in range(10, min(len(content), 10 + 7 * 150), 7):
        bad = bytearray(content)
        bad[at] ^= 255
        (tmp_path / "bad.tar.gz").write_bytes(bad)
        try:
            unpack(tmp_path / "bad.tar.gz", Home(tmp_path / "home"), tmp_path / "reports")
        except DataError as error:
            seen.add(str(error.__context__.__class__.__name__))
    assert len(seen) > 1, "one kind of damage alone was tried"
