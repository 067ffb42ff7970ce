"""Photos in a folder, and the records made of them."""

import pytest

from quantjax.data import image_folder, to_records
from tests.data.photo_files import write_ants_and_cats


@pytest.fixture
def folder(tmp_path, rng):
    write_ants_and_cats(tmp_path / "photos", rng)
    return tmp_path / "photos"


@pytest.fixture
def records(folder, tmp_path):
    to_records(image_folder(folder), tmp_path / "records", num_shards=3)
    return tmp_path / "records"
