"""Makes the standard splits of benchmark data sets from a copy that the user has.

The data sets may not be redistributed. Every reader takes the folder of a copy, as published or
with HashNet's list files, checks counts and ids, and names missing files. `counts` holds the
numbers of a complete copy.
"""

from quantjax.data.benchmarks.coco import coco
from quantjax.data.benchmarks.concepts import mirflickr_25k, nus_wide_21
from quantjax.data.benchmarks.listed import imagenet_100, in_shop, nus_wide_81
from quantjax.data.lists import Counts

__all__ = [
    "Counts",
    "coco",
    "imagenet_100",
    "in_shop",
    "mirflickr_25k",
    "nus_wide_21",
    "nus_wide_81",
]
