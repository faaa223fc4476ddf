from __future__ import annotations

import pytest
import torch

from gift_fast.student.distilled import read_distilled

SOFT = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3], [0.0, 0.1, 0.9], [0.2, 0.6, 0.2]])
HARD = torch.tensor([1, 0, 2, 1])


def write_gift(folder, **contents):
    """As the GIFT authors' loader expects it."""
    images = torch.rand(4, 3, 8, 8)
    whole = {"dataset": "animals", "data": images, "label": HARD, **contents}
    torch.save(
        {key: value for key, value in whole.items() if value is not None}, folder / "data.pt"
    )
    return images


@pytest.mark.parametrize("label", [HARD, HARD[:, None], HARD.int(), HARD[:, None].float()])
def test_hard_labels_are_taken_as_rows_or_as_a_column(tmp_path, animals, label):
    images = write_gift(tmp_path, label=label)
    distilled = read_distilled("gift", tmp_path, animals)
    assert torch.equal(distilled.images, images)
    assert torch.equal(distilled.labels, HARD)
    assert distilled.soft_labels is None
    assert not distilled.whitened


def test_soft_labels_give_the_hard_ones_and_it_is_said(tmp_path, animals):
    write_gift(tmp_path, label=SOFT)
    distilled = read_distilled("gift", tmp_path, animals)
    assert torch.equal(distilled.soft_labels, SOFT)
    assert torch.equal(distilled.labels, HARD)
    assert "hard labels from the largest soft label" in distilled.source


@pytest.mark.parametrize("name", ["gift", "auto"])
def test_the_file_may_have_any_name_when_it_is_given_itself(tmp_path, animals, name):
    write_gift(tmp_path)
    file = (tmp_path / "data.pt").rename(tmp_path / "ipc10.pt")
    distilled = read_distilled(name, file, animals)
    assert len(distilled) == 4
    assert "made for animals" in distilled.source


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (
            {"label": None},
            r"data\.pt must hold .* keys \['data', 'dataset', 'label'\], got \['data', ",
        ),
        ({"extra": 1}, r"data\.pt must hold a dictionary with the keys .*, got .*'extra'"),
        ({"data": torch.rand(4, 8, 8)}, r"data must be float images .*, got \(4, 8, 8\)"),
        ({"data": torch.zeros(4, 3, 8, 8).byte()}, r"data must be float images"),
        ({"data": 2 * torch.rand(4, 3, 8, 8) - 1}, r"images must lie in \[0, 1\], got -"),
        ({"data": torch.rand(4, 3, 8, 6)}, r"images must be \(N, C, S, S\), .*got \(4, 3, 8, 6\)"),
        (
            {"label": torch.rand(4, 5)},
            r"label must be \(4,\), \(4, 1\) or \(4, 3\), .*got \(4, 5\)",
        ),
        ({"label": HARD[:3]}, r"label must be \(4,\), \(4, 1\) or \(4, 3\), .*got \(3,\)"),
        ({"label": HARD + 1}, r"labels must be int64 from 0 to 2, the classes of animals, .* to 3"),
        ({"label": HARD + 0.5}, r"label must hold whole numbers"),
        ({"label": SOFT.double() / 0}, r"soft_labels must be finite"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, animals, contents, message):
    write_gift(tmp_path, **contents)
    with pytest.raises(ValueError, match=message) as raised:
        read_distilled("gift", tmp_path, animals)
    assert str(raised.value).startswith(f"{tmp_path} must be readable as gift: ")
