import torch

from gpcore.companion.experiments import crf_comparison
from gpcore.companion.report import panels


def test_right_pixels_are_those_on_the_diagonal():
    assert crf_comparison.right_pixels(torch.tensor([[[3, 1], [2, 4]], [[5, 0], [9, 0]]])).tolist() == [7, 5]


def test_variants_stand_above_what_they_change(study, withheld):
    network = study.network("fcn8s")

    def answers(x, y):
        scores = network(x)
        return scores, scores.flip(1), -scores

    (above, below) = crf_comparison.variant_panels(study, {2: "the second"}, answers, ["alone", "flipped", "negative"])
    x, y = study.scene(2)
    maps = [scores[0].argmax(0) for scores in answers(x, y)]
    assert [panel.title for panel in above] == ["the second", "alone", "flipped", "negative"]
    assert all(torch.equal(a.data, b) for a, b in zip(above, [x[0], *maps], strict=True))
    assert torch.equal(below[0].data, y[0]) and (below[1].data == 4).all()  # white
    right = [int((each == y[0]).sum()) for each in maps]
    assert [panel.title for panel in below[2:]] == [f"net {each - right[0]:+d} px" for each in right[1:]]
    for panel, after in zip(below[2:], maps[1:], strict=True):
        assert torch.equal(panel.data, panels.change_map(maps[0], after, y[0], study.void))
    (above, below) = crf_comparison.variant_panels(withheld, {2: ""}, answers, ["alone", "flipped", "negative"])
    assert [panel.kind for panel in above + below] == ["labels"] * 3 + ["changes"] * 3
