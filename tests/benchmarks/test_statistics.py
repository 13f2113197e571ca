"""Intervals: they cover what they should, follow the groups, and say when they know nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from resam_benchmarks.measure import statistics


def test_the_interval_of_a_mean_covers_the_truth_about_as_often_as_it_claims() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(150):
        found = statistics.mean(rng.normal(3.0, 1.0, 40), range(40))
        hits += found.low <= 3.0 <= found.high
    assert 0.88 <= hits / 150 <= 0.99


@pytest.mark.parametrize("groups", [6, 8, 12])
def test_few_groups_have_an_interval_that_is_wide_enough(groups: int) -> None:
    """The plain percentile interval of six normal values covers 84 %, that of Student's t 95 %."""
    rng, trials, hits, plain, exact = np.random.default_rng(groups), 400, 0, [], []
    for _ in range(trials):
        values = rng.normal(0.0, 1.0, groups)
        found = statistics.mean(values, range(groups))
        hits += found.low <= 0.0 <= found.high
        plain.append(found.high - found.low)
        exact.append(2 * statistics.student_t(groups - 1) * values.std(ddof=1) / math.sqrt(groups))
    assert 0.92 <= hits / trials <= 0.98
    assert np.mean(plain) == pytest.approx(np.mean(exact), rel=0.1)


def test_students_t_is_that_of_the_tables() -> None:
    # t(0.975) of any textbook: degrees of freedom and value
    for freedom, value in ((5, 2.5706), (6, 2.4469), (9, 2.2622), (19, 2.0930), (59, 2.0010), (10_000, 1.9602)):
        assert statistics.student_t(freedom) == pytest.approx(value, rel=1.2e-3)


@pytest.mark.parametrize("groups", [1, 2, 3, 5])
def test_fewer_than_six_groups_have_no_interval_however_many_values_they_hold(groups: int) -> None:
    rng = np.random.default_rng(0)
    values, owners = rng.uniform(1, 2, 40 * groups), np.repeat(np.arange(groups), 40).tolist()
    for found in (
        statistics.mean(values, owners),
        statistics.mean_over_groups(values, owners),
        statistics.median(values, owners),
        statistics.paired_ratio(values, values[::-1], owners),
        statistics.paired_difference(values, values[::-1], owners),
        statistics.median_ratio(values[:groups], values[-groups:]),
    ):
        assert math.isfinite(found.value)
        assert not found.known
        assert not found.beyond(0)


def test_the_interval_of_a_median_is_that_of_a_slow_bootstrap_of_whole_groups() -> None:
    rng = np.random.default_rng(5)
    owners = np.repeat(np.arange(9), rng.integers(1, 6, 9))
    values = rng.normal(0, 1, len(owners)) + 3 * rng.normal(0, 1, 9)[owners]
    parts = [values[owners == group] for group in range(9)]
    slow = [np.median(np.concatenate([parts[i] for i in rng.integers(0, 9, 9)])) for _ in range(8000)]
    # by scipy: 100 * norm.cdf(-t.ppf(0.975, 8) * (9 / 8) ** 0.5)
    low, high = np.percentile(slow, [0.7223, 100 - 0.7223])
    found = statistics.median(values, owners.tolist())
    assert found.value == np.median(values)
    spread = float(np.std(slow))
    assert (found.low, found.high) == (pytest.approx(low, abs=0.3 * spread), pytest.approx(high, abs=0.3 * spread))


def test_a_percentile_of_too_few_samples_is_none() -> None:
    """The p99 of six samples is their largest under a name that claims more."""
    samples = np.arange(1.0, 100.0)
    assert math.isnan(statistics.percentile(samples[:9], 90))
    assert statistics.percentile(samples[:10], 90) == pytest.approx(9.1)
    assert math.isnan(statistics.percentile(samples, 99))
    assert statistics.percentile([*samples, 100.0], 99) == pytest.approx(99.01)
    assert statistics.percentile([7.0], 50) == 7.0
    assert math.isnan(statistics.percentile([], 50))


def test_values_of_one_image_count_as_one_draw() -> None:
    rng = np.random.default_rng(1)
    images = rng.normal(0, 1, 12)
    values, groups = np.repeat(images, 50), np.repeat(np.arange(12), 50).tolist()
    clustered = statistics.mean(values, groups)
    naive = statistics.mean(values, range(len(values)))
    assert clustered.value == pytest.approx(values.mean())
    assert clustered.high - clustered.low > 4 * (naive.high - naive.low)
    # with equal groups it is the interval of the twelve means
    exact = 2 * 2.201 * images.std(ddof=1) / math.sqrt(12)  # Student's t, 11 degrees of freedom
    assert clustered.high - clustered.low == pytest.approx(exact, rel=0.2)


def test_mean_over_images_weighs_images_not_instances() -> None:
    values, groups = [1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"]
    assert statistics.mean(values, groups).value == 0.75
    assert statistics.mean_over_groups(values, groups).value == 0.5


def test_pairs_cancel_what_both_share() -> None:
    rng = np.random.default_rng(2)
    drift = np.exp(rng.normal(0, 0.5, 60))  # a machine that slows down and recovers
    ours, theirs = drift * np.exp(rng.normal(0, 0.02, 60)), 1.1 * drift * np.exp(rng.normal(0, 0.02, 60))
    paired = statistics.paired_ratio(theirs, ours, range(60))
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
        statistics.median([2.0], ["a"]),
        statistics.paired_ratio([2.0], [1.0], ["a"]),
    ):
        assert found.value == 2.0
        assert math.isnan(found.low)
        assert not found.beyond(0)
    assert math.isnan(statistics.mean([], []).value)


def test_percentiles_interpolate() -> None:
    assert statistics.percentile([1, 2, 3, 4], 50) == 2.5
