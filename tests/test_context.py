import torch

from gpcore.networks.context import ContextModule


def test_untrained_module_returns_the_class_map():
    y = torch.rand(2, 4, 20, 24).softmax(1)
    assert torch.allclose(ContextModule(4)(y, torch.rand(2, 3, 20, 24)), y)


def test_parameters_by_hand():
    # 3x3 over y and three colours, six 3x3 over K = 11, and 1x1
    expected = (9 * 14 * 11 + 11) + 6 * (9 * 11 * 11 + 11) + (11 * 11 + 11)
    assert sum(p.numel() for p in ContextModule(11).parameters()) == expected


def test_receptive_field_is_that_of_the_dilations():
    """1 + 2 (1 + 1 + 2 + 4 + 8 + 16 + 1) = 67 pixels across: 33 to each side."""
    torch.manual_seed(0)
    module = ContextModule(2)
    for parameter in module.parameters():
        torch.nn.init.uniform_(parameter, 0.01, 0.1)
    y = torch.rand(1, 2, 81, 81).requires_grad_()
    module(y, torch.rand(1, 3, 81, 81))[0, 0, 40, 40].backward()
    reached = y.grad[0].abs().sum(0).nonzero()
    assert reached.min(0).values.tolist() == [7, 7]
    assert reached.max(0).values.tolist() == [73, 73]
