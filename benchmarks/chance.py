"""Binomial chances, for what was counted: k events in n tries that are independent and equally likely.

Bounds are one-sided and exact (Clopper and Pearson, Biometrika 1934): with no event in n, 1 - (1 - c)^(1/n).
"""

from __future__ import annotations

import math

__all__ = ["at_least", "at_most", "upper_bound"]


def at_most(k: int, n: int, p: float) -> float:
    """The probability of k events or fewer in n tries of probability p."""
    if k >= n or p <= 0.0:
        return 1.0
    if k < 0 or p >= 1.0:
        return 0.0
    choose = math.lgamma(n + 1)
    found = math.fsum(
        math.exp(choose - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p) + (n - i) * math.log1p(-p))
        for i in range(k + 1)
    )
    return min(1.0, found)


def at_least(k: int, n: int, p: float) -> float:
    """The probability of k events or more in n tries of probability p; summed by itself, since it may be small."""
    return at_most(n - k, n, 1.0 - p)


def upper_bound(k: int, n: int, confidence: float = 0.95) -> float:
    """The largest probability under which so few events in n are not improbable; 1 where n is 0."""
    if k >= n:
        return 1.0
    low, high = k / n, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if at_most(k, n, middle) > 1 - confidence else (low, middle)
    return high
