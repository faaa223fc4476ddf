from __future__ import annotations

import json

import pytest
from recorded import RecordedStudy

from gift_fast.studies.manifest import read_manifest


@pytest.mark.parametrize("file", ["../secret.json", "/secret.json", "", "a/b.json", ".."])
def test_a_record_names_files_of_its_own_folder_alone(tmp_path, file):
    study = RecordedStudy(tmp_path)
    study.add("gift", 50.0)
    path = study.write() / "study-mine.json"
    contents = json.loads(path.read_text())
    contents["runs"][0]["file"] = file
    path.write_text(json.dumps(contents))
    with pytest.raises(ValueError, match=r"study-mine\.json .*file must be in the same folder"):
        read_manifest(path)


@pytest.mark.parametrize("text", ["[]", "[" * 100_000, "null", '{"format": 2, "runs": 1}'])
def test_a_file_that_is_no_record_is_refused_by_name(tmp_path, text):
    path = tmp_path / "study-mine.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"study-mine\.json must"):
        read_manifest(path)
