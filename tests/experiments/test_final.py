"""`--config.final` trains on what the carved split keeps back, and says so."""

import numpy as np
import pytest

from experiments import dqn, dqn_ste, triplet_quantization


@pytest.mark.parametrize("method", [dqn, dqn_ste, triplet_quantization])
def test_final_trains_on_the_validation_rows_too(method):
    config = method.get_config("mnist")
    carved = method.build(config, "mnist").splits
    config.final = True
    final = method.build(config, "mnist")
    both = np.union1d(carved.train, carved.validation)
    np.testing.assert_array_equal(np.sort(final.splits.train), both)
    assert len(final.splits.validation) == 0
    np.testing.assert_array_equal(final.splits.query, carved.query)
    np.testing.assert_array_equal(final.splits.database, carved.database)
    assert (carved.name, final.splits.name) == ("mnist5k", "mnist5k final")
    assert final.splits.digest != carved.digest
    # An epoch passes all of them.
    assert final.sampler(0, 0).shape[0] == 3250 // config.batch_size
