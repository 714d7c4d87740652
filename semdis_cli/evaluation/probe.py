"""Linear probe: multinomial logistic regression on features of latents."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from semdis_cli.stops import look

STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # of L2, strongest first: each fit begins where the one before ended
_MOST_STEPS = 200
_HISTORY = 20  # each has the size of the weights twice
_LOGITS_AT_ONCE = 1 << 24
_LEAST_STD = 1e-6  # of the largest: below it a feature does not vary


@dataclass(frozen=True, eq=False)
class Probe:
    """Weights [F+1,C] float32 of a linear classifier, the last row its bias, and what features [F] are scaled by."""

    weights: Tensor
    mean: Tensor
    std: Tensor

    @classmethod
    def untrained(cls, rows: Tensor, num_classes: int) -> Self:
        """Return the probe that gives all classes the same, scaled for `rows` [M,F]."""
        std = rows.std(0, correction=0)
        std = torch.where(std > _LEAST_STD * std.max(), std, torch.inf)
        return cls(torch.zeros(rows.shape[1] + 1, num_classes), rows.mean(0), std)

    def log_probabilities(self, rows: Tensor) -> Tensor:
        """Return the logarithm of the probability of each class, [M,C], for rows [M,F]."""
        return torch.cat([log_softmax(part @ self.weights, 1) for part in _parts(self._scaled(rows), self.weights)])

    def fitted(self, rows: Tensor, labels: Tensor, strength: float, max_steps: int = _MOST_STEPS) -> Self:
        """Return the probe with the least mean cross-entropy + strength / 2 * |weights|^2, the bias left out of it.

        `rows` [M,F], `labels` [M]. L-BFGS over all rows (Liu and Nocedal 1989), from these weights on: the loss is
        convex, so only rounding depends on where it begins.
        """
        weights = self.weights.clone().requires_grad_(True)
        optimizer = torch.optim.LBFGS(
            [weights],
            max_iter=max_steps,
            tolerance_grad=1e-5,
            tolerance_change=1e-8,
            history_size=_HISTORY,
            line_search_fn="strong_wolfe",
        )
        optimizer.step(_closure(weights, self._scaled(rows), labels, strength))
        return type(self)(weights.detach(), self.mean, self.std)

    def _scaled(self, rows: Tensor) -> Tensor:
        """Return rows of mean 0 and standard deviation 1, and a last feature that is 1."""
        scaled = (rows - self.mean) / self.std
        return torch.cat([scaled, torch.ones(len(rows), 1)], 1)


def _parts(rows: Tensor, weights: Tensor) -> Iterator[Tensor]:
    """Cut rows so that there are not many logits at once."""
    yield from rows.split(max(1, _LOGITS_AT_ONCE // weights.shape[1]))


def _closure(weights: Tensor, rows: Tensor, labels: Tensor, strength: float) -> Callable[[], float]:
    """Return the function that gives the loss, and sets its gradient at `weights`."""

    @torch.no_grad()
    def closure() -> float:
        look()
        penalised = weights.clone()
        penalised[-1] = 0
        loss, gradient = 0.0, strength * penalised
        start = 0
        for part in _parts(rows, weights):
            logs = log_softmax(part @ weights, 1)
            numbers, chosen = torch.arange(len(part)), labels[start : start + len(part)]
            loss -= float(logs[numbers, chosen].double().sum()) / len(rows)
            residual = logs.exp_()
            residual[numbers, chosen] -= 1
            gradient += part.T @ residual / len(rows)
            start += len(part)
        weights.grad = gradient
        return loss + strength / 2 * float(penalised.square().sum())

    return closure


@dataclass(frozen=True, eq=False)
class ChosenProbe:
    """A probe, and the strength of L2 that was best for other images than those it was fitted to."""

    probe: Probe
    strength: float


def choose_probe(rows: Tensor, labels: Tensor, is_validation: Tensor, num_classes: int) -> ChosenProbe:
    """Fit a probe for each of `STRENGTHS`, take that of the least cross-entropy in validation, and fit it to all rows.

    `rows` [M,F] float32, `labels` [M], `is_validation` [M] bool.
    """
    train, validation = (rows[~is_validation], labels[~is_validation]), (rows[is_validation], labels[is_validation])
    probe = Probe.untrained(train[0], num_classes)
    best = (float("inf"), STRENGTHS[0], probe)
    for strength in STRENGTHS:
        probe = probe.fitted(*train, strength)
        loss = float(cross_entropy(probe.log_probabilities(validation[0]), validation[1]))
        if loss < best[0]:
            best = (loss, strength, probe)
    return ChosenProbe(best[2].fitted(rows, labels, best[1]), best[1])
