from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from layouts import write_image
from PIL import Image

from gift_fast.data.distilled.decode import decode_images
from gift_fast.data.images.file_split import decode

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n"

_run: list[str] = []


def note(event: str, arguments: tuple) -> None:
    if event == "subprocess.Popen":
        _run.append(str(arguments[0]))


@pytest.mark.parametrize(
    "reader", [lambda f: decode(f, 8, None), lambda f: decode_images([f], 3, 8)]
)
def test_a_program_in_the_place_of_an_image_is_refused_and_not_run(tmp_path, reader):
    file = tmp_path / "0.png"
    file.write_bytes(POSTSCRIPT)
    sys.addaudithook(note)
    with pytest.raises(ValueError, match=r"0\.png must be an image"):
        reader(file)
    assert _run == []  # Pillow would have called Ghostscript


@pytest.mark.parametrize("suffix", ["jpg", "png", "ppm", "bmp", "tif", "webp", "gif"])
def test_every_format_that_the_suffixes_of_images_stand_for_is_read(tmp_path, suffix):
    file = write_image(tmp_path / f"0.{suffix}", 8, 8)
    with Image.open(file) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB")))
    torch.testing.assert_close(decode(file, 8, None), pixels.permute(2, 0, 1))
