from __future__ import annotations

import pytest

pytest.importorskip("tests.reliability", reason="needs the repository's root: python -m pytest")

from tests.reliability import processors

RESULTS = """<testsuites><testsuite tests="10" failures="1" errors="2" skipped="3" time="150.0">
<testcase classname="tests.test_loss" name="test_a[float16]"><failure message="no"/></testcase>
<testcase classname="tests.test_loss" name="test_b"/>
</testsuite></testsuites>"""


def test_the_section_has_a_row_for_every_result_and_names_what_did_not_pass(tmp_path):
    (tmp_path / "processors-avx2.xml").write_text(RESULTS)
    lines = processors.section(tmp_path).splitlines()
    assert lines[2].endswith("GIFT_FAST_CPU_CAPABILITY=avx2` | 4 | 3 | 1 | 2 | 2 |")
    assert lines[-1] == "- avx2: tests.test_loss::test_a[float16]"
    assert len([line for line in lines if line.startswith("|")]) == 3
    assert "Not passed" not in processors.section(tmp_path / "none")
