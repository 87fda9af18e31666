"""The documents name files that exist, and link to what is there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedded.paths import repository_root

ROOT = repository_root()
SOURCE_ROOTS = (ROOT, *sorted(ROOT.glob("services/*/src")), ROOT / "shared" / "src", ROOT / "dev" / "src")
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "services/*/README.md", "shared/README.md", "dev/**/*.md")
    for path in ROOT.glob(pattern)
    if ".venv" not in path.parts
)
_FILE = re.compile(r"`([\w./-]+/[\w.-]+\.(?:py|sql|toml|sh|yml|txt|html))`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _is_there(document: Path, name: str) -> bool:
    """Whether a file is named from the root, from the document's folder, or from a folder of sources or below one."""
    of_service = sorted(document.parent.glob("src/*"))
    return any((root / name).exists() for root in (*SOURCE_ROOTS, document.parent, *of_service))


def _anchors(text: str) -> set[str]:
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(text)}


def _broken_links(document: Path) -> Iterator[str]:
    for target in _LINK.findall(document.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        linked = (document.parent / name).resolve() if name else document
        if not linked.exists() or (anchor and anchor not in _anchors(linked.read_text())):
            yield target


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_files_that_a_document_names_exist(document: Path) -> None:
    assert [name for name in _FILE.findall(document.read_text()) if not _is_there(document, name)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_links_of_a_document_lead_somewhere(document: Path) -> None:
    assert list(_broken_links(document)) == []
