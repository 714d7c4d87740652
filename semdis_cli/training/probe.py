"""How much meaning latents carry: how well a linear map, or the nearest neighbours, find another network's features."""

import torch
from torch import Tensor

_RIDGE = 1e-3  # of the mean variance of the inputs


def linear_probe_r2(latents: Tensor, features: Tensor) -> float:
    """Part of the features' variance that a linear map of the latents predicts, on samples it was not fitted to.

    `latents` [N,Z] and `features` [N,F], a row a sample. Ridge regression fitted to the first half and measured on the
    second (Alain & Bengio 2016, linear classifier probes, for regression): 1 - squared error / variance, 1 at best.
    """
    x, y = latents.double(), features.double()
    half = len(x) // 2
    x, y = x - x[:half].mean(dim=0), y - y[:half].mean(dim=0)
    covariance = x[:half].T @ x[:half]
    ridge = _RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=x.dtype)
    weights = torch.linalg.solve(covariance + ridge, x[:half].T @ y[:half])
    error = (y[half:] - x[half:] @ weights).square().sum()
    return float(1 - error / y[half:].square().sum())


def neighbour_agreement(latents: Tensor, features: Tensor, count: int = 10) -> float:
    """Part of the `count` nearest neighbours of each sample, by cosine, that latents and features agree on: 0..1.

    `latents` [N,Z], `features` [N,F]: the mutual k-nearest-neighbour measure of Huh et al. 2024 (arXiv 2405.07987).
    Chance is `count` / (N - 1).
    """
    near = [_neighbours(samples.double(), count) for samples in (latents, features)]
    return float((near[0] & near[1]).sum() / (count * len(latents)))


def _neighbours(samples: Tensor, count: int) -> Tensor:
    """[N,D] -> bool [N,N]: whether a column is among the `count` nearest of its row, itself left out."""
    x = samples - samples.mean(dim=0)
    x = x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)
    similarity = (x @ x.T).fill_diagonal_(-torch.inf)
    near = torch.zeros(similarity.shape, dtype=torch.bool)
    return near.scatter_(1, similarity.topk(count, dim=1).indices, value=True)
