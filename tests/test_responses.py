import dataclasses

import pytest
import torch

from gpcore import responses
from gpcore.networks import fcn_small
from gpcore.perturb import guide
from gpcore.studies import DIGITS
from gpcore.study import POOLS, Study


def test_rows_are_relative_changes_of_what_hooks_see(monkeypatch):
    torch.manual_seed(0)
    network = fcn_small(11).eval()
    monkeypatch.setattr(Study, "network", lambda self, name, seed=0: network)
    monkeypatch.setattr(Study, "epsilon", lambda self, name, seed=0: 0.02)
    study = dataclasses.replace(DIGITS, batch=2)
    rows = responses.rows(study, "fcn8s", "val", 2)
    images = torch.stack([study.data("val", 2)[i][0] for i in range(2)])
    seen = {}
    for layer in POOLS:
        network.get_submodule(layer).register_forward_hook(lambda m, i, o, layer=layer: seen.update({layer: o}))
    with torch.no_grad():
        network(images)
        before = dict(seen)
        network(guide(network, images, 0.02).images)
    for i in range(2):
        for layer in POOLS:
            expected = ((seen[layer][i] - before[layer][i]).norm() / before[layer][i].norm()).item()
            found = rows[rows["layer"] == layer]["change"].iloc[i]
            assert found == pytest.approx(expected, rel=1e-3)
            assert found > 0
    competition = rows[rows["layer"] == "pool5"]["competition"]
    assert competition.between(-1, 1).all()
    assert rows[rows["layer"] != "pool5"]["competition"].isna().all()
