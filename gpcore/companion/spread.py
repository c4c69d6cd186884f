"""How much another training changes: a study's networks from other seeds, their gains on test images kept as rows.

    python -m gpcore.companion.spread digits --seeds 1 2 --only fcn deeplab unet crfrnn

goes on where it stopped. The rows stay in data/counts/STUDY/seeds.csv; the weights behind them, which `training` makes
again, do not.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence

import pandas as pd

from gpcore import metrics, paths
from gpcore.companion import measure, studies, training, weights
from gpcore.companion.studies import Study

IMAGES = 1500  # evenly spaced, of those of the main tables


def evenly(total: int) -> list[int]:
    """Which of so many images every training is measured on."""
    count = min(IMAGES, total)
    return [i * total // count for i in range(count)]


def rows(study: Study) -> pd.DataFrame:
    """One row per network and seed: epsilon, mIoU on validation images, and on test images mIoU before and after one
    step, the gain with its interval over images, and their number."""
    file = paths.COUNTS / study.name / "seeds.csv"
    return pd.read_csv(file) if file.is_file() else pd.DataFrame({"network": [], "seed": []})


def spread(study: Study, seeds: Sequence[int], only: Sequence[str] = ()) -> None:
    """Adds the rows that are missing, of all networks or of those kept in the stores `only`."""
    file = paths.COUNTS / study.name / "seeds.csv"

    def missing(name: str, seed: int) -> bool:
        known = rows(study)
        return not ((known["network"] == name) & (known["seed"] == seed)).any()

    for name, seed in trained(study, seeds, missing, only):
        row = pd.DataFrame([{"network": name, "seed": seed} | measured(study, name, seed)])
        file.parent.mkdir(parents=True, exist_ok=True)
        found = pd.concat([known, row]) if len(known := rows(study)) else row
        found.sort_values(["seed", "network"]).to_csv(file, index=False, float_format="%.6g", lineterminator="\n")


def trained(
    study: Study, seeds: Sequence[int], missing: Callable[[str, int], bool], only: Sequence[str] = ()
) -> Iterator[tuple[str, int]]:
    """Networks and seeds of which something is `missing`, each when it is trained; whoever measures it does so then.

    Networks whose weights are not there are trained; of weights that were not there before, none but seed 0's stay.
    """
    for seed in seeds:
        made = []
        for name, plan in study.networks.items():
            if (only and plan.store not in only) or not missing(name, seed):
                continue
            if not weights.known(study.stored_as(name, seed)):
                training.train(study, plan.store, seed)
                made.append(name)
            yield name, seed
        for name in made[::-1] if seed else []:  # later ones may build on earlier ones
            weights.forget(study.stored_as(name, seed))


def measured(study: Study, name: str, seed: int) -> dict[str, float]:
    """What a row says of one network."""
    images = min(IMAGES, study.images[study.main])
    counts, _ = measure.guided_counts(study, name, study.main, images=images, seed=seed)
    base, guided = (100 * metrics.miou(counts.sum(1))).tolist()
    gain, low, high = metrics.gain(*counts)
    tuned = study.tuned(name, seed)
    found = {"epsilon": tuned["epsilon"], "val": tuned["val"], "base": base, "guided": guided}
    return found | {"gain": gain, "low": low, "high": high, "images": images}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=studies.STUDIES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--only", nargs="+", default=(), metavar="STORE", help="fcn deeplab ...; default: all")
    args = parser.parse_args()
    spread(studies.get(args.study), args.seeds, args.only)


if __name__ == "__main__":
    main()
