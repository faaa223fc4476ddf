from __future__ import annotations

import json

from tests.reliability import reports


def test_every_program_has_an_outcome_from_before():
    before = json.loads(reports.BEFORE.read_text(encoding="utf-8"))
    assert list(before) == [entry.program.__name__ for entry in reports.REPORTS]


def test_the_table_has_a_row_for_every_program_and_says_what_changed():
    names = [entry.program.__name__ for entry in reports.REPORTS]
    before = dict.fromkeys(names, "lost")
    text = reports.table(before, {**before, names[0]: "kept | *all*"})
    assert len(text.splitlines()) == 4 + len(names)
    assert text.count("| the same |") == len(names) - 1
    assert r"| lost | kept \| \*all\* |" in text


def test_a_refusal_in_other_words_is_no_other_outcome():
    assert not reports.is_other("refused: a must hold b", "refused: a must contain b")
    assert reports.is_other("3 images", "refused: a must contain b")
    assert reports.is_other("3 images", "4 images")
    assert not reports.is_other("3 images", "3 images")


def test_an_outcome_is_what_is_returned_or_refused_and_names_no_folder():
    def refuses(root):
        raise ValueError(f"{root}/a.png and {root}")

    assert reports.outcome(lambda root: "three  images") == "three images"
    assert reports.outcome(refuses) == "refused: a.png and FOLDER"
