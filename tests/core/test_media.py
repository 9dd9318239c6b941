"""Pictures and sound of every kind in, one video out; and what must be refused."""

from __future__ import annotations

import io
import logging
import struct
import wave
import zlib
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from float_core import media
from float_core.media import VideoWriter, load_audio, load_image
from float_core.motion import exact_fps

RED, WHITE = (255, 0, 0), (255, 255, 255)


# Pictures


def gradient(height: int = 24, width: int = 32) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 9, columns * 7, rows + columns], axis=2).astype(np.uint8)


def saved(tmp_path, image: Image.Image, name: str, **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.png", {}), ("a.webp", {"lossless": True}), ("a.bmp", {}), ("a.tif", {}), ("a.ppm", {})],
)
def test_lossless_files_keep_every_pixel(name, options, tmp_path):
    picture = gradient()
    loaded = load_image(saved(tmp_path, Image.fromarray(picture), name, **options))
    np.testing.assert_array_equal(loaded, picture)
    assert loaded.flags.writeable


def test_jpeg_of_four_inks_comes_as_rgb(tmp_path):
    inks = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    loaded = load_image(saved(tmp_path, inks, "a.jpg", quality=95))
    assert loaded.shape == (32, 32, 3)
    assert loaded[..., 0].min() > 200
    assert loaded[..., 1:].max() < 60


def test_palette_and_its_transparent_entry(tmp_path):
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 255, 255, 0, 0])
    image.paste(0, (0, 0, 8, 16))
    opaque = load_image(saved(tmp_path, image, "opaque.png"))
    assert (opaque[:, :8] == (0, 0, 255)).all()
    clear = load_image(saved(tmp_path, image, "clear.png", transparency=0), "#ffffff")
    assert (clear[:, :8] == WHITE).all()
    assert (clear[:, 8:] == RED).all()


def test_a_gif_gives_its_first_frame(tmp_path):
    first, second = Image.new("RGB", (16, 16), RED), Image.new("RGB", (16, 16), WHITE)
    path = saved(tmp_path, first, "a.gif", save_all=True, append_images=[second])
    assert (load_image(path) == RED).all()


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_grey_is_scaled_not_clipped(name, tmp_path):
    grey = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    loaded = load_image(saved(tmp_path, Image.fromarray(grey), name))
    expected = np.rint(grey / 257)
    assert np.abs(loaded - expected[..., None]).max() <= 1
    assert loaded.max() == 255


def test_float_grey_from_0_to_1_is_scaled(tmp_path):
    grey = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    loaded = load_image(saved(tmp_path, Image.fromarray(grey), "a.tif"))
    np.testing.assert_array_equal(loaded[..., 0].ravel(), np.arange(256))


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_has_three_equal_channels(mode, tmp_path):
    loaded = load_image(saved(tmp_path, Image.new(mode, (20, 16), 1), "a.png"))
    assert loaded.shape == (16, 20, 3)
    assert (loaded == (255 if mode == "1" else 1)).all()


@pytest.mark.parametrize(("mode", "colour"), [("RGBA", (255, 0, 0, 128)), ("LA", (255, 128))])
def test_alpha_lies_over_the_background(mode, colour, tmp_path):
    path = saved(tmp_path, Image.new(mode, (16, 16), colour), "a.png")
    half = np.array([255, 0, 0] if mode == "RGBA" else [255] * 3) * 128 / 255
    assert np.abs(load_image(path) - half).max() <= 1
    blue = half + np.array([0, 0, 255]) * 127 / 255
    assert np.abs(load_image(path, "#0000ff") - blue).max() <= 1


def test_exif_turn_is_followed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    picture = gradient()
    path = saved(tmp_path, Image.fromarray(picture), "a.png", exif=exif)
    np.testing.assert_array_equal(load_image(path), np.rot90(picture, -1))


@pytest.mark.slow
def test_a_picture_of_108_million_pixels_is_taken(tmp_path):
    path = saved(tmp_path, Image.new("1", (12_000, 9_000), 1), "a.png")
    loaded = load_image(path)
    assert loaded.shape == (9_000, 12_000, 3)
    assert loaded[::1000, ::1000].min() == 255


def test_pillows_limit_is_left_as_it_was_and_does_not_bind(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # as if 32 x 24 were 300 times larger
    path = saved(tmp_path, Image.fromarray(gradient()), "a.png")
    assert load_image(path).shape == (24, 32, 3)
    assert Image.MAX_IMAGE_PIXELS == 100


def png_header(width: int, height: int) -> bytes:
    """Return a PNG of the given size that holds no pixels."""
    content = io.BytesIO()
    Image.new("L", (16, 16)).save(content, "png")
    parts = bytearray(content.getvalue())
    parts[16:24] = struct.pack(">II", width, height)
    parts[29:33] = struct.pack(">I", zlib.crc32(parts[12:29]))
    return bytes(parts)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no picture at all\n" * 20, "Expected a picture"),
        (b"", "Expected a picture"),
        (png_header(15, 200), "at least 16 pixels"),
        (png_header(20_000, 20_000), "at most 300,000,000 pixels"),
        (png_header(600, 600), "breaks off"),
    ],
)
def test_unusable_pictures_are_refused(content, words, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as refusal:
        load_image(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("load", [load_image, load_audio])
def test_missing_files_and_folders_are_refused(load, tmp_path):
    with pytest.raises(FileNotFoundError, match="found nothing"):
        load(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="found a folder"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["#12", "nonsense", ""])
def test_an_unknown_colour_is_refused(text, tmp_path):
    path = saved(tmp_path, Image.fromarray(gradient()), "a.png")
    with pytest.raises(ValueError, match="colour"):
        load_image(path, text)


def test_colours_by_number_and_name():
    assert media.parse_colour("#1a2b3c") == (26, 43, 60)
    assert media.parse_colour("white") == WHITE


# Sound


def wav(path, samples: np.ndarray, rate: int):
    """Write whole-number samples `(channels, samples)` as WAV."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(samples))
        file.setsampwidth(samples.dtype.itemsize)
        file.setframerate(rate)
        file.writeframes(np.ascontiguousarray(samples.T).tobytes())
    return path


def encoded(path, codec: str, rate: int, layout: str, format_: str, container=None):
    """Write half a second of a 440 Hz tone through PyAV; return the tone, `(samples,)`."""
    tone = 0.4 * np.sin(2 * np.pi * 440 * np.arange(rate // 2) / rate)
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        channels = stream.codec_context.channels
        stream.codec_context.bit_rate = 96_000 * channels
        values = np.tile(tone.astype(np.float32), (channels, 1))
        if format_ == "s16":
            values = np.rint(values * 32768).astype(np.int16).T.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(values), format_, layout)
        frame.sample_rate, frame.pts = rate, 0
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return tone


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32])
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44101, 2), (48000, 6)])
def test_wav_samples_are_exact(dtype, rate, channels, tmp_path):
    bounds = np.iinfo(dtype)
    rng = np.random.default_rng(0)
    samples = rng.integers(bounds.min, bounds.max, (channels, 999), dtype, endpoint=True)
    waveform, found = load_audio(wav(tmp_path / "a.wav", samples, rate))
    middle = 128 if dtype == np.uint8 else 0
    expected = (samples.astype(np.float64) - middle) / (2.0 ** (bounds.bits - 1))
    assert found == rate
    assert waveform.dtype == torch.float32
    assert waveform.shape == (1, channels, 999)
    np.testing.assert_array_equal(waveform[0].numpy(), expected.astype(np.float32))


@pytest.mark.parametrize(
    ("name", "codec", "rate", "layout", "format_"),
    [
        ("a.mp3", "libmp3lame", 44100, "stereo", "fltp"),
        ("a.m4a", "aac", 48000, "5.1", "fltp"),
        ("a.flac", "flac", 22050, "mono", "s16"),
        ("a.ogg", "libopus", 48000, "mono", "s16"),
        ("a.mp4", "aac", 16000, "mono", "fltp"),
    ],
)
def test_compressed_sound_of_any_kind(name, codec, rate, layout, format_, tmp_path):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    tone = encoded(tmp_path / name, codec, rate, layout, format_)
    waveform, found = load_audio(tmp_path / name)
    assert found == rate
    assert waveform.shape[:2] == (1, av.AudioLayout(layout).nb_channels)
    assert waveform.shape[2] == pytest.approx(len(tone), abs=0.05 * rate)
    inner = slice(len(tone) // 4, len(tone) // 2)
    error = np.abs(waveform[0, 0].numpy()[inner] - tone[inner]).max()
    assert error < (1e-4 if codec == "flac" else 0.05)


def test_the_sound_of_a_video_is_read(tmp_path):
    tone = torch.sin(2 * torch.pi * 440 * torch.arange(48000) / 48000) / 2
    path = tmp_path / "a.mp4"
    with VideoWriter(path, 25, (32, 32), tone[None, None], 48000) as video:
        video.write(np.zeros((25, 32, 32, 3), np.uint8))
    waveform, rate = load_audio(path)
    assert rate == 48000
    assert float((waveform[0, 0, 4000:40000] - tone[4000:40000]).abs().max()) < 0.02


def test_broken_packets_are_left_out_with_a_warning(tmp_path, caplog):
    path = tmp_path / "a.m4a"
    encoded(path, "aac", 16000, "mono", "fltp")
    content = bytearray(path.read_bytes())
    middle = content.index(b"mdat") + 3000
    content[middle : middle + 400] = b"\xff" * 400
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING, logger="float_core.media"):
        waveform, _ = load_audio(path)
    assert waveform.shape[-1] > 4000
    assert "broken" in caplog.text


@pytest.mark.parametrize("content", [b"", b"no sound at all\n" * 50, b"#EXTM3U\nhttp://a/b.ts\n"])
def test_what_is_no_sound_is_refused(content, tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="Expected a recording") as refusal:
        load_audio(path)
    assert "\n" not in str(refusal.value)


def test_a_file_without_sound_is_refused(tmp_path):
    path = tmp_path / "silent.mp4"
    with VideoWriter(path, 25, (32, 32)) as video:
        video.write(np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="no sound track"):
        load_audio(path)


def test_empty_sound_is_refused(tmp_path):
    with pytest.raises(ValueError, match="sound track is empty"):
        load_audio(wav(tmp_path / "a.wav", np.zeros((1, 0), np.int16), 16000))


# Video


def bt709_to_rgb(planes: np.ndarray) -> np.ndarray:
    """Turn limited-range yuv420p planes, one below the other, into RGB `(height, width, 3)`."""
    height, width = planes.shape[0] * 2 // 3, planes.shape[1]
    luma = (planes[:height] - 16.0) / 219
    chroma = (planes[height:].reshape(2, height // 2, width // 2) - 128.0) / 224
    blue, red = chroma.repeat(2, axis=1).repeat(2, axis=2)
    r, b = luma + 1.5748 * red, luma + 1.8556 * blue
    g = (luma - 0.2126 * r - 0.0722 * b) / 0.7152
    return np.clip(np.rint(255 * np.stack([r, g, b], axis=2)), 0, 255).astype(np.uint8)


def probe(path) -> dict:
    """Read a video back: its frames by the BT.709 matrix, and both its tracks."""
    with av.open(str(path)) as file:
        tracks = {track.type: track for track in file.streams}
        found = {
            kind: {
                "start": track.start_time,
                "seconds": float(track.duration * track.time_base),
                "codec": track.codec_context.name,
            }
            for kind, track in tracks.items()
        }
        frames = list(file.decode(video=0))
        found["comment"] = file.metadata.get("comment")
        found["times"] = [frame.pts * frame.time_base for frame in frames]
        found["pixels"] = np.stack([bt709_to_rgb(frame.to_ndarray()) for frame in frames])
        context = tracks["video"].codec_context
        found["format"] = context.pix_fmt
        found["colours"] = (
            int(frames[0].colorspace),
            int(context.color_primaries),
            int(context.color_trc),
            int(frames[0].color_range),
        )
    return found


def tone(samples: int, rate: int, channels: int = 1) -> torch.Tensor:
    wave_ = torch.sin(2 * torch.pi * 440 * torch.arange(samples) / rate) / 2
    return wave_.expand(1, channels, samples)


def write(path, frames, fps=25, waveform=None, rate=None):
    size = frames.shape[-2], frames.shape[-3]
    with VideoWriter(path, fps, size, waveform, rate) as video:
        video.write(frames)
    return probe(path)


def black(count: int, height: int = 32, width: int = 48) -> np.ndarray:
    return np.zeros((count, height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("fps", "exact"),
    [
        (25, Fraction(25)),
        (1, Fraction(1)),
        (120, Fraction(120)),
        (12.5, Fraction(25, 2)),
        (29.97002997, Fraction(30000, 1001)),
        (Fraction(24000, 1001), Fraction(24000, 1001)),
    ],
)
def test_frames_stand_at_their_times(fps, exact, tmp_path):
    found = write(tmp_path / "a.mp4", black(7), fps)
    assert exact_fps(fps) == exact
    assert found["video"]["start"] == 0
    for number, time in enumerate(found["times"]):
        assert float(time) == pytest.approx(float(number / exact), abs=1e-4)
    assert found["video"]["seconds"] == pytest.approx(7 / float(exact), abs=1e-3)


@pytest.mark.parametrize("sound_seconds", [0.5, 1.0, 3.0])
@pytest.mark.parametrize(
    ("rate", "channels", "fps"), [(16000, 1, 25), (44101, 2, 30), (48000, 6, 24), (8000, 1, 60)]
)
def test_both_tracks_start_at_0_and_end_together(sound_seconds, rate, channels, fps, tmp_path):
    waveform = tone(round(sound_seconds * rate), rate, channels)
    path = tmp_path / "a.mp4"
    found = write(path, black(fps + 3), fps, waveform, rate)
    assert found["video"]["start"] == found["audio"]["start"] == 0
    assert found["audio"]["seconds"] == pytest.approx(found["video"]["seconds"], abs=1 / fps)
    assert found["video"]["seconds"] == pytest.approx((fps + 3) / fps, abs=1e-3)
    decoded, decoded_rate = load_audio(path)
    assert decoded.shape[-1] / decoded_rate == pytest.approx((fps + 3) / fps, abs=1 / fps)
    assert decoded.shape[1] == min(channels, 2 if channels == 2 else 1)
    # The sound itself is where it was, and silence follows it.
    heard = round(min(sound_seconds, 1) * decoded_rate)
    expected = tone(heard, decoded_rate)[0, 0]
    inner = slice(decoded_rate // 10, heard - decoded_rate // 10)
    assert float((decoded[0, 0, inner] - expected[inner]).abs().max()) < 0.03
    if sound_seconds < 1:
        assert float(decoded[0, 0, heard + 4000 :].abs().max()) < 1e-3


def test_one_frame_with_sound(tmp_path):
    found = write(tmp_path / "a.mp4", black(1), 25, tone(16000, 16000), 16000)
    assert found["audio"]["seconds"] == pytest.approx(0.04, abs=0.002)


COLOURS = [
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 255),
    (0, 0, 0),
    (128, 128, 128),
    (224, 172, 105),
    (30, 60, 220),
]


def test_colours_come_back_and_are_tagged_bt709(tmp_path):
    flat = (
        np.zeros((len(COLOURS), 32, 48, 3), np.uint8) + np.array(COLOURS, np.uint8)[:, None, None]
    )
    found = write(tmp_path / "a.mp4", flat)
    assert np.abs(found["pixels"].astype(int) - flat).max() <= 3
    assert found["colours"] == (1, 1, 1, 1)  # BT.709 three times, limited range
    assert found["format"] == "yuv420p"
    assert (found["video"]["codec"], found["comment"]) == ("h264", media.AI_COMMENT)


def test_the_picture_itself_is_kept(tmp_path):
    picture = gradient() // 2 + 60
    found = write(tmp_path / "a.mp4", np.stack([picture] * 3))
    assert np.abs(found["pixels"].astype(int) - picture).mean() < 3


def test_odd_sides_repeat_the_last_column_and_row(tmp_path):
    found = write(tmp_path / "a.mp4", np.full((2, 33, 47, 3), 200, np.uint8))
    assert found["pixels"].shape == (2, 34, 48, 3)
    assert np.abs(found["pixels"].astype(int) - 200).max() <= 3


def test_frames_one_by_one_in_chunks_and_from_torch_are_the_same(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (5, 32, 48, 3), np.uint8)
    whole = write(tmp_path / "whole.mp4", frames)
    with VideoWriter(tmp_path / "parts.mp4", 25, (48, 32)) as video:
        video.write(frames[0])
        video.write(frames[1:3])
        video.write(torch.from_numpy(frames[3:]))
        assert video.frames == 5
    np.testing.assert_array_equal(probe(tmp_path / "parts.mp4")["pixels"], whole["pixels"])


def test_the_index_stands_before_the_pictures(tmp_path):
    write(tmp_path / "a.mp4", black(5), 25, tone(8000, 16000), 16000)
    content = (tmp_path / "a.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("written", [0, 30])
def test_an_error_leaves_no_file_and_keeps_the_old_one(error, written, tmp_path):
    old = tmp_path / "old.mp4"
    old.write_bytes(b"old")

    def write_and_fail(path):
        with VideoWriter(path, 25, (48, 32), tone(16000, 16000), 16000) as video:
            video.write(black(written))
            raise error

    for path in (old, tmp_path / "new.mp4"):
        with pytest.raises(error):
            write_and_fail(path)
    assert [path.name for path in tmp_path.iterdir()] == ["old.mp4"]
    assert old.read_bytes() == b"old"


def test_nothing_stands_under_the_name_before_the_end(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 25, (48, 32)) as video:
        video.write(black(30))
        assert not (tmp_path / "a.mp4").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_an_error_at_the_end_leaves_no_file(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError("disk full")

    video = VideoWriter(tmp_path / "a.mp4", 25, (48, 32))
    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(OSError, match="disk full"), video:
        video.write(black(2))
    assert list(tmp_path.iterdir()) == []


def test_a_video_without_frames_is_refused(tmp_path):
    with (
        pytest.raises(ValueError, match="at least one frame"),
        VideoWriter(tmp_path / "a.mp4", 25, (48, 32)),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((32, 47, 3), np.uint8),
        np.zeros((32, 48), np.uint8),
        np.zeros((32, 48, 3), np.float32),
        np.zeros((1, 1, 32, 48, 3), np.uint8),
    ],
)
def test_other_frames_are_refused(frames, tmp_path):
    with (
        pytest.raises(ValueError, match="uint8 RGB frames of 48 x 32"),
        VideoWriter(tmp_path / "a.mp4", 25, (48, 32)) as video,
    ):
        video.write(frames)


@pytest.mark.parametrize("fps", [0, -25, 0.5, 121, float("nan"), float("inf")])
def test_an_impossible_fps_is_refused(fps, tmp_path):
    with pytest.raises(ValueError, match="fps from 1 to 120"):
        VideoWriter(tmp_path / "a.mp4", fps, (48, 32))


@pytest.mark.parametrize(
    ("waveform", "rate", "words"),
    [
        (torch.full((1, 1, 16000), float("nan")), 16000, "NaN"),
        (torch.zeros(1, 1, 0), 16000, "empty"),
        (torch.zeros(1, 1, 16000), None, "sample rate"),
        (torch.zeros(2, 1, 16000), 16000, "one video"),
    ],
)
def test_unusable_sound_is_refused_before_the_work(waveform, rate, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        VideoWriter(tmp_path / "a.mp4", 25, (48, 32), waveform, rate)
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_is_absent_or_no_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(FileNotFoundError, match="output folder"):
            VideoWriter(folder / "a.mp4", 25, (48, 32))
    with pytest.raises(IsADirectoryError, match="add a file name"):
        VideoWriter(tmp_path, 25, (48, 32))


def test_an_output_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    def refused(self, **_):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.touch", refused)
    with pytest.raises(PermissionError, match=r"can be written, got .* \(Permission denied\)"):
        VideoWriter(tmp_path / "a.mp4", 25, (48, 32))
