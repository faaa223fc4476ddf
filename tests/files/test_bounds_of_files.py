from __future__ import annotations

import zipfile

import pytest
import torch

from gift_fast.files.bounds import MARGIN, MAX_DEPTH
from gift_fast.files.pickles import load_tensors


def repacked(path, method, contents=None) -> None:
    """The archive with other contents of its entries, by the ends of their names."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    for end, content in (contents or {}).items():
        entries[next(name for name in entries if name.endswith(end))] = content
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "data.pt"
    torch.save({"data": torch.arange(6.0)}, path)
    return path


def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused(file):
    repacked(file, zipfile.ZIP_DEFLATED, {"data/0": bytes(2 * MARGIN)})
    assert file.stat().st_size < MARGIN / 100
    with pytest.raises(ValueError, match=r"data\.pt must not be compressed"):
        load_tensors(file)


def test_an_archive_that_was_compressed_within_reason_is_read(file):
    repacked(file, zipfile.ZIP_DEFLATED)
    assert load_tensors(file)["data"].tolist() == list(range(6))


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"a": [(x,)]}], ids=["bare", "within"])
def test_a_tensor_that_claims_more_numbers_than_are_stored_is_refused(file, wrap):
    torch.save(wrap(torch.zeros(1).expand(2**20, 3, 32, 32)), file)
    with pytest.raises(ValueError, match=r"data\.pt .* shape \(1048576, 3, 32, 32\) with 4 bytes"):
        load_tensors(file)


def test_a_tensor_without_numbers_is_refused(file):
    torch.save(torch.zeros(3, device="meta"), file)
    with pytest.raises(ValueError, match=r"data\.pt .* shape \(3,\) with 0 bytes"):
        load_tensors(file)


@pytest.mark.parametrize("zipped", [True, False])
def test_views_and_small_repetitions_are_read(file, zipped):
    one = torch.arange(8.0)
    value = [one[2:4], one[::2], one.view(2, 4).T, torch.tensor(1.0).expand(1000)]
    torch.save(value, file, _use_new_zipfile_serialization=zipped)
    for got, want in zip(load_tensors(file), value, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_asks_for_zeros_by_number_is_refused(file, zipped):
    program = b"\x80\x02c__builtin__\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x10\x85R."
    if zipped:
        repacked(file, zipfile.ZIP_STORED, {"data.pkl": program})
    else:
        file.write_bytes(program)
    with pytest.raises(
        ValueError, match=r"data\.pt .*references builtins\.bytearray.* not executed"
    ):
        load_tensors(file)


def test_lists_that_hold_themselves_or_are_nested_too_deeply_are_refused(file):
    loop: list = []
    loop.append(loop)
    deep: list = []
    for _ in range(MAX_DEPTH + 1):
        deep = [deep]
    for value in (loop, deep):
        torch.save(value, file)
        with pytest.raises(ValueError, match=r"data\.pt must nest lists .* at most 100 levels"):
            load_tensors(file)


def test_lists_that_repeat_each_other_beyond_all_memory_are_refused(file):
    value: list = []
    for _ in range(20):
        value = [value] * 10
    torch.save(value, file)
    with pytest.raises(ValueError, match=r"data\.pt .* at most 100,000,000 values"):
        load_tensors(file)


def test_a_text_that_claims_to_be_longer_than_the_file_is_refused_before_it_is_read(file):
    torch.save({"data": torch.arange(6.0)}, file, _use_new_zipfile_serialization=False)
    whole = file.read_bytes()
    length = (4).to_bytes(4, "little")
    assert load_tensors(file)["data"].tolist() == list(range(6))
    assert whole.count(length + b"data") == 1
    file.write_bytes(whole.replace(length + b"data", (2**31).to_bytes(4, "little") + b"data"))
    with pytest.raises(ValueError, match=r"data\.pt must be a complete torch\.save file"):
        load_tensors(file)


def test_an_archive_that_claims_to_be_one_of_several_disks_is_refused(file):
    content = bytearray(file.read_bytes())
    locator = content.rindex(b"PK\x06\x07")  # zip64's, which ends with the number of disks
    content[locator + 16] = 9
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"data\.pt must be a complete torch\.save file"):
        load_tensors(file)
