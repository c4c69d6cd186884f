import nbformat
import pytest
from nbclient import NotebookClient

from gpcore.progress import progress


def screen(written: str) -> str:
    """What a terminal shows in the end: what follows a carriage return covers the line from its start."""
    line = ""
    for part in written.split("\r"):
        line = part + line[len(part) :]
    return line


@pytest.mark.parametrize("batch", [False, True])
def test_a_bar_is_drawn_but_in_batch_runs_and_is_wiped_at_the_end(batch, monkeypatch, capsys):
    (monkeypatch.setenv if batch else monkeypatch.delenv)("TQDM_DISABLE", *["1"] if batch else [False])
    assert list(progress(range(3), desc="scenes")) == [0, 1, 2]
    with progress(total=2, desc="steps") as bar:
        bar.update()
    drawn = capsys.readouterr()
    assert [name in drawn.out + drawn.err for name in ("scenes", "0/3", "steps", "0/2")] == [not batch] * 4
    assert screen(drawn.err).strip() == ""


@pytest.mark.parametrize("batch", [False, True])
def test_a_notebook_keeps_no_widget_and_nothing_to_see(batch, monkeypatch):
    """What a bar shows at its first, second and last item is read from the messages of a real kernel."""
    (monkeypatch.setenv if batch else monkeypatch.delenv)("TQDM_DISABLE", *["1"] if batch else [False])
    source = """
    from gpcore.progress import progress
    for i in progress(range(3), desc="scenes <1>", mininterval=0):
        print(i)
    with progress(total=2, desc="steps") as bar:
        bar.update()
    list(progress(iter("ab")))
    """
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source.replace("\n    ", "\n"))])
    messages = []
    client = NotebookClient(notebook, kernel_name="python3")
    handle = client.process_message

    def noted(msg, *args):
        if msg["header"]["msg_type"] in ("display_data", "update_display_data"):
            messages.append(msg["content"]["data"])
        return handle(msg, *args)

    client.process_message = noted
    client.execute()
    outputs = notebook.cells[0].outputs
    assert "".join(o["text"] for o in outputs if o.output_type == "stream") == "0\n1\n2\n"
    left = [o["data"] for o in outputs if o.output_type == "display_data"]
    assert len(left) == (0 if batch else 3)
    assert all(each["text/html"] == "" and not any("widget" in kind for kind in each) for each in left)
    drawn = [each["text/html"] for each in messages]
    assert any('value="0" max="3"' in each and "0 of 3" in each for each in drawn) is not batch
    assert any('value="2" max="3"' in each for each in drawn) is not batch
    assert any("scenes &lt;1&gt;" in each for each in drawn) is not batch
    assert any("steps: 0 of 2" in each for each in drawn) is not batch
