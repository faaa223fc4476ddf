"""MkDocs hooks: pages from outside docs/, links that leave docs/, and formulas as MathML."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]

PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
}
"""Files of the repository that are pages too: the file, the page."""

LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?(?=\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Formulas are fences called ``math``, which GitHub renders as well."""
    fence = {"name": "math", "class": "math", "format": formula}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [fence]
    return config


def formula(source: str, *_: Any, **__: Any) -> str:
    """A formula in LaTeX as MathML, which browsers show without a script."""
    return f"<p>{convert(source, display='block')}</p>"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that lie outside docs/."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Points links out of docs/ to the page of that file, or to the file in the repository."""
    here = page.file.src_uri
    original = {target: source for source, target in PAGES.items()}.get(here, f"docs/{here}")

    def resolved(match: re.Match[str]) -> str:
        target, anchor = match.group(1), match.group(2) or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(original), target))
        if path.startswith("docs/"):
            wanted = path.removeprefix("docs/")
        elif path in PAGES:
            wanted = PAGES[path]
        elif (ROOT / path).exists():
            kind = "tree" if (ROOT / path).is_dir() else "blob"
            return f"{config.repo_url}/{kind}/main/{path}{anchor}"
        else:
            return match.group(0)  # mkdocs names the broken link
        return posixpath.relpath(wanted, posixpath.dirname(here) or ".") + anchor

    return LINK.sub(resolved, markdown)
