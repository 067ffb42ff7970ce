import matplotlib.pyplot as plt
import pytest


@pytest.fixture(autouse=True)
def no_figure_is_left_to_pyplot():
    yield
    assert plt.get_fignums() == []


@pytest.fixture(autouse=True)
def settings_of_the_user_stay():
    before = dict(plt.rcParams)
    yield
    assert dict(plt.rcParams) == before
