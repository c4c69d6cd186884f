import io

import pytest

from gpcore.progress import progress


@pytest.mark.parametrize("batch", [False, True])
def test_a_bar_is_drawn_but_in_batch_runs_and_is_wiped_at_the_end(monkeypatch, batch):
    (monkeypatch.setenv if batch else monkeypatch.delenv)("TQDM_DISABLE", *["1"] if batch else [False])
    drawn = io.StringIO()
    assert list(progress(range(3), desc="scenes", file=drawn)) == [0, 1, 2]
    assert ("scenes" in drawn.getvalue()) is not batch
    assert not drawn.getvalue().rstrip("\r").endswith("3/3")
