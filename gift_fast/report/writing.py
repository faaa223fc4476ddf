"""``gift-fast report``: the studies of a folder as one HTML page, Markdown, LaTeX and CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from gift_fast.files.atomic import replacing
from gift_fast.report.contents import Contents, StudySection, contents_of
from gift_fast.report.page import as_page
from gift_fast.report.reading import Folder, read_folder, record_of
from gift_fast.report.study_csv import as_csv
from gift_fast.report.table import Table, as_latex, as_markdown, escaped_markdown
from gift_fast.studies.manifest import Finished, manifest_path
from gift_fast.studies.study import Study


def write_report(folder: Path, page: Path | None = None) -> tuple[Path, tuple[str, ...]]:
    """Write the report of a folder: the page, and beside it ``.md``, ``.tex`` and ``.csv``.

    Args:
        folder: that ``gift-fast study --out`` has written to.
        page: of the HTML file; None is ``report.html`` in the folder.

    Returns:
        The page, and what could not be read, a message a file.

    Raises:
        OSError: a file cannot be written.
        ValueError: there is no study in the folder, or ``page`` is no name of an HTML file.
    """
    page = folder / "report.html" if page is None else page
    if page.suffix not in (".html", ".htm"):
        raise ValueError(f"out must be the name of an HTML file, got {page}")
    if page.stem.startswith("study-"):
        raise ValueError(f"out must not be named as a study's own tables are, study-, got {page}")
    contents = contents_of(read_folder(folder))
    rows = [
        row for section in contents.sections for part in section.conditions for row in part.rows
    ]
    texts = {
        page: as_page(contents),
        page.with_suffix(".md"): markdown_of(contents),
        page.with_suffix(".tex"): latex_of(contents),
        page.with_suffix(".csv"): as_csv(rows),
    }
    write_texts(texts)
    return page, contents.damaged


def write_tables(folder: Path, study: Study, finished: Sequence[Finished]) -> tuple[Path, Path]:
    """Write what a study has found as ``study-NAME.md`` and ``.csv`` into its folder.

    Raises:
        OSError: a file cannot be written.
    """
    record = record_of(study, finished, folder)
    (section,) = contents_of(Folder(folder, (record,), ())).sections
    path = manifest_path(folder, study.name)
    texts = {
        path.with_suffix(".md"): "\n".join(section_in_markdown(section)).rstrip() + "\n",
        path.with_suffix(".csv"): as_csv(row for part in section.conditions for row in part.rows),
    }
    write_texts(texts)
    markdown, table = texts
    return markdown, table


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write every file whole or not at all."""
    for path, text in texts.items():
        with replacing(path) as temporary:
            # JSON may hold surrogates, which UTF-8 has not.
            temporary.write_text(text, encoding="utf-8", errors="replace")


def markdown_of(contents: Contents) -> str:
    """Sentences and tables in Markdown."""
    lines = [f"# {escaped_markdown(contents.title)}", "", contents.summary, ""]
    lines += [f"- could not be read: {each}" for each in contents.damaged]
    for section in contents.sections:
        lines += section_in_markdown(section)
    lines += ["## Published against measured", "", contents.published.summary, ""]
    for table in (contents.published.table, contents.published.signs):
        if table is not None:
            lines += [as_markdown(table), *table.notes]
    return "\n".join(lines).rstrip() + "\n"


def section_in_markdown(section: StudySection) -> list[str]:
    """The lines of a study."""
    lines = [f"## {escaped_markdown(section.title)}", "", section.settings, ""]
    lines += [text + "\n" for text in (section.unfinished, section.notes) if text]
    if section.overview is not None:
        lines += [*(f"- {sentence}" for sentence in section.sentences), ""]
        lines += [as_markdown(section.overview), *section.overview.notes, ""]
    if section.baselines is not None:
        baselines = section.baselines
        lines += [f"{baselines.caption}:", "", as_markdown(baselines), *baselines.notes, ""]
    for part in section.conditions:
        if len(section.conditions) > 1:
            lines += [f"### {escaped_markdown(part.heading)}", ""]
        lines += [f"- {sentence}" for sentence in part.sentences]
        if part.shares is not None:
            shares = part.shares
            lines += ["", f"{shares.caption}:", "", as_markdown(shares), *shares.notes]
        lines += ["", as_markdown(part.table), *part.table.notes, ""]
        if part.trials is not None:
            trials = part.trials
            lines += [f"{trials.caption}:", "", as_markdown(trials), *trials.notes, ""]
    return lines


def latex_of(contents: Contents) -> str:
    """The tables in LaTeX, a study's title before their captions."""
    tables: list[tuple[str, Table | None]] = []
    for section in contents.sections:
        tables += [(section.title, section.overview), (section.title, section.baselines)]
        for part in section.conditions:
            tables += [(section.title, table) for table in (part.shares, part.table, part.trials)]
    published = contents.published
    tables += [("The GIFT paper", table) for table in (published.table, published.signs)]
    texts = [
        as_latex(replace(table, caption=f"{title}. {table.caption}"))
        for title, table in tables
        if table is not None
    ]
    return "\n".join(["% \\usepackage{booktabs}", *texts])
