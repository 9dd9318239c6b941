"""Compare this implementation with a file of golden outputs.

    python tests/parity/compare.py FILE.npz [FILE.npz …] [--dtype float64] [--plain]

Builds the model that the file's meta describes from synthetic weights, recomputes every array,
and prints for each its shape, its largest absolute error and its relative error ‖a − b‖ / ‖b‖.
Exits 1 where one is over the bound or an array was not compared. Crops must be equal.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from parity import synthetic
from parity.model import config_of, synthetic_state_dict

from float_core import sampling
from float_core.audio import frame_count, normalise
from float_core.config import SamplingOptions
from float_core.emotion import one_hot
from float_core.motion import Motion
from float_core.pipeline import FloatPipeline, Portrait, Speech

BOUND = 1e-5
"""Largest relative error: at 1e-4 a wrong solver or a wrong GELU would still pass."""


class GoldenModel:
    """The model of a golden file, and each of its arrays by name."""

    def __init__(self, meta: dict[str, Any], dtype: torch.dtype, plain: bool = False) -> None:
        self.meta = meta
        self.dtype = dtype
        self.config = config_of(meta["config"])
        self.pipeline = FloatPipeline.from_state_dict(
            synthetic_state_dict(self.config, dtype), self.config, dtype=dtype, plain=plain
        )
        self.motions: dict[str, Motion] = {}
        self.portrait = self._encode_portrait()
        self.waveform = torch.from_numpy(
            synthetic.speech(self._name("speech"), meta["seconds"], meta["sample_rate"])
        ).to(dtype)
        self.speech = self._encode_speech()
        self.heard = self.pipeline.classify_emotion(self.waveform[None, None], self.rate)

    @property
    def rate(self) -> int:
        """Return the speech's sample rate in Hz."""
        return int(self.meta["sample_rate"])

    def _name(self, role: str) -> str:
        """Return the name that an input is made from, out of the meta's description."""
        found = re.search(r"'([^']+)'", self.meta["inputs"][role])
        assert found, f"the meta does not name the input {role!r}"
        return found[1]

    def _noise(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.from_numpy(synthetic.unit_noise(name, shape)).to(self.dtype)

    def _encode_portrait(self) -> Portrait:
        image = synthetic.image(self._name("image"), self.config.image_size)
        return self.pipeline.encode_portrait(torch.from_numpy(image)[None].to(self.dtype))

    def _encode_speech(self) -> Speech:
        return self.pipeline.encode_speech(self.waveform[None, None], self.rate)

    def compute(self, name: str) -> torch.Tensor:
        """Recompute one array of the file.

        Raises:
            KeyError: The name is of no known kind: the array cannot be compared.
        """
        simple = {
            "s_r": lambda: self.portrait.identity,
            "r_s_lambda": lambda: self.portrait.coefficients,
            "r_s": lambda: self.portrait.motion,
            "audio_normalised": lambda: normalise(self.waveform[None]),
            "num_frames": lambda: torch.tensor(frame_count(len(self.waveform), self.config.fps)),
            "wa": lambda: self.speech.embedding,
            "we": lambda: self.heard[:, None],
            "decoded": self._decoded,
            "fmt_guided": self._guided,
        }
        if name in simple:
            return simple[name]()
        if found := re.fullmatch(r"feat(\d+)", name):
            return self.portrait.features[int(found[1])]
        if found := re.fullmatch(r"fmt_t([\d.]+)", name):
            return self._transformer(float(found[1]))
        if found := re.fullmatch(r"motion_(.+)", name):
            return self._motion(found[1]).latents
        if found := re.fullmatch(r"video_(.+)", name):
            motion = self._motion(found[1])
            step = self.meta["video_frame_step"]
            return self._frames(Motion(motion.latents[:, ::step], motion.fps))
        raise KeyError(name)

    def _frames(self, motion: Motion) -> torch.Tensor:
        return torch.cat(list(self.pipeline.decode(self.portrait, motion)))

    def _decoded(self) -> torch.Tensor:
        text = self.meta["inputs"]["decoded_motion"]
        found = re.fullmatch(r"([\d.]+) \* unit_noise\('([^']+)', (\(.+\))\)", text)
        assert found, f"unknown description of the decoded motion: {text}"
        noise = self._noise(found[2], ast.literal_eval(found[3]))
        return self._frames(Motion(float(found[1]) * noise, self._motion_fps()))

    def _motion_fps(self) -> Any:
        return self._motion(next(iter(self.meta["cases"]))).fps

    def _motion(self, case: str) -> Motion:
        if case not in self.motions:
            self.motions[case] = self._sample(self.meta["cases"][case])
        return self.motions[case]

    def _sample(self, case: dict[str, Any]) -> Motion:
        shape = self.config.transformer
        windows = -(-self.speech.frames // shape.window_frames)
        prefix = self._name("noise").removesuffix("i")
        noise = [
            self._noise(f"{prefix}{i}", (1, shape.window_frames, self.config.latent_dim))
            for i in range(windows)
        ]
        emotion = self.heard[:, None] if case["emotion"] is None else one_hot(case["emotion"])
        options = SamplingOptions(
            time_points=case["nfe"],
            solver=case["solver"],
            audio_guidance=case["a_cfg"],
            emotion_guidance=case["e_cfg"],
            reference_guidance=case.get("r_cfg", 1.0),
        )
        return self.pipeline.sample(
            self.portrait, self.speech, emotion, options, torch.stack(noise, dim=1)
        )

    def _fmt_inputs(self) -> tuple[torch.Tensor, sampling.WindowCondition]:
        prefix = self._name("fmt").removesuffix("NAME")
        shape, latent = self.config.transformer, self.config.latent_dim
        window, context = shape.window_frames, shape.context_frames
        emotion = self._noise(f"{prefix}we", (1, 1, 7)).softmax(-1)
        condition = sampling.WindowCondition(
            reference=self._noise(f"{prefix}wr", (1, latent)),
            previous_motion=self._noise(f"{prefix}prev_x", (1, context, latent)),
            previous_speech=self._noise(f"{prefix}prev_wa", (1, context, self.config.speech_dim)),
            speech=self._noise(f"{prefix}wa", (1, window, self.config.speech_dim)),
            emotion=emotion.expand(-1, shape.total_frames, -1),
        )
        return self._noise(f"{prefix}x", (1, window, latent)), condition

    @torch.inference_mode()
    def _transformer(self, time: float) -> torch.Tensor:
        network = self.pipeline.flow_transformer
        state, condition = self._fmt_inputs()
        embedded = network.embed_condition(
            condition.reference,
            torch.cat((condition.previous_speech, condition.speech), dim=1),
            condition.emotion,
        )
        motion = torch.cat((condition.previous_motion, state), dim=1)
        return network(torch.tensor(time, dtype=self.dtype), motion, embedded)

    @torch.inference_mode()
    def _guided(self) -> torch.Tensor:
        """Guide over all 60 frames, as the file holds them; public calls give the last 50."""
        text = self.meta["inputs"]["fmt"]
        found = re.search(r"fmt_guided: t ([\d.]+), a_cfg ([\d.]+), e_cfg ([\d.]+)", text)
        assert found, f"unknown description of fmt_guided: {text}"
        time, audio, emotion = map(float, found.groups())
        state, condition = self._fmt_inputs()
        network = self.pipeline.flow_transformer

        def field(stacked: sampling.WindowCondition) -> sampling.Velocity:
            embedded = network.embed_condition(
                stacked.reference,
                torch.cat((stacked.previous_speech, stacked.speech), dim=1),
                stacked.emotion,
            )
            return lambda t, motion: network(t, motion, embedded)

        options = SamplingOptions(audio_guidance=audio, emotion_guidance=emotion)
        velocity = sampling.guided_velocity(field, condition, sampling.guidance_branches(options))
        motion = torch.cat((condition.previous_motion, state), dim=1)
        return velocity(torch.tensor(time, dtype=self.dtype), motion)


def compare_model(
    file: Any, meta: dict[str, Any], dtype: torch.dtype, plain: bool
) -> Iterator[tuple[Any, ...]]:
    """Yield name, shape, absolute and relative error of each array; None where not compared."""
    model = GoldenModel(meta, dtype, plain)
    for name in file.files:
        if name == "meta":
            continue
        expected = file[name].astype(np.float64)
        try:
            result = model.compute(name).to(torch.float64).numpy()
        except KeyError:
            yield name, expected.shape, None, None
            continue
        steps = meta["steps"].get(name, [1] * result.ndim)
        actual = result[tuple(slice(None, None, step) for step in steps)]
        yield name, *errors(actual, expected)


def errors(actual: np.ndarray, expected: np.ndarray) -> tuple[tuple[int, ...], float, float]:
    """Return the shape, the largest absolute and the relative error; infinite for other shapes."""
    if actual.shape != expected.shape:
        return actual.shape, float("inf"), float("inf")
    difference = np.abs(actual - expected)
    norm = np.linalg.norm(expected) or 1.0
    return actual.shape, float(difference.max(initial=0)), float(np.linalg.norm(difference) / norm)


def crop_image(name: str, height: int, width: int) -> np.ndarray:
    """Return the picture of a crop case, uint8 (height, width, 3)."""
    picture = synthetic.image(f"crop/{name}", max(height, width))[:, :height, :width]
    picture = np.round((np.clip(picture, -1, 1) + 1) * 127.5).astype(np.uint8)
    return np.ascontiguousarray(picture.transpose(1, 2, 0))


def compare_crops(file: Any, meta: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Yield name, shape and errors of each crop; a crop that differs at all is infinitely off."""
    from float_core.face import CropSquare, FaceBox, first_face

    for name in file.files:
        if name == "meta":
            continue
        case = meta["cases"].get(name)
        if case is None:
            yield name, file[name].shape, None, None
            continue
        boxes = [FaceBox(*box) for box in case["boxes_xyxy_score"]]
        image = crop_image(name, case["height"], case["width"])
        face = first_face(boxes)
        assert face is not None, f"{name} has no box over the published score"
        crop = CropSquare.around(face).cut(image, case["size"])[:: case["step"], :: case["step"]]
        shape, absolute, _ = errors(crop.astype(np.float64), file[name].astype(np.float64))
        yield name, shape, absolute, 0.0 if absolute == 0 else float("inf")


def compare_file(path: str, dtype: torch.dtype, plain: bool) -> bool:
    """Print the table of one file; return whether every array was compared and is in bounds."""
    print(f"{path}\n  {'array':<20} {'shape':<20} {'largest error':>14} {'relative':>10}")
    good = True
    with np.load(path) as file:
        meta = json.loads(file["meta"].tobytes())
        if "config" in meta:
            rows = compare_model(file, meta, dtype, plain)
        else:
            rows = compare_crops(file, meta)
        for name, shape, absolute, relative in rows:
            within = relative is not None and relative <= BOUND
            good &= within
            numbers = (
                f"{absolute:14.2e} {relative:10.2e}" if relative is not None else "  not compared"
            )
            print(f"  {name:<20} {shape!s:<20} {numbers}{'' if within else '   OVER'}", flush=True)
    return good


def main() -> int:
    """Run the comparison of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", help="files in the golden format")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--plain", action="store_true", help="decode by the readable reference")
    arguments = parser.parse_args()
    dtype = getattr(torch, arguments.dtype)
    results = [compare_file(path, dtype, arguments.plain) for path in arguments.files]
    print("all within bounds" if all(results) else f"some over {BOUND:g} or not compared")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
