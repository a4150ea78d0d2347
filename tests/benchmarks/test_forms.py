"""No fast form has become slower than the plain one; a ratio in one process, not a time."""

import numpy as np
import pytest

from benchmarks import forms
from imgclass import process
from imgclass.models import cpu_conv

SLOWER = 0.8  # a clear margin; docs/performance.md has the ratios of idle cores


@pytest.fixture(autouse=True)
def with_onednn(monkeypatch):
    monkeypatch.setattr(process, "onednn", process.find_onednn()[0])
    yield
    cpu_conv.leave()


@pytest.mark.parametrize("name", forms.PAIRS)
def test_both_forms_give_the_same(name):
    ours, plain, args = forms.programs(name)
    a, b = ours(*args), plain(*args)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(np.abs(b).max()))


@pytest.mark.slow
@pytest.mark.parametrize("name", forms.PAIRS)
def test_a_fast_form_is_not_the_slower_one(name):
    tries = (forms.ratio(name) for _ in range(3))  # other programs may run
    assert any(found > SLOWER for found in tries)
