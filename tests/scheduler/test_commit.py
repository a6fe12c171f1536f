"""The commit that is recorded is that of the code that ran, or none: on real repositories, under whatever a user has set."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from star.rundir import Home
from star.scheduler import snapshot
from star.scheduler.commit import Commit, commit_of


def git(folder: Path, *arguments: str) -> str:
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    plain = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "-c", "safe.directory=*", *arguments]
    done = subprocess.run(command, cwd=folder, env={**plain, **who}, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def repository(folder: Path, files: dict[str, str], *options: str) -> str:
    """A new repository that holds `files`; its commit."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "-q", *options)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that a repository tracks; what git reads of this machine's user is empty."""
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (tmp_path / "user").mkdir()
    repository(
        tmp_path / "work",
        {"star/__init__.py": "", "star/loss.py": "a = 1\nb = 2\n", "README.md": "r", ".gitignore": "*.swp\n"},
    )
    return tmp_path / "work" / "star"


def found(package: Path) -> Commit | None:
    return commit_of(package, snapshot._contents(package))


def head(package: Path) -> str:
    return git(package, "rev-parse", "HEAD")


CHANGE = "--- a/star/loss.py\n+++ b/star/loss.py\n@@ -1,2 +1,2 @@\n a = 1\n-b = 2\n+b = 3\n"


def test_clean_and_changed(package: Path) -> None:
    assert found(package) == Commit(head(package), "")
    (package.parent / "README.md").write_text("not the package")
    assert found(package) == Commit(head(package), "")
    (package / "loss.py").write_text("a = 1\nb = 3\n")
    assert found(package) == Commit(head(package), CHANGE)
    git(package, "add", "-A")  # staged or not: it is not the commit's
    assert found(package) == Commit(head(package), CHANGE)


def test_the_diff_applies(package: Path) -> None:
    """New, gone, empty, without a last line's end: git takes what is kept of them and makes the same files of the commit."""
    (package / "loss.py").unlink()
    (package / "new.py").write_text("c = 3\nd = 4")
    (package / "é ü.py").write_text("e = 5\n")
    commit = found(package)
    assert commit is not None
    other = package.parent.parent / "other"
    git(package.parent.parent, "clone", "-q", str(package.parent), str(other))
    subprocess.run(["git", "apply", "-"], cwd=other, input=commit.diff.encode(), check=True)
    assert snapshot._contents(other / "star") == snapshot._contents(package)


SETTINGS = {
    "an external diff": "[diff]\n\texternal = false\n",
    "colours": "[color]\n\tui = always\n\tdiff = always\n",
    "noprefix": "[diff]\n\tnoprefix = true\n",
    "mnemonic prefixes": "[diff]\n\tmnemonicPrefix = true\n",
    "other algorithms": "[diff]\n\talgorithm = histogram\n\tcontext = 0\n\tignoreSubmodules = all\n\trenames = copies\n",
    "line ends": "[core]\n\tautocrlf = true\n\tquotePath = true\n\tpager = false\n",
    "a monitor that fails": "[core]\n\tfsmonitor = /nowhere/monitor\n",
    "untracked files are not shown": "[status]\n\tshowUntrackedFiles = no\n",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_a_user_change_nothing(package: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "user" / ".gitconfig").write_text(SETTINGS[name])
    assert found(package) == Commit(head(package), "")
    (package / "loss.py").write_text("a = 1\nb = 3\n")
    assert found(package) == Commit(head(package), CHANGE)


def test_variables_of_git_change_nothing(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a hook, or in a shell that works on a repository of dotfiles."""
    right = head(package)
    other = repository(tmp_path / "dots", {"star/__init__.py": "", "star/loss.py": "another\n"})
    assert other != right
    for key, value in {
        "GIT_DIR": str(tmp_path / "dots" / ".git"),
        "GIT_WORK_TREE": str(tmp_path / "dots"),
        "GIT_INDEX_FILE": str(tmp_path / "dots" / ".git" / "index"),
        "GIT_OBJECT_DIRECTORY": str(tmp_path / "dots" / ".git" / "objects"),
        "GIT_CEILING_DIRECTORIES": str(package.parent),
        "GIT_NAMESPACE": "elsewhere",
        "GIT_EXTERNAL_DIFF": "false",
        "GIT_DIFF_OPTS": "--unified=0",
        "GIT_PREFIX": "elsewhere/",
        "GIT_TRACE": "1",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.worktree",
        "GIT_CONFIG_VALUE_0": str(tmp_path / "dots"),
    }.items():
        monkeypatch.setenv(key, value)
    assert found(package) == Commit(right, "")
    (package / "loss.py").write_text("a = 1\nb = 3\n")
    assert found(package) == Commit(right, CHANGE)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_repository_of_another_user_is_read(package: Path) -> None:
    right = head(package)
    for path in [package.parent, *package.parent.rglob("*")]:
        os.chown(path, 12345, 12345)
    refused = subprocess.run(["git", "rev-parse", "HEAD"], cwd=package, capture_output=True, text=True)
    assert "dubious ownership" in refused.stderr
    assert found(package) == Commit(right, "")


def test_another_repositorys_commit_is_not_ours(tmp_path: Path) -> None:
    """A package that was installed into a project's virtual environment lies in that project's repository."""
    repository(tmp_path / "work", {"analysis.py": "x = 1\n", ".gitignore": ".venv\n"})
    for place in (".venv/lib/site-packages/star", "vendor/star"):
        package = tmp_path / "work" / place
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        assert found(package) is None
    (package / "notes.txt").write_text("this one is tracked, the package is not")
    git(package, "add", "notes.txt")
    git(package, "commit", "-q", "-m", "notes")
    assert found(package) is None


def test_no_repository_and_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "star"
    package.mkdir()
    (package / "__init__.py").touch()
    assert found(package) is None
    git(tmp_path, "init", "-q")
    assert found(package) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert found(package) is None, "git is not installed"


def test_what_lies_beside_the_code(package: Path, tmp_path: Path) -> None:
    """An editor's ignored file is no change; an ignored module is, for it can be imported. Neither stops the rest."""
    (package / "loss.py.swp").write_text("swap")
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "loss.cpython-311.pyc").write_bytes(b"\0")
    (package / "gone.py").symlink_to(tmp_path / "nowhere")
    os.mkfifo(package / "pipe")
    assert found(package) == Commit(head(package), "")
    (package / ".gitignore").write_text("mine.py\n")
    (package / "mine.py").write_text("d = 4\n")
    (package / "odd.bin").write_bytes(b"\xff\0\x01")
    repository(package / "nested", {"inner.py": "e = 5\n"})
    commit = found(package)
    assert commit is not None and commit.name == head(package)
    assert "+++ b/star/mine.py\n@@ -0,0 +1 @@\n+d = 4\n" in commit.diff
    assert "+++ b/star/nested/inner.py\n" in commit.diff and ".git/" not in commit.diff
    assert "Binary files /dev/null and b/star/odd.bin differ\n" in commit.diff


def test_a_file_that_cannot_be_read_is_left_out(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # root reads all, so the refusal is played
    (package / "locked.py").write_text("secret")
    plain = Path.read_bytes

    def read(path: Path) -> bytes:
        if path.name == "locked.py":
            raise PermissionError(path)
        return plain(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    assert found(package) == Commit(head(package), "")


def test_worktrees_and_other_hashes(package: Path, tmp_path: Path) -> None:
    git(package.parent, "worktree", "add", "-q", "--detach", str(tmp_path / "tree"))
    assert found(tmp_path / "tree" / "star") == Commit(head(package), "")
    name = repository(tmp_path / "wide", {"star/__init__.py": "x = 1\n"}, "--object-format=sha256")
    assert found(tmp_path / "wide" / "star") == Commit(name, "") and len(name) == 64


def test_a_snapshot_learns_of_a_commit_made_later(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "PACKAGE", package)
    home = Home(tmp_path / "home")
    (package / "loss.py").write_text("a = 1\nb = 3\n")
    first = snapshot.take(home)
    assert first.version == f"0.1.0+{head(package)[:12]}.dirty"
    assert (first.path / snapshot.DIFF).read_text() == CHANGE
    git(package, "commit", "-q", "-a", "-m", "second")
    second = snapshot.take(home)
    assert second.path == first.path and second.version == f"0.1.0+{head(package)[:12]}"
    assert snapshot.digest_of(second.path) == second.path.name
