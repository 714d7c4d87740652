"""k-NN by cosine, against a slow reference."""

import math

import pytest
import torch
from torch import Tensor

from semdis_cli.evaluation.neighbours import neighbour_votes


def slow_votes(rows: Tensor, labels: Tensor, files: Tensor, num_classes: int, k: int) -> list[list[float]]:
    """The same, feature by feature and pair by pair."""
    votes = [[0.0] * num_classes for _ in rows]
    for image, features in enumerate(rows):
        for feature in features:
            pairs = [
                (float(feature @ other / feature.norm() / other.norm()), int(labels[neighbour]))
                for neighbour, others in enumerate(rows)
                for other in others
                if files[neighbour] != files[image]
            ]
            for cosine, label in sorted(pairs, reverse=True)[:k]:
                votes[image][label] += math.exp(cosine / 0.07)
    return votes


@pytest.mark.parametrize(("num_features", "k"), [(1, 1), (1, 5), (3, 4), (2, 500)])
def test_votes_are_those_of_the_definition(num_features: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semdis_cli.evaluation.neighbours._SIMILARITIES_AT_ONCE", 100)
    generator = torch.Generator().manual_seed(k)
    rows = torch.randn(24, num_features, 6, generator=generator)
    labels, files = torch.randint(3, (24,), generator=generator), torch.arange(24) // 2
    found = neighbour_votes(rows, labels, files, 3, k)
    for image, votes in enumerate(slow_votes(rows, labels, files, 3, k)):
        assert found[image].tolist() == pytest.approx(votes, rel=1e-4)


def test_crops_of_one_file_do_not_vouch_for_one_another() -> None:
    rows = torch.randn(10, 1, 8, generator=torch.Generator().manual_seed(0)).repeat_interleave(2, 0)
    labels = torch.arange(10).repeat_interleave(2)
    apart = neighbour_votes(rows, labels, torch.arange(20), 10, 1)
    together = neighbour_votes(rows, labels, labels, 10, 1)
    assert (apart.argmax(1) == labels).all()
    assert (together.argmax(1) != labels).all()
