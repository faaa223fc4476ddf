from __future__ import annotations

import re

import pytest

pytest.importorskip("tests.reliability", reason="needs the repository's root: python -m pytest")

from tests.reliability.document import DOCUMENT, write_section

SECTIONS = ["installs", "kills", "sanitizers", "fuzz", "processors", "reports"]


@pytest.fixture
def document(tmp_path):
    copy = tmp_path / "reliability.md"
    copy.write_text(DOCUMENT.read_text(encoding="utf-8"), encoding="utf-8")
    return copy


def sections(text: str) -> dict[str, str]:
    """What stands between the markers, by name."""
    return dict(re.findall(r"<!-- begin (\w+) -->\n(.*?)<!-- end \1 -->", text, re.DOTALL))


def test_every_section_can_be_written_again_and_the_others_stay(document):
    before = sections(document.read_text())
    assert list(before) == SECTIONS
    for name in SECTIONS:
        write_section(name, f"Measured: {name} \\1 \\g<0>", document=document)
        write_section(name, f"Measured again: {name} \\1 \\g<0>", document=document)
        after = sections(document.read_text())
        assert after[name].startswith(f"Measured again: {name} \\1 \\g<0>\n\nCommit ")
        assert {n: t for n, t in after.items() if n != name} == {
            n: t for n, t in before.items() if n != name
        }
        before = after


def test_a_section_that_is_missing_or_doubled_is_refused(document):
    with pytest.raises(ValueError, match=r"reliability\.md must hold the section 'speed' once"):
        write_section("speed", "fast", document=document)
    document.write_text(document.read_text() + "<!-- begin fuzz -->\n<!-- end fuzz -->\n")
    with pytest.raises(ValueError, match="the section 'fuzz' once"):
        write_section("fuzz", "none", document=document)


def test_a_release_has_figures_in_every_section():
    """Until a release the sections may be empty: the version says whether this is one."""
    import gift_fast

    text = DOCUMENT.read_text(encoding="utf-8")
    changelog = (DOCUMENT.parents[1] / "CHANGELOG.md").read_text(encoding="utf-8")
    if f"{gift_fast.__version__} (unreleased)" in changelog:
        pytest.skip("this version is not released")
    assert [name for name, content in sections(text).items() if not content.strip()] == []
