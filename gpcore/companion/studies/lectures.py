"""The stage of the lectures: photographs that may be shown, on trained networks of ImageNet's thousand classes.

The networks come with `gpcore.networks.efficientnet`; none is trained here. Handwriting stands in where a claim needs
many pictures or a network that is trained anew.
"""

from gpcore.companion.studies.study import Study
from gpcore.datasets import photographs

PHOTOGRAPHS = Study(
    name="photographs",
    classes=(),  # they are `photographs.categories()`, which take two seconds to import
    colours=(),
    void=photographs.NONE,
    dataset=photographs.Photographs,
    images={"test": len(photographs.PHOTOGRAPHS)},
    batch=5,
    networks={},
    epsilons=(),
    photographs=True,
    tasks={"lectures": "photographs", "handwriting": "handwriting"},
)
