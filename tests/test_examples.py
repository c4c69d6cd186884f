"""The examples in the docstrings of what users call: each runs by itself and prints what it says."""

import doctest
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from gpcore import GuidedPerturbation, guide, sweep
from gpcore.attacks import pgd
from gpcore.denoise import refine
from gpcore.synthesis import inpaint


@pytest.mark.parametrize("called", [guide, sweep, GuidedPerturbation, pgd, inpaint, refine], ids=lambda f: f.__name__)
def test_example(called: Callable[..., Any]) -> None:
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(called), {}, called.__name__, None, None)
    printed: list[str] = []
    assert doctest.DocTestRunner().run(example, out=printed.append).failed == 0, "".join(printed)
    assert any(line.want for line in example.examples)
