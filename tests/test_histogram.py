"""Counts and thresholds are numpy's and scikit-image's, to the digit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import exposure, filters

from ltcam_cli.masks.histogram import histogram

LOOKS = {
    "continuous": lambda x: x,
    "levels": lambda x: np.round(x * 60) / 60,  # many values on an edge
    "mostly zero": lambda x: np.maximum(x - 0.8, 0),
    "peaked": lambda x: x**8,
    "signed": lambda x: x - 0.5,
    "far from zero": lambda x: x + 1000,  # edges are rounded by more than a part of a bin
}


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(LOOKS)),
    st.integers(0, 2**32 - 1),
    st.integers(-40, 37),
    st.sampled_from([2, 7, 256, 300]),
    st.sampled_from([np.float32, np.float64]),
)
def test_counts_are_numpys(look, seed, exponent, bins, dtype):
    values = LOOKS[look](np.random.default_rng(seed).random((40, 31))) * 10.0**exponent
    values = values.astype(dtype)
    if values.min() == values.max():
        return
    counts, centres = histogram(values, bins)
    expected, expected_centres = exposure.histogram(values.ravel(), bins, source_range="image")
    np.testing.assert_array_equal(counts, expected)
    np.testing.assert_array_equal(centres, expected_centres)
    np.testing.assert_array_equal(counts, np.histogram(values, bins)[0])
    assert centres.dtype == expected_centres.dtype


@pytest.mark.parametrize("bins", [5, 256])
def test_values_on_and_beside_every_edge(bins):
    edges = np.histogram_bin_edges(np.float32([0.1, 0.7]), bins)
    beside = [np.nextafter(edges, np.float32(side)) for side in (-np.inf, np.inf)]
    values = np.clip(np.concatenate([edges, *beside]), edges[0], edges[-1])
    np.testing.assert_array_equal(histogram(values, bins)[0], np.histogram(values, bins)[0])


@pytest.mark.parametrize("threshold", [filters.threshold_otsu, filters.threshold_yen])
def test_thresholds_of_the_histogram_are_those_of_the_map(threshold):
    for seed in range(20):
        values = np.random.default_rng(seed).random((60, 50), dtype=np.float32) ** 4
        assert threshold(hist=histogram(values)) == threshold(values)
