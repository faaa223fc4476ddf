"""Writing of reports and tables to files."""

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
    """Write the report of a folder: an HTML page, and ``.md``, ``.tex`` and ``.csv`` files.

    Args:
        folder: output folder of ``gift-fast study``.
        page: path of the HTML file; None is ``report.html`` in the folder.

    Returns:
        The path of the page, and one message per file that could not be read.

    Raises:
        OSError: a file cannot be written.
        ValueError: the folder has no studies, or ``page`` is not the name of an HTML file.
    """
    page = folder / "report.html" if page is None else page
    if page.suffix not in (".html", ".htm"):
        raise ValueError(f"out must be the name of an HTML file, got {page}")
    if page.stem.startswith("study-"):
        raise ValueError(f"out must not start with study-, like the tables of studies, got {page}")
    contents = contents_of(read_folder(folder))
    rows = [
        row for section in contents.sections for part in section.conditions for row in part.rows
    ]
    files = {
        page: as_page(contents),
        page.with_suffix(".md"): markdown_of(contents),
        page.with_suffix(".tex"): latex_of(contents),
        page.with_suffix(".csv"): as_csv(rows),
    }
    write_files(files)
    return page, contents.damaged


def write_tables(folder: Path, study: Study, finished: Sequence[Finished]) -> tuple[Path, Path]:
    """Write the results of a study to ``study-NAME.md`` and ``.csv`` in its folder.

    Raises:
        OSError: a file cannot be written.
    """
    record = record_of(study, finished, folder)
    (section,) = contents_of(Folder(folder, (record,), ())).sections
    path = manifest_path(folder, study.name)
    files = {
        path.with_suffix(".md"): "\n".join(section_in_markdown(section)).rstrip() + "\n",
        path.with_suffix(".csv"): as_csv(row for part in section.conditions for row in part.rows),
    }
    write_files(files)
    markdown, table = files
    return markdown, table


def write_files(files: Mapping[Path, str]) -> None:
    """Write text files atomically."""
    for path, text in files.items():
        with replacing(path) as temporary:
            # JSON may contain surrogates, which UTF-8 cannot encode.
            temporary.write_text(text, encoding="utf-8", errors="replace")


def markdown_of(contents: Contents) -> str:
    """The report in Markdown: sentences and tables."""
    lines = [f"# {escaped_markdown(contents.title)}", "", contents.summary, ""]
    lines += [f"- could not be read: {message}" for message in contents.damaged]
    for section in contents.sections:
        lines += section_in_markdown(section)
    lines += ["## Published and measured accuracies", "", contents.published.summary, ""]
    for table in (contents.published.table, contents.published.signs):
        if table is not None:
            lines += [as_markdown(table), *table.notes]
    return "\n".join(lines).rstrip() + "\n"


def section_in_markdown(section: StudySection) -> list[str]:
    """The Markdown lines of a study."""
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
    """All tables in LaTeX, with the title of the study in their captions."""
    tables: list[tuple[str, Table | None]] = []
    for section in contents.sections:
        tables += [(section.title, section.overview), (section.title, section.baselines)]
        for part in section.conditions:
            tables += [(section.title, table) for table in (part.shares, part.table, part.trials)]
    published = contents.published
    tables += [("The GIFT paper", table) for table in (published.table, published.signs)]
    sources = [
        as_latex(replace(table, caption=f"{title}. {table.caption}"))
        for title, table in tables
        if table is not None
    ]
    return "\n".join(["% \\usepackage{booktabs}", *sources])
