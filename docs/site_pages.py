"""What the site needs of the repository beside docs/: pages from elsewhere, and links that lead to them.

mkdocs calls these functions (`hooks` in mkdocs.yml). Links are written so that they hold in the repository; here they
become links of the site. One that leads to a file that is no page is refused by mkdocs' strict mode.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
ELSEWHERE = ("SECURITY.md", "CHANGELOG.md", "data/README.md")
"""Pages outside docs/, by their place in the repository, which is also their place in the site."""
_LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)#\s]+)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from elsewhere."""
    for place in ELSEWHERE:
        files.append(File.generated(config, place, content=(ROOT / place).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links of the repository into links of the site."""
    here = page.file.src_uri
    folder = posixpath.dirname(here if here in ELSEWHERE else f"docs/{here}")

    def of_the_site(link: re.Match[str]) -> str:
        place = posixpath.normpath(posixpath.join(folder, link[1]))
        if (ROOT / place).is_dir() and (ROOT / place / "README.md").is_file():
            place += "/README.md"
        target = place if place in ELSEWHERE else posixpath.relpath(place, "docs")
        return posixpath.relpath(target, posixpath.dirname(here) or ".")

    return _LINK.sub(of_the_site, markdown)
