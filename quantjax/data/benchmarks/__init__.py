"""The field's data sets that nobody may hand on: splits of a copy that the user has.

Every reader takes the folder of a copy, as it is published or with the field's list files, checks
counts and ids, and says what is missing. `counts` is what a whole copy has.
"""

from quantjax.data.benchmarks.coco import coco
from quantjax.data.benchmarks.copies import Counts
from quantjax.data.benchmarks.imagenet import imagenet_100
from quantjax.data.benchmarks.in_shop import in_shop
from quantjax.data.benchmarks.mirflickr import mirflickr_25k
from quantjax.data.benchmarks.nus_wide import nus_wide_21, nus_wide_81

__all__ = [
    "Counts",
    "coco",
    "imagenet_100",
    "in_shop",
    "mirflickr_25k",
    "nus_wide_21",
    "nus_wide_81",
]
