"""The table of what moves and what is held is read off programs, and says what they do."""

from experiments.benchmarks import scaling


def test_embeddings_travel_and_the_matrix_stays():
    one, eight = (scaling.compiled(1024, 64, scaling.simulated(devices)) for devices in (1, 8))
    embeddings, matrix = 4 * 1024 * 64, 4 * 1024**2
    assert scaling.moved(one, 1) == 0
    # The embeddings are gathered, and their gradient is summed.
    assert 2 * embeddings <= scaling.moved(eight, 8) < 5 * embeddings < matrix
    assert scaling.held(eight) < scaling.held(one) / 4
    assert 2 * matrix <= scaling.held(one) < 3 * matrix
