"""The published crop against its golden pixels, the square's arithmetic, and the detectors."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import types
from pathlib import Path

import cv2
import numpy as np
import pytest

from float_core import face
from float_core.face import CropSquare, FaceBox

ROOT = Path(__file__).parents[2]
PARITY = ROOT / "tests" / "parity"
GOLDEN = np.load(PARITY / "golden" / "crops.npz")
CASES = json.loads(GOLDEN["meta"].tobytes())["cases"]
PORTRAIT = ROOT / "assets" / "portrait.png"
# On the shipped portrait: cheeks, top of the brows and chin.
PORTRAIT_FACE = FaceBox(100, 96, 416, 420)


def synthetic_picture(name: str, height: int, width: int) -> np.ndarray:
    spec = importlib.util.spec_from_file_location("synthetic", PARITY / "synthetic.py")
    synthetic = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(synthetic)
    image = synthetic.image(f"crop/{name}", max(height, width))[:, :height, :width]
    return np.round((np.clip(image, -1, 1) + 1) * 127.5).astype(np.uint8).transpose(1, 2, 0)


def flat(height: int, width: int, colour=(200, 100, 50)) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


@pytest.fixture
def yunet_model():
    folders = [ROOT.parent / "shared" / "models"]
    named = os.environ.get("YUNET_MODEL")
    model = Path(named) if named else face.find_yunet_model(folders)
    if model is None:
        pytest.skip("YuNet's file is absent: name it in YUNET_MODEL")
    return model


@pytest.fixture
def portrait():
    return np.ascontiguousarray(cv2.imread(str(PORTRAIT))[:, :, ::-1])


@pytest.mark.parametrize("name", CASES)
def test_published_crop_is_exact(name):
    case = CASES[name]
    picture = synthetic_picture(name, case["height"], case["width"])
    box = face.first_face(FaceBox(*row) for row in case["boxes_xyxy_score"])
    cut = CropSquare.around(box).cut(picture, case["size"])
    assert cut.dtype == np.uint8
    np.testing.assert_array_equal(cut[:: case["step"], :: case["step"]], GOLDEN[name])


def test_first_face_is_the_first_above_the_score_and_may_be_none():
    weak, good, best = (FaceBox(0, 0, 9, 9, score) for score in (0.95, 0.96, 0.99))
    assert face.first_face([weak, good, best]) is good
    assert face.first_face([weak]) is None
    assert face.first_face([weak], minimum_score=0.9) is weak


def test_roundings_are_towards_zero():
    assert CropSquare.around(FaceBox(-3.9, -3.9, 20.9, 31.9)) == CropSquare(8, 14, 27, "box")
    assert CropSquare.around(FaceBox(0, 0, 9, 5)).half == 6  # int(9 / 2) * 1.6 = 6.4


def test_margin_scales_the_square():
    box = FaceBox(40, 40, 60, 60)
    assert [CropSquare.around(box, m).half for m in (1.0, 1.6, 2.0)] == [10, 16, 20]


def test_box_from_its_size():
    assert FaceBox.from_size(10, 20, 30, 40) == FaceBox(10, 20, 40, 60)


def test_background_fills_what_lies_beyond():
    cut = CropSquare(0, 0, 8).cut(flat(40, 40), 16, background=(1, 2, 3))
    assert (cut[:8] == (1, 2, 3)).all()
    assert (cut[:, :8] == (1, 2, 3)).all()
    assert (cut[8:, 8:] == (200, 100, 50)).all()


def test_whole_keeps_all_of_the_picture_and_is_the_identity_at_the_right_size():
    picture = synthetic_picture("whole", 64, 64)
    np.testing.assert_array_equal(CropSquare.whole(64, 64).cut(picture, 64), picture)
    wide = CropSquare.whole(101, 40).cut(flat(40, 101), 102, background=(0, 0, 0))
    assert (wide != 0).any(axis=2).sum() == 40 * 101


def test_centred_is_the_largest_square_inside():
    square = CropSquare.centred(100, 60)
    assert square == CropSquare(50, 30, 30, "centre")
    assert (square.cut(flat(60, 100), 32) == (200, 100, 50)).all()


def test_a_huge_square_is_filled_at_a_smaller_scale(monkeypatch):
    picture, square = synthetic_picture("huge", 400, 400), CropSquare(100, 150, 320)
    exact = square.cut(picture, 32).astype(int)
    monkeypatch.setattr(face, "_CANVAS_SIDE", 256)
    close = square.cut(picture, 32).astype(int)
    assert close.shape == (32, 32, 3)
    assert np.abs(close - exact).mean() < 2


@pytest.mark.parametrize("corners", [(10, 10, 10, 20), (10, 20, 20, 10), (0, 0, float("nan"), 5)])
def test_an_impossible_box_is_refused(corners):
    with pytest.raises(ValueError, match="face box"):
        FaceBox(*corners)


@pytest.mark.parametrize("margin", [0, -1, float("nan"), 11])
def test_an_impossible_margin_is_refused(margin):
    with pytest.raises(ValueError, match="margin"):
        CropSquare.around(FaceBox(0, 0, 50, 50), margin)


def test_a_box_of_no_pixels_is_refused():
    with pytest.raises(ValueError, match="at least 2 pixels"):
        CropSquare.around(FaceBox(5.1, 5.1, 5.9, 5.9))


def test_a_box_beside_the_picture_is_refused():
    with pytest.raises(ValueError, match="on the picture of 40 x 30"):
        CropSquare.around(FaceBox(400, 400, 450, 450)).cut(flat(30, 40), 32)


@pytest.mark.parametrize(
    "picture", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3))]
)
def test_other_than_rgb_bytes_is_refused(picture):
    with pytest.raises(ValueError, match="uint8 RGB"):
        CropSquare(4, 4, 2).cut(picture, 16)
    with pytest.raises(ValueError, match="uint8 RGB"):
        face.frame_portrait(picture)


def assert_close_to_the_portraits_face(box: FaceBox, scale: float = 1.0, tolerance: float = 16):
    for name in ("left", "top", "right", "bottom"):
        expected = scale * getattr(PORTRAIT_FACE, name)
        assert getattr(box, name) == pytest.approx(expected, abs=scale * tolerance), name


@pytest.mark.parametrize("side", [256, 512, 1500])
def test_yunet_finds_the_portraits_face_at_any_scale(side, yunet_model, portrait):
    faces = face.detect_with_yunet(cv2.resize(portrait, (side, side)), yunet_model)
    assert len(faces) == 1
    assert 0.6 < faces[0].score <= 1
    assert_close_to_the_portraits_face(faces[0], side / 512)


def test_yunet_finds_a_small_face_in_the_corner_of_a_large_picture(yunet_model, portrait):
    picture = flat(900, 1200, (90, 90, 90))
    picture[700:828, 1000:1128] = cv2.resize(portrait, (128, 128), interpolation=cv2.INTER_AREA)
    square = face.frame_portrait(picture, yunet_model=yunet_model)
    assert square.method == "yunet"
    assert (square.centre_x, square.centre_y) == pytest.approx((1064, 764), abs=6)
    assert square.half == pytest.approx(64, abs=8)


@pytest.mark.parametrize("shape", [(480, 640), (16, 16), (20, 2000)])
def test_yunet_finds_nothing_where_nothing_is(shape, yunet_model, caplog):
    with caplog.at_level(logging.WARNING, logger="float_core.face"):
        square = face.frame_portrait(flat(*shape), yunet_model=yunet_model)
    assert square == CropSquare.centred(shape[1], shape[0])
    assert "found no face" in caplog.text


def test_a_missing_or_broken_yunet_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="YuNet's model file"):
        face.detect_with_yunet(flat(64, 64), tmp_path / "absent.onnx")
    broken = tmp_path / "face_detection_yunet_2026may.onnx"
    broken.write_bytes(b"no network")
    with pytest.raises(ValueError, match="YuNet model that OpenCV"):
        face.detect_with_yunet(flat(64, 64), broken)


def test_the_newest_yunet_file_of_the_first_folder_is_taken(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, names in {
        first: ["2023mar", "2026may", "2026may_int8"],
        second: ["2027jan"],
    }.items():
        folder.mkdir()
        for name in names:
            (folder / f"face_detection_yunet_{name}.onnx").touch()
    folders = [tmp_path / "absent", first, second]
    assert face.find_yunet_model(folders) == first / "face_detection_yunet_2026may.onnx"
    assert face.find_yunet_model([tmp_path]) is None


def test_without_any_detector_the_centre_is_taken_and_said(monkeypatch, caplog):
    monkeypatch.setattr(face, "haar_cascade", lambda: None)
    with caplog.at_level(logging.WARNING, logger="float_core.face"):
        square = face.frame_portrait(flat(60, 100))
    assert square == CropSquare(50, 30, 30, "centre")
    assert "no face detector" in caplog.text
    with pytest.raises(FileNotFoundError, match="Haar"):
        face.detect_with_haar(flat(60, 100))


def pretend_cascade(monkeypatch, tmp_path, found):
    """Give OpenCV a cascade classifier that returns `found`, as OpenCV 4 would have one."""

    class Cascade:
        def __init__(self, path):
            assert Path(path).is_file()

        def detectMultiScale(self, grey, **_options):
            assert grey.ndim == 2
            return found

    (tmp_path / face.HAAR_FILE).touch()
    monkeypatch.setattr(cv2, "CascadeClassifier", Cascade, raising=False)
    data = types.SimpleNamespace(haarcascades=str(tmp_path))
    monkeypatch.setattr(cv2, "data", data, raising=False)


def test_haar_is_used_where_opencv_has_it_and_the_largest_face_comes_first(monkeypatch, tmp_path):
    found = np.array([[10, 10, 40, 40], [100, 100, 200, 200]], np.int32)
    pretend_cascade(monkeypatch, tmp_path, found)
    picture = flat(640, 1280)  # looked at in half size
    square = face.frame_portrait(picture)
    assert square.method == "haar"
    expected = FaceBox(2 * (100 + 6), 2 * (100 + 44), 2 * (100 + 194), 2 * (100 + 236))
    assert square == CropSquare.around(expected, method="haar")


def test_haar_without_a_face_takes_the_centre(monkeypatch, tmp_path):
    pretend_cascade(monkeypatch, tmp_path, ())
    assert face.frame_portrait(flat(64, 64)).method == "centre"


@pytest.mark.skipif(face.haar_cascade() is None, reason="this OpenCV has no Haar cascade")
def test_haar_finds_the_portraits_face(portrait):
    assert_close_to_the_portraits_face(face.detect_with_haar(portrait)[0])
