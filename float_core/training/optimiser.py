"""The optimiser of phase 1: orthogonal steps for weight matrices, Adam for the rest.

The encoder has no normalisation and equalised weights, whose relative change a step is small: with
Adam its coefficients learn poses several times slower. Momentum whose singular values are all made
equal (Muon; Jordan et al., 2024) moves every direction of a matrix alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

LEAST_SIDE = 8
"""Matrices with a side below this are left to Adam."""

ADAM_SHARE = 1.0
"""Adam's rate over that of the matrices."""

MOMENTUM = 0.9
ADAM_BETAS = (0.9, 0.99)
ADAM_EPS = 1e-8
_NEWTON_STEPS = 5
_NEWTON = (3.4445, -4.7750, 2.0315)


def as_matrix(weight: Tensor) -> Tensor:
    """Return a weight as rows of outputs; a modulated convolution has a leading axis of one."""
    if weight.ndim == 5:
        weight = weight[0]
    return weight.flatten(1)


def is_matrix(weight: Tensor) -> bool:
    """Return whether a weight is taken as a matrix."""
    return weight.ndim >= 2 and min(as_matrix(weight).shape) >= LEAST_SIDE


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return a matrix with the same singular vectors and all singular values near 1.

    Newton-Schulz iteration with Muon's coefficients, which trade exactness for speed: the values
    end between about 0.7 and 1.2.

    Args:
        matrix: (rows, columns).
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix) / (matrix.norm() + 1e-7)
    a, b, c = _NEWTON
    for _ in range(_NEWTON_STEPS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    result: Tensor = x.T if tall else x
    return result


class OrthogonalMomentum(torch.optim.Optimizer):
    """Muon for matrices, Adam for everything else; each group's `share` scales its rate."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        """Sort the parameters into two groups.

        Args:
            parameters: What to train.
            lr: Rate of the matrices: the spread of a step's entries.
        """
        every = list(parameters)
        matrices = [p for p in every if is_matrix(p)]
        others = [p for p in every if not is_matrix(p)]
        groups = [
            {"params": matrices, "matrices": True, "share": 1.0},
            {"params": others, "matrices": False, "share": ADAM_SHARE},
        ]
        super().__init__([group for group in groups if group["params"]], {"lr": lr})

    @torch.no_grad()
    def step(self, _closure: None = None) -> None:  # type: ignore[override]
        """Take one step; a closure is not called."""
        for group in self.param_groups:
            take = self._matrix_step if group["matrices"] else self._adam_step
            for parameter in group["params"]:
                if parameter.grad is not None:
                    take(parameter, self.state[parameter], group["lr"])

    def _matrix_step(self, parameter: Tensor, state: dict[str, Any], rate: float) -> None:
        gradient = parameter.grad
        assert gradient is not None, "parameters without gradient are skipped before"
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        ahead = torch.lerp(gradient, state["momentum"], MOMENTUM)
        step = orthogonalised(as_matrix(ahead))
        spread = max(step.shape) ** 0.5  # brings the entries' spread to about 1
        parameter.sub_((step * (rate * spread)).view_as(parameter))

    def _adam_step(self, parameter: Tensor, state: dict[str, Any], rate: float) -> None:
        gradient = parameter.grad
        assert gradient is not None, "parameters without gradient are skipped before"
        if "mean" not in state:
            state["mean"], state["square"] = (torch.zeros_like(parameter) for _ in range(2))
            state["count"] = 0
        state["count"] += 1
        first, second = ADAM_BETAS
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].lerp_(gradient.square(), 1 - second)
        mean = state["mean"] / (1 - first ** state["count"])
        spread = (state["square"] / (1 - second ** state["count"])).sqrt()
        parameter.sub_(rate * mean / (spread + ADAM_EPS))
