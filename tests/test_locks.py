"""What pip installs by hash, what uv installs and what pyproject.toml allows are one thing."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.helpers import ROOT

FILES = {name: (ROOT / "requirements" / f"{name}.lock").read_text() for name in ("run", "all", "cpu", "torch", "cuda")}
UV = tomllib.loads((ROOT / "uv.lock").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(text: str) -> set[tuple[str, str]]:
    return set(re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, flags=re.M))


def hashes(package: dict[str, object]) -> set[str]:
    files = [package.get("sdist"), *package.get("wheels", [])]  # type: ignore[misc]
    return {file["hash"] for file in files if isinstance(file, dict)}


@pytest.mark.parametrize("name", FILES)
def test_pips_files_are_uvs(name: str) -> None:
    known = {(package["name"], package.get("version")): hashes(package) for package in UV["package"]}
    blocks = re.split(r"^(?=\w)", FILES[name], flags=re.M)[1:]
    assert blocks
    for block in blocks:
        ((package, version),) = pins(block)
        given = set(re.findall(r"--hash=(sha256:\w+)", block))
        assert given and given == known[package, version], f"{package}: `make lock` writes what is right"


def test_nothing_is_in_two_files_or_in_none() -> None:
    """Every package that uv would install is in one of the files; of torch there is one version."""
    cpu, plain = (dict(pins(FILES[name]))["torch"] for name in ("cpu", "torch"))
    assert cpu == f"{plain}+cpu"
    assert pins(FILES["run"]) < pins(FILES["all"])
    one = [pins(FILES[name]) for name in ("all", "cpu", "torch", "cuda")]
    assert sum(map(len, one)) == len(set.union(*one)) == len(UV["package"]) - 1, "all but star itself"


def test_the_lock_is_of_this_pyproject() -> None:
    """What uv.lock says that star needs is what pyproject.toml says; else `uv sync --locked` refuses."""
    (star,) = (package for package in UV["package"] if package["name"] == "star-exp")
    assert SpecifierSet(UV["requires-python"]) == SpecifierSet(PROJECT["requires-python"])
    named = {(one["name"], SpecifierSet(one.get("specifier", ""))) for one in star["metadata"]["requires-dist"]}
    wanted = [*PROJECT["dependencies"], *(one for extra in PROJECT["optional-dependencies"].values() for one in extra)]
    asked = {(one.name.lower(), one.specifier) for one in map(Requirement, wanted)}
    assert named == asked


def test_the_pythons_that_are_named_are_those_that_are_allowed() -> None:
    said = {text.rpartition(" ")[2] for text in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", text)}
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert said == {f"3.{minor}" for minor in range(30) if f"3.{minor}.2" in allowed}
    assert f"Python {min(said)} to {max(said)}" in (ROOT / "README.md").read_text()
    assert f"Python {min(said)} to {max(said)}" in (ROOT / "Makefile").read_text()
