"""The linear probe against Newton's method, and against answers that are known."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from semdis_cli.evaluation.probe import STRENGTHS, Probe, choose_probe


def clouds(
    num_rows: int, num_classes: int, spread: float, seed: int = 0, num_features: int = 4
) -> tuple[Tensor, Tensor]:
    """Rows around a centre for each class, and the classes."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(num_classes, num_features, generator=generator)
    labels = torch.randint(num_classes, (num_rows,), generator=generator)
    return centres[labels] + spread * torch.randn(num_rows, num_features, generator=generator), labels


def newton(
    rows: NDArray[np.float64], labels: NDArray[np.int64], num_classes: int, strength: float
) -> NDArray[np.float64]:
    """The probabilities [M,C] of the regularised optimum, by Newton's method in float64 with the whole Hessian."""
    rows = np.concatenate([(rows - rows.mean(0)) / rows.std(0), np.ones((len(rows), 1))], 1)
    M, F = rows.shape
    weights, targets = np.zeros((F, num_classes)), np.eye(num_classes)[labels]
    ridge = strength * np.tile((np.arange(F) < F - 1)[:, None], num_classes).astype(float)
    for _ in range(30):
        probabilities = softmax(rows @ weights)
        gradient = rows.T @ (probabilities - targets) / M + ridge * weights
        blocks = np.einsum("ma,mb,mc,cd->acbd", rows, rows, probabilities, np.eye(num_classes))
        blocks -= np.einsum("ma,mb,mc,md->acbd", rows, rows, probabilities, probabilities)
        size = F * num_classes
        hessian = blocks.reshape(size, size) / M + np.diag(ridge.flatten())
        step = np.linalg.lstsq(hessian, gradient.flatten(), rcond=None)[0]
        weights -= step.reshape(F, num_classes)
    return softmax(rows @ weights)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    odds = np.exp(logits - logits.max(1, keepdims=True))
    shares: NDArray[np.float64] = odds / odds.sum(1, keepdims=True)
    return shares


@pytest.mark.parametrize("strength", [1.0, 0.01, 0.0001])
@pytest.mark.parametrize("num_classes", [2, 5])
def test_a_probe_is_the_optimum_that_newton_finds(strength: float, num_classes: int) -> None:
    rows, labels = clouds(150, num_classes, 1.0)
    expected = newton(rows.double().numpy(), labels.numpy(), num_classes, strength)
    found = Probe.untrained(rows, num_classes).fitted(rows, labels, strength).log_probabilities(rows).exp()
    assert found.sum(1) == pytest.approx(1, abs=1e-5)
    assert np.abs(found.double().numpy() - expected).max() < 2e-3


def test_where_a_fit_begins_makes_no_difference() -> None:
    rows, labels = clouds(200, 3, 1.0)
    cold = Probe.untrained(rows, 3).fitted(rows, labels, 1e-3)
    warm = Probe.untrained(rows, 3).fitted(rows, labels, 1.0).fitted(rows, labels, 1e-3)
    assert (cold.log_probabilities(rows) - warm.log_probabilities(rows)).abs().max() < 2e-2


def test_many_rows_are_summed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = clouds(100, 3, 1.0)
    whole = Probe.untrained(rows, 3).fitted(rows, labels, 0.1)
    monkeypatch.setattr("semdis_cli.evaluation.probe._LOGITS_AT_ONCE", 30)
    parts = Probe.untrained(rows, 3).fitted(rows, labels, 0.1)
    assert (whole.log_probabilities(rows) - parts.log_probabilities(rows)).abs().max() < 1e-3


def test_features_that_do_not_vary_do_no_harm() -> None:
    rows, labels = clouds(100, 2, 0.1)
    rows = torch.cat([rows, torch.full((100, 1), 7.3)], 1)
    found = Probe.untrained(rows, 2).fitted(rows, labels, 1e-3).log_probabilities(rows)
    assert found.isfinite().all()
    assert (found.argmax(1) == labels).all()


def test_separable_classes_are_all_found() -> None:
    rows, labels = clouds(400, 6, 0.05)
    chosen = choose_probe(rows[:300], labels[:300], torch.arange(300) % 4 == 0, 6)
    assert (chosen.probe.log_probabilities(rows[300:]).argmax(1) == labels[300:]).all()
    assert chosen.strength in STRENGTHS


def test_labels_of_chance_call_for_strong_regularisation() -> None:
    rows = torch.randn(300, 60, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(3, (300,), generator=torch.Generator().manual_seed(2))
    assert choose_probe(rows, labels, torch.arange(300) % 4 == 0, 3).strength >= 0.1
