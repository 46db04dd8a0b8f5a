"""The histogram of latencies, beside the sorted list of them all."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpim_lab.latency_histogram import LatencyHistogram

SECONDS = st.lists(
    st.floats(min_value=1e-6, exclude_min=True, max_value=100.0), min_size=1, max_size=200
)
FRACTIONS = st.floats(min_value=0.0, max_value=1.0)


def counted(seconds):
    latencies = LatencyHistogram()
    for second in seconds:
        latencies.add(second)
    return latencies


@given(SECONDS, FRACTIONS)
def test_a_percentile_is_right_to_one_percent(seconds, fraction):
    """Against the sorted list, whatever the latencies above 1 µs to 100 s."""
    exact_s = sorted(seconds)[math.ceil(max(1.0, fraction * len(seconds))) - 1]
    assert counted(seconds).percentile_ms(fraction) == pytest.approx(exact_s * 1e3, rel=0.01)


@given(SECONDS, FRACTIONS, FRACTIONS)
def test_percentiles_grow_and_stay_below_the_maximum(seconds, one, other):
    """And the maximum is exact."""
    latencies = counted(seconds)
    low_ms, high_ms = (latencies.percentile_ms(fraction) for fraction in sorted((one, other)))
    assert low_ms <= high_ms <= latencies.max_s * 1e3
    assert latencies.max_s == max(seconds)


@given(SECONDS, SECONDS, FRACTIONS)
def test_merged_latencies_are_those_of_both(some, others, fraction):
    """As if one had counted all."""
    merged = counted(some)
    merged.merge(counted(others))
    both = counted(some + others)
    assert (merged.counts, merged.max_s) == (both.counts, both.max_s)
    assert merged.percentile_ms(fraction) == both.percentile_ms(fraction)


def test_latencies_beyond_the_last_bucket_are_counted_too():
    """A run cannot last so long; the maximum says what the percentile cannot."""
    latencies = counted([1_000.0])
    assert latencies.percentile_ms(0.5) <= latencies.max_s * 1e3 == 1e6
