import pytest
import tqdm.notebook

from gpcore.progress import progress


def screen(written: str) -> str:
    """What a terminal shows in the end: what follows a carriage return covers the line from its start."""
    line = ""
    for part in written.split("\r"):
        line = part + line[len(part) :]
    return line


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("variant", [tqdm.tqdm, tqdm.notebook.tqdm])
def test_a_bar_is_drawn_but_in_batch_runs_and_is_wiped_at_the_end(variant, batch, monkeypatch, capsys):
    (monkeypatch.setenv if batch else monkeypatch.delenv)("TQDM_DISABLE", *["1"] if batch else [False])
    monkeypatch.setattr("gpcore.progress.tqdm", variant)
    assert list(progress(range(3), desc="scenes")) == [0, 1, 2]
    with progress(total=2, desc="steps") as bar:
        bar.update()
    drawn = capsys.readouterr()
    assert [name in drawn.out + drawn.err for name in ("scenes", "0/3", "steps", "0/2")] == [not batch] * 4
    assert screen(drawn.err).strip() == ""
