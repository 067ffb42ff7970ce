"""Gives a checkout's `experiments` the name that they have in a wheel.

    python -m quantjax_experiments.dqn_mnist

A wheel has their files in a package of this name, which no package of a user has, so that the
same command runs from a wheel, from an editable install and from a checkout, in any folder.
"""

import pathlib

__path__ = [str(pathlib.Path(__file__).parents[1] / "experiments")]
