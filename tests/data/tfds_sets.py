"""Small sets of TFDS, prepared offline, for tests of their reader."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

CLASSES = ("ant", "bee", "cat")
TAGS = ("red", "green", "blue", "dark")
NUM_ROWS = {"train": 24, "test": 9}


def picture(number: int, height: int = 6, width: int = 6) -> np.ndarray:
    """Returns an image [H, W, 3] whose pixels identify it."""
    image = np.full((height, width, 3), number, np.uint8)
    image[0, 0] = (255, 0, 7 * number)
    return image


def png(image: np.ndarray) -> io.BytesIO:
    """Encodes without TensorFlow, which TFDS would need for an array."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    file.seek(0)
    return file


def tags(number: int) -> list[int]:
    """Returns which bits a number has, of the lowest four."""
    return [bit for bit in range(len(TAGS)) if number >> bit & 1]


class TinyThings(tfds.core.GeneratorBasedBuilder):
    """One image in every kind of feature that may be asked for, and some that may not."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        classes = tfds.features.ClassLabel(names=list(CLASSES))
        named = tfds.features.ClassLabel(names=list(TAGS))
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(6, 6, 3)),
                    "grey": tfds.features.Image(shape=(6, 6, 1)),
                    "wide": tfds.features.Image(),
                    "either": tfds.features.Image(),
                    "pair": {"left": tfds.features.Image(shape=(6, 6, 3))},
                    "frames": tfds.features.Sequence(tfds.features.Image()),
                    "tensor": tfds.features.Tensor(shape=(6, 8, 3), dtype=np.uint8),
                    "real": tfds.features.Tensor(shape=(6, 8, 3), dtype=np.float32),
                    "label": classes,
                    "missing": classes,
                    "tags": tfds.features.Sequence(named),
                    "objects": tfds.features.Sequence({"label": named, "size": np.float32}),
                    "text": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        first, numbers = 0, {}
        for split, num_rows in NUM_ROWS.items():
            numbers[split] = range(first, first + num_rows)
            first += num_rows
        return {split: self._generate_examples(each) for split, each in numbers.items()}

    def _generate_examples(self, numbers: Sequence[int]):
        for number in numbers:
            image = picture(number)
            twice = tags(number) * 2
            yield (
                number,
                {
                    "image": png(image),
                    "grey": png(image[..., 0]),
                    "wide": png(picture(number, 6, 9)),
                    "either": png(picture(number, 6, 9 if number == 20 else 6)),
                    "pair": {"left": png(image)},
                    "frames": [png(image)],
                    "tensor": picture(number, 6, 8),
                    "real": np.zeros((6, 8, 3), np.float32),
                    "label": number % len(CLASSES),
                    "missing": -1 if number == 5 else 0,
                    "tags": tags(number),
                    "objects": [{"label": label, "size": 1.0} for label in twice],
                    "text": str(number),
                },
            )


def prepare(folder: Path, file_format: str = "array_record") -> None:
    """Writes the set into a folder."""
    TinyThings(data_dir=folder, file_format=file_format).download_and_prepare()
