"""The demo model's card: what it is, what it was made of, what it can and cannot do."""

from __future__ import annotations

from collections.abc import Mapping

from ..config import FloatConfig
from .recipe import Recipe

_TEXT = """\
# Demo weights for FLOAT

A small model of the FLOAT method (flow matching of motion latents; Ki et al., ICCV 2025) that
makes a drawn portrait speak. {side} x {side} pixels, 25 frames a second, seven emotions, no emotion
network. It shows what the program does without any download; for photographs use the released
weights.

- Licence: MIT.
- Data: none but what `float_core.training` draws and speaks: portraits drawn by a program, and
  invented speech of a formant synthesiser. No person, no recording and no other model took part.
- Training: `python -m float_core train demo`, seed {seed}; phase 1 {phase_one:,} steps, phase 2
  {phase_two:,} steps on {clips:,} clips of {seconds:g} s.
- Limits: drawn faces, nearly frontal. A photograph comes out blurred and may lose its likeness.
  Speech of real people works as far as it resembles the synthesiser's.
- Held-out identities and voices are drawn from other random streams than those trained on.
"""


def model_card(
    recipe: Recipe, config: FloatConfig, figures: Mapping[str, float] | None = None
) -> str:
    """Return the card as Markdown.

    Args:
        recipe: How the model was trained.
        config: The model.
        figures: Held-out figures, where they are known.
    """
    text = _TEXT.format(
        side=config.image_size,
        seed=recipe.seed,
        phase_one=sum(stage.steps for stage in recipe.phase_one),
        phase_two=recipe.motion.steps,
        clips=recipe.clips + recipe.imagined_clips,
        seconds=recipe.clip_seconds,
    )
    if not figures:
        return text
    rows = "".join(f"| {name} | {value:.2f} |\n" for name, value in figures.items())
    return f"{text}\n| held-out figure | value |\n| --- | --- |\n{rows}"
