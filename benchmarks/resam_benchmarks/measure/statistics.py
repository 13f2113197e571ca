"""Means, percentiles and differences with their uncertainty, by bootstrap (Efron and Tibshirani 1993).

Instances of one image are not independent, nor are repeats of one scene, so whole groups are resampled; rivals share a
drifting machine, so latencies are compared pair by pair. Percentile intervals are too narrow for few groups (for two or
three they are the range): they are widened as Student's t is (Hesterberg 2015, "expanded percentiles"), and fewer than
`MIN_GROUPS` groups have none.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 5000
LEVEL = 0.95
MIN_GROUPS = 6
"""Groups (images, or repeats where there are few images) below which an estimate has no interval: noise unknown."""
_CHUNK = 1 << 22  # bounds the (resamples x groups) tables below, in entries


@dataclass(frozen=True)
class Estimate:
    """A value and the interval it lies in with 95 % confidence; low and high are NaN where too few samples say
    nothing."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return not math.isnan(self.low)

    def beyond(self, neutral: float) -> bool:
        """Whether the interval excludes `neutral` (0 for a difference, 1 for a ratio); False when there is none."""
        return self.low > neutral or self.high < neutral


def mean(values: ArrayLike, groups: Sequence[Hashable], seed: int = 0) -> Estimate:
    """Mean over all values (n,), resampled by group (n,), such as the image an instance lies in. NaN for no values."""
    array, place, count = _grouped(values, groups)
    sums = np.asarray(np.bincount(place, array, count), np.float64)
    return _mean(sums, np.bincount(place, minlength=count).astype(np.float64), seed)


def mean_over_groups(values: ArrayLike, groups: Sequence[Hashable], seed: int = 0) -> Estimate:
    """Mean of the groups' means (the reference's mIoU is one over images), resampled by group."""
    array, place, count = _grouped(values, groups)
    sums = np.bincount(place, array, count)
    return _mean(sums / np.bincount(place, minlength=count), np.ones(count), seed)


def paired_difference(values: ArrayLike, others: ArrayLike, groups: Sequence[Hashable], seed: int = 0) -> Estimate:
    """Mean of values - others, pair by pair, resampled by group; inside the noise unless `beyond(0)`."""
    return mean(np.asarray(values, np.float64) - np.asarray(others, np.float64), groups, seed)


def paired_ratio(values: ArrayLike, others: ArrayLike, groups: Sequence[Hashable], seed: int = 0) -> Estimate:
    """Geometric mean of values / others, pair by pair (both positive), resampled by group (n,), such as the scene of
    several repeats; inside the noise unless `beyond(1)`."""
    found = mean(np.log(np.asarray(values, np.float64)) - np.log(np.asarray(others, np.float64)), groups, seed)
    return Estimate(math.exp(found.value), math.exp(found.low), math.exp(found.high))


def median_ratio(values: ArrayLike, others: ArrayLike, seed: int = 0) -> Estimate:
    """Ratio of two medians of independent samples, as of two runs; inside the noise unless `beyond(1)`."""
    a, b = np.asarray(values, np.float64), np.asarray(others, np.float64)
    if not len(a) or not len(b):
        return Estimate(math.nan)
    value = float(np.median(a) / np.median(b))
    fewer = min(len(a), len(b))
    if fewer < MIN_GROUPS:
        return Estimate(value)
    medians = [
        _resampled_medians(samples, np.arange(len(samples)), len(samples), RESAMPLES * (seed + run))
        for run, samples in enumerate((a, b))  # of two runs: drawn independently
    ]
    return Estimate(value, *_interval(medians[0] / medians[1], fewer))


def median(values: ArrayLike, groups: Sequence[Hashable], seed: int = 0) -> Estimate:
    """Median of samples (n,), resampled by group (n,); NaN for none."""
    array, place, count = _grouped(values, groups)
    if count < MIN_GROUPS:
        return Estimate(float(np.median(array)) if count else math.nan)
    resampled = _resampled_medians(array, place, count, seed)
    return Estimate(float(np.median(array)), *_interval(resampled, count))


def percentile(values: ArrayLike, q: float) -> float:
    """The q-th percentile (50 to 100, linear interpolation) of samples (n,).

    NaN for none, and above the median where not one sample is expected beyond it (p90 of 9, p99 of 99): the figure
    would be the largest sample under a name that claims more.
    """
    samples = np.asarray(values, np.float64)
    if not len(samples) or (q > 50 and len(samples) * (100 - q) < 100 - 1e-9):
        return math.nan
    return float(np.percentile(samples, q))


def student_t(freedom: int) -> float:
    """The value that Student's t with so many degrees of freedom (from 5) exceeds with probability (1 - LEVEL) / 2.

    Abramowitz and Stegun 26.7.5, to 0.1 %.
    """
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))


def _grouped(values: ArrayLike, groups: Sequence[Hashable]) -> tuple[NDArray[np.float64], NDArray[np.intp], int]:
    """The values (n,), the number of each one's group (n,), and how many groups there are."""
    array = np.asarray(values, np.float64)
    if len(array) != len(groups):
        raise ValueError(f"{len(array)} values but {len(groups)} groups")
    index = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    return array, np.array([index[group] for group in groups], np.intp), len(index)


def _draws(groups: int, seed: int, width: int = 0) -> Iterator[NDArray[np.float64]]:
    """How often each group is drawn, (R, groups), chunk by chunk, `RESAMPLES` rows in all; width: of what is made of
    it."""
    step = min(RESAMPLES, max(1, _CHUNK // max(groups, width)))
    for start in range(0, RESAMPLES, step):
        yield _draw(groups, min(step, RESAMPLES - start), seed + start)


@functools.lru_cache(maxsize=2)  # the figures of a table have the same groups
def _draw(groups: int, rows: int, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=rows).astype(np.float64)


def _mean(sums: NDArray[np.float64], counts: NDArray[np.float64], seed: int) -> Estimate:
    """Ratio of the sums over all groups, with the interval from resampling the groups."""
    groups = len(sums)
    if not groups:
        return Estimate(math.nan)
    value = float(sums.sum() / counts.sum())
    if groups < MIN_GROUPS:
        return Estimate(value)
    resampled = np.concatenate([(drawn @ sums) / (drawn @ counts) for drawn in _draws(groups, seed)])
    return Estimate(value, *_interval(resampled, groups))


def _resampled_medians(
    samples: NDArray[np.float64], place: NDArray[np.intp], groups: int, seed: int
) -> NDArray[np.float64]:
    """The median of each of `RESAMPLES` resamples of whole groups, (RESAMPLES,). place: (n,) the group of each
    sample."""
    order = np.argsort(samples)
    ranked, owner, done = samples[order], place[order], []
    for drawn in _draws(groups, seed, len(samples)):
        upto = np.cumsum(drawn[:, owner], axis=1)  # of each resample, sorted: samples up to and with this one
        count = upto[:, -1].astype(np.intp)
        middle = (ranked[(upto <= rank[:, None]).sum(axis=1)] for rank in ((count - 1) // 2, count // 2))
        done.append(sum(middle) / 2)
    return np.concatenate(done)


def _interval(resampled: NDArray[np.float64], groups: int) -> tuple[float, float]:
    """The percentiles of the resamples that Student's t for so many groups asks for, in place of 2.5 and 97.5."""
    freedom = groups - 1
    tail = 100 * NormalDist().cdf(-student_t(freedom) * math.sqrt(groups / freedom))
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return float(low), float(high)
