from __future__ import annotations

import logging
import os

import numpy as np
import pytest
from layouts import random_image
from PIL import Image

from gift_fast.data.images import image_file
from gift_fast.data.images.image_file import read_image

RAMP = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_images_keep_their_contrast(tmp_path, suffix, channels):
    path = tmp_path / f"ramp.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 8 8 65535\n" + RAMP.astype(">u2").tobytes())
    else:
        Image.fromarray(RAMP).save(path)
    image = read_image(path, channels)
    assert image.mode == ("L" if channels == 1 else "RGB")
    got = np.asarray(image).reshape(8, 8, channels)
    expected = np.round(RAMP / 257.0)
    assert (got == expected[..., None]).all()


def test_16_bit_images_in_big_endian_files_keep_their_contrast(tmp_path):
    image = Image.frombytes("I;16B", (8, 8), RAMP.astype(">u2").tobytes())
    image.save(tmp_path / "ramp.tiff")
    got = np.asarray(read_image(tmp_path / "ramp.tiff", 1))
    assert (got == np.round(RAMP / 257.0)).all()


@pytest.mark.parametrize(
    ("array", "name", "message"),
    [
        ((RAMP // 16).astype(np.uint16), "12bits.png", "at most 4095"),
        (RAMP.astype(np.int32), "int.tiff", "32-bit integers from 0 to 65535"),
        (RAMP.astype(np.float32) / 65535, "float.tiff", "floats from 0 to 1 "),
    ],
)
def test_values_of_unknown_range_are_refused_by_name(tmp_path, array, name, message):
    Image.fromarray(array).save(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name} .*{message}"):
        read_image(tmp_path / name)


def test_a_black_16_bit_image_is_black(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "black.png")
    assert np.asarray(read_image(tmp_path / "black.png")).max() == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_the_camera_was_held(tmp_path, orientation):
    upright = random_image(12, 8)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "phone.png", exif=exif)
    assert (np.asarray(read_image(tmp_path / "phone.png")) == np.asarray(upright)).all()


@pytest.mark.parametrize("suffix", ["jpg", "tiff", "webp"])
def test_images_of_every_kind_are_turned_once(tmp_path, suffix):
    upright = Image.fromarray(np.kron([[255, 0], [0, 0]], np.ones((8, 16))).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = upright.transpose(Image.Transpose.ROTATE_90).convert("RGB")
    stored.save(tmp_path / f"phone.{suffix}", exif=exif)
    read = read_image(tmp_path / f"phone.{suffix}", 1)
    assert read.size == (32, 16)
    assert abs(np.asarray(read).astype(int) - np.asarray(upright)).max() < 30


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_data_does_not_stop_an_image(tmp_path):
    random_image(8, 8).save(tmp_path / "damaged.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_image(tmp_path / "damaged.jpg").size == (8, 8)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_refused_by_name(tmp_path, kind):
    path = tmp_path / f"frames.{kind.lower()}"
    others = [random_image(8, 8, seed) for seed in (1, 2)]
    random_image(8, 8).save(path, format=kind, save_all=True, append_images=others)
    with pytest.raises(ValueError, match=rf"frames\.{kind.lower()} .* 3 frames"):
        read_image(path)


def test_the_first_picture_of_a_cameras_mpo_file_is_the_image(tmp_path):
    first = random_image(16, 16)
    path = tmp_path / "camera.jpg"
    first.save(path, format="MPO", save_all=True, append_images=[random_image(8, 8, 1)])
    assert read_image(path).size == (16, 16)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_dropped_as_image_folder_does_and_told_once(
    tmp_path, mode, caplog, monkeypatch
):
    monkeypatch.setattr(image_file, "_transparency_told", type(image_file._transparency_told)())
    image = random_image(8, 8)
    image.putalpha(Image.fromarray(np.tile(np.arange(8, dtype=np.uint8) * 36, (8, 1))))
    image.convert(mode).save(tmp_path / "alpha.png")
    expected = Image.open(tmp_path / "alpha.png").convert("RGBA").convert("RGB")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert (np.asarray(read_image(tmp_path / "alpha.png")) == np.asarray(expected)).all()
    assert caplog.text.count("alpha.png has transparent pixels") == 1


def test_an_opaque_alpha_channel_is_nothing_to_tell(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(image_file, "_transparency_told", type(image_file._transparency_told)())
    random_image(8, 8).convert("RGBA").save(tmp_path / "opaque.png")
    read_image(tmp_path / "opaque.png")
    assert caplog.text == ""


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "RGB"])
def test_other_modes_become_grey_as_well_as_color(tmp_path, mode):
    path = tmp_path / ("image.tiff" if mode == "CMYK" else "image.png")
    random_image(8, 8).convert(mode).save(path)
    stored = Image.open(path)
    for channels, target in ((1, "L"), (3, "RGB")):
        through = stored if mode in ("L", "RGB") else stored.convert("RGB")
        expected = np.asarray(through.convert(target))
        assert (np.asarray(read_image(path, channels)) == expected).all()


def test_a_draft_is_small_and_still_finds_that_a_file_was_cut(tmp_path):
    path = tmp_path / "large.jpg"
    random_image(640, 480).save(path)
    assert read_image(path, draft=True).size == (80, 60)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"large\.jpg must be an image, but it cannot be decoded"):
        read_image(path, draft=True)


@pytest.mark.parametrize("contents", [b"", b"<html>404</html>", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_refused_by_name(tmp_path, contents):
    (tmp_path / "image.png").write_bytes(contents)
    with pytest.raises(ValueError, match=r"image\.png must be an image"):
        read_image(tmp_path / "image.png")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match=r"pipe\.png must be a regular file"):
        read_image(tmp_path / "pipe.png")
