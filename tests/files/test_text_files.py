from __future__ import annotations

import pytest

from gift_fast.evaluation.protocols import load_preset
from gift_fast.files.text_files import parse_yaml, read_json, read_text
from gift_fast.studies.study_files import load_study


def test_a_text_that_is_not_in_utf8_is_refused_by_name(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_bytes("Bär".encode("latin-1"))
    with pytest.raises(ValueError, match=r"classes\.txt must be a text file in UTF-8"):
        read_text(file)
    file.write_bytes("Bär".encode())
    assert read_text(file) == "Bär"


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "1" * 5000])
def test_json_that_is_damaged_or_nested_too_deeply_is_refused_by_name(tmp_path, text):
    file = tmp_path / "order.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"order\.json must be a JSON file"):
        read_json(file)


def laughs(levels: int) -> str:
    """A list of ten to the power of ``levels`` words, by aliases."""
    lines = ["a0: &a0 [" + ", ".join(["lol"] * 10) + "]"]
    for i in range(1, levels):
        lines.append(f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 10) + "]")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (laughs(9), "at most 1,000,000 values and characters, got .* aliases"),
        ("a: &a [*a]", "alias must not refer to a node that contains it"),
        ("[" * 5000, "must be valid YAML"),
        ('!!python/object/apply:os.system ["true"]', "must be valid YAML"),
        ("a: *unknown", "must be valid YAML"),
    ],
    ids=["laughs", "loop", "deep", "program", "unknown"],
)
def test_yaml_that_is_no_plain_data_of_a_bounded_size_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_yaml(text)


@pytest.mark.parametrize("load", [load_preset, load_study])
def test_presets_and_studies_are_read_with_these_bounds(tmp_path, load):
    file = tmp_path / "mine.yaml"
    file.write_text(laughs(12) + "settings: *a11\n")
    with pytest.raises(ValueError, match=r"mine\.yaml.*values and characters"):
        load(str(file))


def test_aliases_within_the_bound_are_read():
    assert parse_yaml("a: &a [1, 2]\nb: [*a, *a]") == {"a": [1, 2], "b": [[1, 2], [1, 2]]}
    assert len(parse_yaml(laughs(3))["a2"]) == 10
