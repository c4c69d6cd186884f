"""How close a fresh run must come to a committed output: `notebooks/conftest.py`, in words and numbers."""

import importlib.util

import pytest
from nbformat.v4 import new_output

from gpcore import paths

spec = importlib.util.spec_from_file_location("outputs", paths.ROOT / "notebooks" / "conftest.py")
assert spec and spec.loader
outputs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(outputs)


@pytest.mark.parametrize(
    ("test", "reference", "expected"),
    [
        ("gain +1.01 [+0.12]", "gain +1.01 [+0.12]", True),
        ("0.98", "0.96", True),  # two of the last digit
        ("0.99", "0.96", False),
        ("102.9", "100.0", True),  # three in a hundred
        ("103.1", "100.0", False),
        ("+1.01", "-1.01", False),
        ("+0.03", "−0.03", False),
        ("-0.00", "0.00", True),
        ("  9.98 |", "10.01 |", True),  # a column as wide as its numbers
        ("3e-06", "4e-06", True),
        ("3e-05", "3e-06", False),
        ("espresso .95", "espresso .96", True),
        ("palace .96", "espresso .96", False),
        ("holds 0.5", "fails 0.5", False),
        ("n = 301", "n = 300", False),  # a count
        ("scene 18, 5 of 50.", "scene 18, 5 of 51.", False),
        ("0.5 0.5", "0.5", False),
        ("<td>0.0</td>", "<td>0.000</td>", True),
        ("nan", "0.5", False),
        ("3e+999", "4e+999", False),
    ],
)
def test_numbers_with_decimals_may_differ_a_little_and_nothing_else(test, reference, expected):
    assert outputs.agree(test, reference) is expected


def test_what_agrees_is_taken_for_the_committed_text_and_the_rest_is_left():
    committed = [
        new_output("stream", text="loss 0.500\n"),
        new_output("display_data", {"text/plain": "0.96", "text/html": "<b>0.96</b>", "image/png": "a0.96"}),
    ]
    fresh = [
        new_output("stream", text="loss 0.501\n"),
        new_output("display_data", {"text/plain": "0.97", "text/html": "<i>0.97</i>", "image/png": "a0.97"}),
    ]
    settled = outputs.settled(fresh, committed)
    assert settled[0] == committed[0] and settled[1].data["text/plain"] == "0.96"
    assert settled[1].data["text/html"] == "<i>0.97</i>" and fresh[1].data["text/plain"] == "0.97"
    assert settled[1].data["image/png"] == "a0.97"  # base64
    assert outputs.settled(fresh[:1], committed) == fresh[:1]
