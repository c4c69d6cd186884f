"""Classification of single pictures: the embedded handwriting, MNIST and CIFAR-10."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from gpcore.companion.studies import parts
from gpcore.companion.studies.plans import Data, Network, Recipe
from gpcore.companion.studies.study import Study
from gpcore.datasets import classification
from gpcore.networks.classifiers import cifar_net, lenet


def _handwritten(name: str, recipe: Recipe) -> Study:
    """Classification of single digits."""
    return Study(
        name=name,
        classes=classification.DIGITS,
        colours=(),
        void=255,
        dataset=partial(classification.Pictures, name),
        images=dict.fromkeys(("train", "val", "test"), 100_000),  # these many, or all that there are
        batch=500,
        networks=parts.by_store(
            Network(lenet, "classifier", recipe, features=("pool1", "pool2", "relu3", "score"), published="mnist")
        ),
        epsilons=(0.005, 0.01, 0.02, 0.04, 0.08, 0.16),
        photographs=True,
    )


def _answered(split: str) -> classification.Answered:
    """The second half's digits with the answers of the network that learnt the first."""
    return classification.Answered(classification.Half("handwriting", 1, split), HANDWRITING.network("half-a"))


def _learner(store: str, data: Callable[[str], Data]) -> Network:
    """Of one smaller shape, for attacks that one of them makes and another sees."""
    return Network(partial(lenet, hidden=100), store, Recipe(40, samples=1500, batch=50, rate=1e-3), dataset=data)


_ALONE = _handwritten("handwriting", Recipe(40, samples=3000, batch=50, rate=1e-3))
HANDWRITING = replace(
    _ALONE,
    networks={
        **_ALONE.networks,
        **parts.by_store(
            _learner("half-a", partial(classification.Half, "handwriting", 0)),
            _learner("half-b", partial(classification.Half, "handwriting", 1)),
            _learner("answers-b", _answered),
        ),
    },
)
MNIST = replace(
    _handwritten("mnist", Recipe(8, samples=55_000, batch=100, rate=1e-3)), tasks={"classification": "mnist"}
)
CIFAR10 = replace(
    MNIST,
    name="cifar10",
    classes=classification.OBJECTS,
    dataset=partial(classification.Pictures, "cifar10"),
    images={**MNIST.images, "val": 1000},  # a guided step for every layer and k takes one CPU core half an hour then
    networks=parts.by_store(
        Network(
            cifar_net,
            "classifier",
            Recipe(8, samples=45_000, batch=100, rate=3e-3, weight_decay=1e-2, mirror=True),
            features=("pool1", "pool2", "pool5", "relu6", "score"),
            published="cifar10",
        )
    ),
    epsilons=(0.0001, 0.0003, 0.001, 0.003, 0.01),
    photographs=False,  # they are not ours to publish
    tasks={"classification": "cifar10"},
)
