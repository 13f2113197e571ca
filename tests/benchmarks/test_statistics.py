"""Intervals: they cover what they should, follow the groups, and say when they know nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from resam_benchmarks import statistics
from resam_benchmarks.statistics import Estimate


def test_the_interval_of_a_mean_covers_the_truth_about_as_often_as_it_claims() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(150):
        found = statistics.mean(rng.normal(3.0, 1.0, 40), range(40), seed=trial)
        hits += found.low <= 3.0 <= found.high
    assert 0.88 <= hits / 150 <= 0.99


def test_values_of_one_image_count_as_one_draw() -> None:
    rng = np.random.default_rng(1)
    images = rng.normal(0, 1, 12)
    values, groups = np.repeat(images, 50), np.repeat(np.arange(12), 50).tolist()
    clustered = statistics.mean(values, groups)
    naive = statistics.mean(values, range(len(values)))
    assert clustered.value == pytest.approx(values.mean())
    assert clustered.high - clustered.low > 4 * (naive.high - naive.low)
    # with equal groups it is the interval of the twelve means
    assert clustered.high - clustered.low == pytest.approx(2 * 1.96 * images.std() / math.sqrt(12), rel=0.2)


def test_mean_over_images_weighs_images_not_instances() -> None:
    values, groups = [1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"]
    assert statistics.mean(values, groups).value == 0.75
    assert statistics.mean_over_groups(values, groups).value == 0.5


def test_pairs_cancel_what_both_share() -> None:
    rng = np.random.default_rng(2)
    drift = np.exp(rng.normal(0, 0.5, 60))  # a machine that slows down and recovers
    ours, theirs = drift * np.exp(rng.normal(0, 0.02, 60)), 1.1 * drift * np.exp(rng.normal(0, 0.02, 60))
    paired = statistics.paired_ratio(theirs, ours)
    assert paired.beyond(1)
    assert paired.value == pytest.approx(1.1, rel=0.02)
    assert not statistics.median_ratio(theirs, ours).beyond(1)


def test_equal_rivals_differ_inside_the_noise() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.6, 0.1, (2, 80))
    assert not statistics.paired_difference(a, b, range(80)).beyond(0)
    assert statistics.paired_difference(a + 0.2, b, range(80)).beyond(0)


def test_one_sample_has_a_value_and_no_interval() -> None:
    for found in (
        statistics.mean([2.0], ["a"]),
        statistics.percentile([2.0], 50),
        statistics.paired_ratio([2.0], [1.0]),
    ):
        assert found.value == 2.0
        assert math.isnan(found.low)
        assert not found.beyond(0)
    assert math.isnan(statistics.mean([], []).value)


def test_percentiles_interpolate_and_estimates_survive_json() -> None:
    assert statistics.percentile([1, 2, 3, 4], 50).value == 2.5
    estimate = Estimate(0.5, math.nan, 0.7)
    back = Estimate.from_json(estimate.to_json())
    assert (back.value, back.high) == (0.5, 0.7)
    assert math.isnan(back.low)
