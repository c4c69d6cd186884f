"""The survey's columns against a plain loop; its settings by hand."""

import dataclasses

import pandas as pd
import pytest
import torch
from conftest import EPSILON

from gpcore import metrics
from gpcore.companion.experiments import survey, when_does_it_help
from gpcore.companion.measure import count_pixels
from gpcore.companion.studies import STAGES
from gpcore.datasets.corruptions import corrupt
from gpcore.perturb import guide


def test_adjusted_by_hand():
    prior = torch.tensor([0.5, 0.25, 0.25])
    logits = torch.tensor([1.0, 0.0, -1.0]).view(1, 3, 1, 1)
    adjusted = survey.Adjusted(torch.nn.Identity(), temperature=2.0, prior=prior, share=0.5)
    expected = (logits - 0.5 * prior.log().view(1, 3, 1, 1)) / 2
    torch.testing.assert_close(adjusted(logits), expected)
    torch.testing.assert_close(survey.Adjusted(torch.nn.Identity())(logits), logits)


def test_survey_against_a_plain_loop(study):
    network = study.network("fcn8s")
    tried = {
        "as it is": survey.Setting("network", network, EPSILON), "noisy": survey.Setting("noise", network, 0.01, 2),
    }  # fmt: skip
    row, noisy = (row for _, row in survey.measure(study, tried, "test", 4).iterrows())
    assert (row["setting"], row["kind"], noisy["setting"], noisy["kind"]) == ("as it is", "network", "noisy", "noise")
    draws, counts = torch.Generator().manual_seed(0), []
    for x, y in study.batches("test", 4):
        done = guide(network, corrupt(x, "noise", 2, seed=draws), 0.01)
        counts.append(torch.stack([count_pixels(study, logits, y) for logits in done.trajectory]))
    alone, stepped = torch.cat(counts, 1)
    assert noisy["base"] == pytest.approx(100 * metrics.miou(alone.sum(0)).item())
    assert noisy["gain"] == pytest.approx(metrics.gain(alone, stepped).value)
    before, after, entropies = [], [], []
    changed = frequent = island = 0
    for x, y in study.data("test"):
        done = guide(study.network("fcn8s"), x[None], EPSILON)
        was, now = done.before[0].argmax(0), done.after[0].argmax(0)
        before.append(metrics.confusion(was, y, 11, 255))
        after.append(metrics.confusion(now, y, 11, 255))
        entropies.append(torch.distributions.Categorical(logits=done.before[0].movedim(0, -1)).entropy().mean())
        small = when_does_it_help.islands(was[None])[0]
        for r, c in (was != now).nonzero().tolist():
            changed += 1
            frequent += int((was == now[r, c]).sum() > (was == was[r, c]).sum())
            island += int(small[r, c])
    gain = metrics.gain(torch.stack(before), torch.stack(after))
    assert row[["gain", "low", "high"]].tolist() == pytest.approx(list(gain))
    assert row["base"] == pytest.approx(100 * metrics.miou(torch.stack(before).sum(0)).item())
    assert row["entropy"] == pytest.approx(torch.stack(entropies).mean().item(), rel=1e-5)
    assert row["changed"] == pytest.approx(100 * changed / (4 * 96 * 128))
    assert row["to_frequent"] == pytest.approx(100 * frequent / changed)
    assert row["from_islands"] == pytest.approx(100 * island / changed)


def test_settings_vary_temperature_prior_noise_and_training(study):
    every = survey.settings(study, "fcn8s")
    kinds = dict.fromkeys(study.networks, "network")
    kinds |= {
        "temperature 0.25": "temperature",
        "temperature 4": "temperature",
        "prior + 0.5": "prior",
        "prior − 1": "prior",
    }
    kinds |= {"noise 1": "noise", "noise 3": "noise"} | dict.fromkeys(STAGES.networks, "training")
    assert [(label, setting.kind) for label, setting in every.items()] == [*kinds.items()]
    assert [setting.noise for setting in every.values() if setting.noise] == [1, 3]
    assert {setting.epsilon for setting in every.values()} == {EPSILON}
    x = study.data("test")[0][0][None]
    alone = study.network("fcn8s")(x)
    torch.testing.assert_close(every["temperature 4"].network(x), alone / 4)
    torch.testing.assert_close(every["temperature 0.25"].network(x), alone * 4)
    drop = alone - every["prior − 1"].network(x)  # the log prior
    prior = drop[0, :, 0, 0].exp()
    assert prior.sum().item() == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(every["prior + 0.5"].network(x), alone + drop / 2)
    labels = torch.stack([study.dataset("val")[i][1] for i in range(0, 100, 5)])
    torch.testing.assert_close(prior, labels.flatten().bincount(minlength=11) / labels.numel(), atol=1e-4, rtol=1e-3)
    assert "2 epochs" not in survey.settings(dataclasses.replace(study, tasks={"segmentation": "digits"}), "fcn8s")


def test_correlations_are_of_ranks():
    rows = pd.DataFrame({"gain": [1.0, 2.0, 4.0, 3.0], "base": [1.0, 10.0, 1000.0, 100.0], "entropy": [4, 3, 1, 2]})
    found = survey.correlations(rows, ["base", "entropy"])
    assert found["rank correlation"].to_dict() == pytest.approx({"base": 1, "entropy": -1})
    partly = survey.correlations(rows.assign(base=[2.0, 1, 3, 4]), ["base"])
    assert partly.loc["base"].tolist() == pytest.approx([0.6, 0.4])
