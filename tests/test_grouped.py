import torch

from gpcore.datasets.grouped import Grouped


def test_pixels_are_means_in_eight_bits_and_labels_those_in_the_middle():
    image = torch.zeros(3, 4, 6)
    image[0, :2, :2] = torch.tensor([[10.0, 20], [30, 41]]) / 255  # mean 25.25
    image[2, 2:, 4:] = 1
    labels = torch.tensor([[0, 0, 1, 1, 2, 2], [0, 3, 1, 255, 2, 0], [1] * 6, [1, 2, 3, 0, 255, 3]])
    data = Grouped([(image, labels)], [5, 6, 7, 8], shrink=2)
    small, groups = data[0]
    assert len(data) == 1 and small.shape == (3, 2, 3)
    assert torch.equal(255 * small[0], torch.tensor([[25.0, 0, 0], [0, 0, 0]]))
    assert torch.equal(small[2], torch.tensor([[0.0, 0, 0], [0, 0, 1]]))
    assert groups.tolist() == [[8, 255, 5], [7, 5, 8]] and groups.dtype == torch.int64


def test_at_its_size_only_classes_change():
    image, labels = torch.rand(3, 5, 4).mul(255).round() / 255, torch.arange(20).view(5, 4)
    same, groups = Grouped([(image, labels)], [19 - k for k in range(20)], shrink=1)[0]
    assert torch.equal(same, image) and torch.equal(groups, 19 - labels)
