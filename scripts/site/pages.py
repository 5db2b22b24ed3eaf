"""Hooks of mkdocs: pages that are made when the site is built, and links to what lies outside of docs/."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # mkdocs loads this file alone

from scripts.site import errors, language  # noqa: E402

OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that are made of the code."""
    from mkdocs.structure.files import File

    made = {"language-reference.md": language.page(), "errors.md": errors.page()}
    made |= {f"errors/{name}": content for name, content in errors.single_pages().items()}
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """What lies in the repository and not on the site is named by its path."""
    return OUTSIDE.sub(lambda found: f"{found[1]} (`{found[2]}` in the repository)", markdown)
