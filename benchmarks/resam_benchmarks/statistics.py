"""Means, percentiles and differences with their uncertainty, by bootstrap (Efron and Tibshirani 1993).

Instances of one image are not independent, so quality is resampled by image; repeats of one scene share a drifting
machine, so latencies are compared pair by pair.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
LEVEL = 0.95
_CHUNK = 1 << 22  # bounds the (resamples x samples) tables below, in entries


@dataclass(frozen=True)
class Estimate:
    """A value and the interval it lies in with 95 % confidence; low and high are NaN where one sample says nothing."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def beyond(self, neutral: float) -> bool:
        """Whether the interval excludes `neutral` (0 for a difference, 1 for a ratio); False when there is none."""
        return self.low > neutral or self.high < neutral

    def to_json(self) -> dict[str, float | None]:
        return {"value": _finite(self.value), "low": _finite(self.low), "high": _finite(self.high)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Estimate:
        values = [math.nan if data.get(key) is None else float(data[key]) for key in ("value", "low", "high")]
        return cls(*values)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def mean(values: ArrayLike, groups: Sequence[Hashable], seed: int = 0) -> Estimate:
    """Mean over all values (n,), resampled by group (n,), such as the image an instance lies in.

    NaN for no values. With a single group the values themselves are resampled.
    """
    sums, counts = _by_group(values, groups)
    return _estimate(sums, counts, seed)


def mean_over_groups(values: ArrayLike, groups: Sequence[Hashable], seed: int = 0) -> Estimate:
    """Mean of the groups' means (the reference's mIoU is one over images), resampled by group."""
    sums, counts = _by_group(values, groups, split_single=False)
    if not len(sums):
        return Estimate(math.nan)
    return _estimate(sums / counts, np.ones(len(sums)), seed)


def paired_difference(values: ArrayLike, others: ArrayLike, groups: Sequence[Hashable], seed: int = 0) -> Estimate:
    """Mean of values - others, pair by pair, resampled by group; inside the noise unless `beyond(0)`."""
    return mean(np.asarray(values, np.float64) - np.asarray(others, np.float64), groups, seed)


def paired_ratio(values: ArrayLike, others: ArrayLike, seed: int = 0) -> Estimate:
    """Geometric mean of values / others, pair by pair (both positive); inside the noise unless `beyond(1)`."""
    logs = np.log(np.asarray(values, np.float64)) - np.log(np.asarray(others, np.float64))
    found = _estimate(logs, np.ones(len(logs)), seed)
    return Estimate(math.exp(found.value), math.exp(found.low), math.exp(found.high))


def median_ratio(values: ArrayLike, others: ArrayLike, seed: int = 0) -> Estimate:
    """Ratio of two medians of independent samples, as of two runs; inside the noise unless `beyond(1)`."""
    a, b = np.asarray(values, np.float64), np.asarray(others, np.float64)
    if not len(a) or not len(b):
        return Estimate(math.nan)
    value = float(np.median(a) / np.median(b))
    if len(a) < 2 or len(b) < 2:
        return Estimate(value)
    rng = np.random.default_rng(seed)
    return Estimate(value, *_interval(_resampled(a, 50, rng) / _resampled(b, 50, rng)))


def percentile(values: ArrayLike, q: float, seed: int = 0) -> Estimate:
    """The q-th percentile (0 to 100, linear interpolation) of samples (n,); NaN for none."""
    samples = np.asarray(values, np.float64)
    if not len(samples):
        return Estimate(math.nan)
    value = float(np.percentile(samples, q))
    if len(samples) < 2:
        return Estimate(value)
    return Estimate(value, *_interval(_resampled(samples, q, np.random.default_rng(seed))))


def _resampled(samples: NDArray[np.float64], q: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """The q-th percentile of `RESAMPLES` resamples, (RESAMPLES,)."""
    done, step = [], max(1, _CHUNK // len(samples))
    for start in range(0, RESAMPLES, step):
        rows = min(step, RESAMPLES - start)
        done.append(np.percentile(samples[rng.integers(0, len(samples), (rows, len(samples)))], q, axis=1))
    return np.concatenate(done)


def _by_group(
    values: ArrayLike, groups: Sequence[Hashable], split_single: bool = True
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and number of the values of each group."""
    array = np.asarray(values, np.float64)
    if len(array) != len(groups):
        raise ValueError(f"{len(array)} values but {len(groups)} groups")
    index = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    if len(index) == 1 and split_single:
        return array, np.ones(len(array))
    place = np.array([index[group] for group in groups], np.intp)
    return np.bincount(place, array, len(index)), np.bincount(place, minlength=len(index)).astype(np.float64)


def _estimate(sums: NDArray[np.float64], counts: NDArray[np.float64], seed: int) -> Estimate:
    """Ratio of the sums over all groups, with the interval from resampling the groups."""
    groups = len(sums)
    if not groups or not counts.sum():
        return Estimate(math.nan)
    value = float(sums.sum() / counts.sum())
    if groups < 2:
        return Estimate(value)
    rng = np.random.default_rng(seed)
    ratios, step = [], max(1, _CHUNK // groups)
    for start in range(0, RESAMPLES, step):
        draws = rng.multinomial(groups, np.full(groups, 1 / groups), size=min(step, RESAMPLES - start))
        ratios.append((draws @ sums) / (draws @ counts))
    return Estimate(value, *_interval(np.concatenate(ratios)))


def _interval(resampled: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(resampled, [50 * (1 - LEVEL), 100 - 50 * (1 - LEVEL)])
    return float(low), float(high)
