"""How far speech encoded in pieces is from speech encoded at once, by the amount of context.

    python benchmarks/long_speech.py [RECORDING …] [--seconds 180] [--contexts 0 1 2 4 8]

Encodes three minutes of speech (the recordings one after the other, repeated as needed; the shipped
one by default) with the full-size network on synthetic weights, at once and in pieces, and prints
for each context the relative error of the embedding, the largest error of a frame, and the largest
step at a join over the median step from frame to frame.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from unittest import mock

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from float_core import long_speech  # noqa: E402
from float_core.audio import resample  # noqa: E402
from float_core.config import FloatConfig  # noqa: E402
from float_core.long_speech import PreparedSpeech, plan_pieces  # noqa: E402
from float_core.media import load_audio  # noqa: E402
from float_core.modules.audio_encoder import AudioEncoder  # noqa: E402
from float_core.speech import embed_pieces, speech_pieces  # noqa: E402
from float_core.synthetic import synthetic_weights  # noqa: E402

RATE = 16_000


def recording(paths: list[Path], seconds: int) -> torch.Tensor:
    """Return the recordings joined and repeated to a length, (1, 1, samples) at 16 kHz."""
    parts = []
    for path in paths:
        waveform, rate = load_audio(path)
        parts.append(resample(waveform.mean(1, keepdim=True), rate, RATE))
    joined = torch.cat(parts, dim=-1)
    return joined.repeat(1, 1, -(-seconds * RATE // joined.shape[-1]))[..., : seconds * RATE]


def speech_network(config: FloatConfig) -> AudioEncoder:
    """Return the full-size speech network on synthetic weights."""
    builders = {"audio_encoder": AudioEncoder}
    state = synthetic_weights(config, builders)
    network = AudioEncoder(config)
    network.load_state_dict({key.removeprefix("audio_encoder."): v for key, v in state.items()})
    return network.eval()


@torch.no_grad()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recordings", nargs="*", type=Path, default=[ROOT / "assets/speech.flac"])
    parser.add_argument("--seconds", type=int, default=180)
    parser.add_argument("--contexts", type=int, nargs="+", default=[0, 1, 2, 4, 8])
    arguments = parser.parse_args()
    config = FloatConfig()
    network = speech_network(config)
    sound = PreparedSpeech(recording(arguments.recordings, arguments.seconds), RATE)
    at_once = speech_pieces(sound, config, "whole")
    whole = next(embed_pieces(network, config, sound, at_once))[0]
    norms = whole.norm(dim=-1)
    print(f"{arguments.seconds} s of speech, {len(whole)} frames")
    print("| context, s | relative error | worst frame | step at a join / median step |")
    print("| ---: | ---: | ---: | ---: |")
    for context in arguments.contexts:
        with mock.patch.object(long_speech, "CONTEXT_SECONDS", context):
            pieces = list(plan_pieces(len(whole), config.fps, config.transformer.window_frames))
        made = torch.cat(list(embed_pieces(network, config, sound, pieces)), dim=1)[0]
        error = (made - whole).norm() / whole.norm()
        worst = ((made - whole).norm(dim=-1) / norms).max()
        steps = (made[1:] - made[:-1]).norm(dim=-1)
        joins = torch.tensor([piece.start - 1 for piece in pieces[1:]])
        ratio = steps[joins].max() / steps.median()
        print(f"| {context} | {error:.2e} | {worst:.2e} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
