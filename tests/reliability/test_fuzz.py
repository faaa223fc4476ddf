"""A short run of the fuzzing, and that it sees each kind of failure that it looks for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("accelerate", reason="needs the extra [student]")
pytest.importorskip("tests.reliability", reason="needs the repository's root: python -m pytest")
if sys.platform != "linux":
    pytest.skip("measures memory as Linux does", allow_module_level=True)

from tests.reliability import fuzz, fuzz_readers

HERE = Path(__file__).parent
CASES = 500


@pytest.mark.parametrize("name", fuzz_readers.READERS)
def test_every_reader_accepts_whole_files(name, tmp_path):
    reader = fuzz_readers.READERS[name]
    reader.write(tmp_path)
    reader.read(tmp_path)


def test_no_damaged_file_does_more_than_raise_an_error_that_names_it(tmp_path):
    tally = fuzz.campaign(CASES, fuzz.Tally(seed=0), state=tmp_path / "fuzz.json")
    assert tally.failures == []
    assert tally.done == CASES
    refused = {name for name, counts in tally.counts.items() if fuzz.REFUSED in counts}
    assert len(refused) > 0.8 * len(fuzz_readers.READERS)


FAULTS = {
    "wrong_kind": "unclear error",
    "no_name": "unclear error",
    "program": "code run",
    "canary": "code run",
    "outside": "outside",
    "large": "memory",
    "too_large": "memory",
    "abort": "crash",
}


def planted(monkeypatch, faults, cases, *, seconds=fuzz.SECONDS, state=None) -> fuzz.Tally:
    """A campaign with readers that have these faults."""
    monkeypatch.setenv("GIFT_FAST_PLANTED_FAULTS", " ".join(faults))
    module = "tests.reliability.planted_faults"
    monkeypatch.delitem(sys.modules, module, raising=False)
    tally = fuzz.Tally(0) if state is None else fuzz.resumed(state, 0)
    return fuzz.campaign(cases, tally, readers=module, seconds=seconds, state=state)


def test_every_kind_of_fault_is_found_in_every_case_and_the_next_case_runs(monkeypatch):
    tally = planted(monkeypatch, FAULTS, cases=30)
    assert set(tally.counts) == set(FAULTS)  # 30 cases reach all
    for name, counts in tally.counts.items():
        assert set(counts) == {FAULTS[name]}
    assert [failure["case"] for failure in tally.failures] == list(range(30))


def test_a_reader_that_does_not_end_is_ended(monkeypatch):
    tally = planted(monkeypatch, ["endless"], cases=1, seconds=1.0)
    assert [failure["outcome"] for failure in tally.failures] == ["hang"]


def test_a_stopped_campaign_resumes_to_the_counts_of_an_unbroken_one(tmp_path, monkeypatch):
    state, faults = tmp_path / "fuzz.json", ["wrong_kind", "no_name"]
    whole = planted(monkeypatch, faults, cases=20)
    planted(monkeypatch, faults, cases=12, state=state)
    parts = planted(monkeypatch, faults, cases=20, state=state)
    assert parts.counts == whole.counts
    assert [f["case"] for f in parts.failures] == [f["case"] for f in whole.failures]
    with pytest.raises(SystemExit, match="seed 4, got 0"):
        fuzz.resumed(state, 4)


def test_the_section_has_a_row_for_every_reader_and_one_for_all():
    tally = fuzz.Tally(seed=0, seconds=90.0)
    for outcome in ("accepted", "refused", "refused", "hang"):
        tally.add("weights", outcome)
    tally.add("preset", "refused")
    lines = fuzz.section(tally).splitlines()
    assert lines[-3:] == [
        "| preset | 1 | 0 | 1 | 0 |",
        "| weights | 4 | 1 | 2 | 1 |",
        "| all | 5 | 1 | 3 | 1 |",
    ]
    assert lines[0].startswith("5 cases with seed 0")
