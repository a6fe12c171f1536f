"""Carries README, reports and whatever else of the repository the pages link to into the site, with links that fit there.

On a forge a page links to `../star/objectives/term.py`; on the site that file is a page of its own.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(\]\(|<img[^>]* src=\")([^)#\s\"]+)(?=[)#\"])")
FENCE = re.compile(r"^(```|~~~)")
LIST = re.compile(r"^( *)([-*]|\d+\.) ")
PICTURES = (".png", ".svg", ".pdf")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add README as the first page, the reports, and all that is linked, followed through."""
    waiting = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "reports/index.md"]
    waiting += [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    known = {f"docs/{file.src_uri}" for file in files}
    while waiting:
        place = waiting.pop()
        if place not in known:
            known.add(place)
            files.append(_carried(place, config))
        if place.endswith(".md"):
            for target in _targets((ROOT / place).read_text(), place):
                if target not in known and target not in waiting and (ROOT / target).exists():
                    waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files, **_: Any) -> str:
    """Make links of a page fit the site, and put a blank line before a list, which Markdown of forges does without."""
    source = page.file.src_uri
    place = "README.md" if source == "index.md" else f"docs/{source}" if (ROOT / "docs" / source).exists() else source
    if not (ROOT / place).is_file():
        return markdown  # made here

    def moved(match: re.Match[str]) -> str:
        target = _resolved(match[2], place)
        return match[0] if target is None else match[1] + relpath(_on_site(target), str(PurePosixPath(source).parent))

    lines: list[str] = []
    for line, is_code in _lines(markdown):
        before = lines[-1] if lines else ""
        if (
            not is_code
            and LIST.match(line)
            and before.strip()
            and not before.startswith((" ", "|"))
            and not LIST.match(before)
        ):
            lines.append("")
        lines.append(line if is_code else LINK.sub(moved, line))
    return "\n".join(lines)


def _lines(text: str) -> list[tuple[str, bool]]:
    """Each line, and whether it is code."""
    found, inside = [], False
    for line in text.splitlines():
        fence = bool(FENCE.match(line.strip()))
        found.append((line, inside or fence))
        inside = inside != fence
    return found


def _targets(text: str, place: str) -> set[str]:
    links = {match[2] for line, is_code in _lines(text) if not is_code for match in LINK.finditer(line)}
    return {target for link in links if (target := _resolved(link, place)) is not None}


def _resolved(link: str, place: str) -> str | None:
    """What a link of the file at `place` leads to, as a path from the repository's root."""
    if "://" in link or link.startswith("mailto:"):
        return None
    return normpath(str(PurePosixPath(place).parent / link))


def _on_site(place: str) -> str:
    if place == "README.md":
        return "index.md"
    if place.startswith("docs/"):
        return place.removeprefix("docs/")
    if (ROOT / place).is_dir():
        return f"{place}/index.md"
    return place if place.endswith((".md", *PICTURES)) else f"{place}.md"


def _carried(place: str, config: MkDocsConfig) -> File:
    path, uri = ROOT / place, _on_site(place)
    if path.is_dir():
        return File.generated(config, uri, content=_listing(path, place))
    if uri == place or place == "README.md":
        return File.generated(config, uri, abs_src_path=str(path))
    language = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json"}.get(
        path.suffix, "text"
    )
    return File.generated(config, uri, content=f"# {place}\n\n````{language}\n{path.read_text()}````\n")


def _listing(path: Path, place: str) -> str:
    names = sorted(
        one.name + "/" * one.is_dir() for one in path.iterdir() if not one.name.startswith((".", "__pycache__"))
    )
    return f"# {place}\n\n" + "\n".join(f"- `{name}`" for name in names) + "\n"
