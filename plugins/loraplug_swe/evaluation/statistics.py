"""Statistics: confidence intervals, pass@k, and a paired test of two models."""

from __future__ import annotations

from math import comb, prod, sqrt

Z95 = 1.959963984540054  # 97.5 % point of the normal distribution


def wilson(share: float, trials: int, z: float = Z95) -> tuple[float, float]:
    """The Wilson score interval of a proportion over independent trials (Wilson 1927); (0, 1) without trials.

    It stays within 0 to 1, and is valid for few trials and for proportions of 0 and 1, unlike the normal interval.
    """
    if not trials:
        return 0.0, 1.0
    square = z * z / trials
    middle = (share + square / 2) / (1 + square)
    half = z / (1 + square) * sqrt(share * (1 - share) / trials + square / trials / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def pass_at(k: int, samples: int, right: int) -> float:
    """Unbiased estimate that at least one of k answers is right, from `right` among `samples` answers to one task.

    1 - C(n-c, k) / C(n, k), as a product so that it stays exact for large n: Chen et al. 2021, "Evaluating Large
    Language Models Trained on Code", section 2.1.
    """
    if not 1 <= k <= samples or not 0 <= right <= samples:
        raise ValueError(f"pass@{k} of {right} right among {samples}")
    if samples - right < k:
        return 1.0
    return 1.0 - prod(1.0 - k / n for n in range(samples - right + 1, samples + 1))


def sign_test(first: int, second: int) -> float:
    """Two-sided p that tasks which only one of two models resolves fall this unevenly by chance (exact McNemar)."""
    n, low = first + second, min(first, second)
    return min(1.0, 2 * sum(comb(n, at) for at in range(low + 1)) / 2**n) if n else 1.0
