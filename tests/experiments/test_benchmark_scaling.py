"""The table of what moves and what is held is read off programs, and says what they do."""

from experiments.benchmarks import scaling


def test_embeddings_travel_and_the_matrix_stays():
    one, eight = (scaling.compiled(1024, 64, devices) for devices in (1, 8))
    embeddings, matrix = 4 * 1024 * 64, 4 * 1024**2
    assert scaling.moved(one) == 0
    assert embeddings <= scaling.moved(eight) < 3 * embeddings < matrix
    assert scaling.held(eight) < scaling.held(one) / 4
    assert 2 * matrix <= scaling.held(one) < 3 * matrix
