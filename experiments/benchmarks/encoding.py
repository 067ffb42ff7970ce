"""Times the encoding of photo files beside its network alone, on arrays in memory.

    python -m experiments.benchmarks.encoding PHOTOS

The network is the published EfficientNet-Lite0 with product codes of 32 bits. Encoding is
`index.encode`, as `quantjax encode` calls it: it lists, reads, decodes and resizes the photos on
all cores while the network runs, and writes an index. It includes the loading of the compiled
network, which a run before has put into the cache.
"""

import argparse
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from quantjax import data, index, recipes
from quantjax.models import features
from quantjax.quantizers import ProductCodec
from quantjax.run import compile_cache

_SIZE, _DIM, _CODEBOOKS = 224, 64, 4
_BLOCK = 512  # images in memory
_TURNS = 3


def main() -> None:
    """Prints images a second of both, for some photos of a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, metavar="PHOTOS", help="folder of photos")
    parser.add_argument("--number", type=int, default=1024, help="photos that are encoded")
    arguments = parser.parse_args()
    compile_cache.keep_programs()
    paths = sorted(arguments.photos.rglob("*.jpg"))[: arguments.number]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        listing = scratch / "photos.txt"
        listing.write_text("".join(f"{path.resolve()}\n" for path in paths), encoding="utf-8")
        save_encoder(scratch / "encoder")
        of_files, of_network = [], []
        encoder = index.load_encoder(scratch / "encoder")
        few = paths[:_BLOCK]
        images = data.from_photos(few, size=_SIZE)[np.arange(len(few))]["image"]
        encoder(images)  # compiles
        # In turns, so that other load of the machine affects both.
        for turn in range(_TURNS):
            start = time.perf_counter()
            index.encode(scratch / "encoder", listing, scratch / f"index-{turn}")
            middle = time.perf_counter()
            encoder(images)
            of_files.append(len(paths) / (middle - start))
            of_network.append(len(images) / (time.perf_counter() - middle))
    print(
        f"{jax.devices()[0]}, {len(paths)} photos: encode {max(of_files):.1f} images/s, network "
        f"alone {max(of_network):.1f} images/s, {max(of_files) / max(of_network):.0%} of it"
    )


def save_encoder(folder: Path) -> None:
    """Saves an encoder of the network's first features, with codebooks of noise.

    Args:
      folder: Folder to be made.
    """
    books = np.random.default_rng(0).normal(size=(_CODEBOOKS, 256, _DIM // _CODEBOOKS))
    learned = recipes.Learned(
        lambda weights, x: x[:, :_DIM], {}, ProductCodec(jnp.asarray(books, jnp.float32)), [], {}
    )
    learned = recipes.of_photos(learned, features.efficientnet_lite0(_SIZE))
    index.save_encoder(
        folder,
        embed=learned.embed,
        weights=learned.weights,
        codec=learned.codec,
        example=jax.ShapeDtypeStruct((_SIZE, _SIZE, 3), np.uint8),
        photos=index.Preparation(_SIZE),
    )


if __name__ == "__main__":
    main()
