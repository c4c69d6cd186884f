import pandas as pd
import pytest
import torch

from gpcore import regions


def test_regions_by_hand():
    """Class 1: one region is found again, one stays absent, one is too small; class 0 is lost."""
    truth = torch.zeros(30, 40, dtype=torch.long)
    truth[:10, :10] = truth[20:, :10] = 1  # 100 pixels each
    truth[:7, 30:37] = 1  # 49 pixels
    before = torch.zeros_like(truth)
    before[20, :9] = 1  # 9 of 100 right: absent
    after = torch.ones_like(truth)
    after[20:, :10] = 0
    after[24:, :8] = 1  # 48 of 100
    assert regions.count(before, after, truth, 255) == {"absent": 2, "recovered": 1, "lost": 1}
    truth[:10, :10] = 255
    assert regions.count(before, after, truth, 255) == {"absent": 1, "recovered": 0, "lost": 1}


def test_more_recovered_is_counted_per_hundred_images():
    rows = pd.DataFrame({"image": [0, 0, 1, 1], "method": ["a", "b"] * 2, "recovered": [2, 0, 1, 2]})
    found = regions.more_recovered(rows, "a", "b")
    assert found.value == pytest.approx(50)  # two more in the first image, one fewer in the second
    assert (found.low, found.high) == (-100, 200)
