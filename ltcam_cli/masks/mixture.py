"""A small Gaussian mixture, fitted by expectation and maximisation, the same each time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

FLOOR = 1e-5  # added to variances: of pixels in [0, 1], less than a grey level


@dataclass(frozen=True)
class Mixture:
    """Weights (K,), means (K, D) and covariances (K, D, D)."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    def each(self, rows: np.ndarray) -> np.ndarray:
        """(N, D) -> (N, K): the log of each component's share of the density."""
        parts = []
        for weight, mean, covariance in zip(
            self.weights, self.means, self.covariances, strict=True
        ):
            root = np.linalg.cholesky(covariance)
            scaled = np.linalg.solve(root, (rows - mean).T)
            scale = np.log(np.diag(root)).sum() + rows.shape[1] / 2 * np.log(2 * np.pi)
            parts.append(np.log(weight) - scale - (scaled**2).sum(axis=0) / 2)
        return np.stack(parts, axis=1)

    def log_density(self, rows: np.ndarray) -> np.ndarray:
        """(N, D) -> (N,)."""
        return logsumexp(self.each(rows), axis=1)


def fit_mixture(rows: np.ndarray, components: int, rounds: int = 10) -> Mixture:
    """Fit a mixture to rows (N, D), N at least `components`.

    It starts from equal parts of the rows along the direction in which they vary most.
    """
    centred = rows - rows.mean(axis=0)
    direction = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    ranks = np.argsort(np.argsort(centred @ direction, kind="stable"), kind="stable")
    shares = np.eye(components)[ranks * components // len(rows)]
    for _ in range(rounds):
        mixture = _of_shares(rows, shares)
        each = mixture.each(rows)
        shares = np.exp(each - logsumexp(each, axis=1, keepdims=True))
    return _of_shares(rows, shares)


def _of_shares(rows: np.ndarray, shares: np.ndarray) -> Mixture:
    counts = shares.sum(axis=0) + 1e-9
    means = shares.T @ rows / counts[:, None]
    covariances = []
    for share, count, mean in zip(shares.T, counts, means, strict=True):
        centred = rows - mean
        spread = (centred * share[:, None]).T @ centred / count
        covariances.append(spread + FLOOR * np.eye(rows.shape[1]))
    return Mixture(counts / counts.sum(), means, np.stack(covariances))
