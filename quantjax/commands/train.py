"""Implements `quantjax train`: learns codes of a folder of photos without an experiment file."""

import argparse
import hashlib
import json
import os
import time

import jax
import numpy as np

from quantjax import data, evaluate, index, recipes
from quantjax.data.decoding import pixel_limit
from quantjax.errors import InputError
from quantjax.models import efficientnet_lite, features
from quantjax.run import compile_cache, console, files, signals, workdirs
from quantjax.run.paths import user_path
from quantjax.train import fit

FAILED = 3
"""Exit status if photos could not be read; the run has all others."""

_NAME = "quantjax train"  # in config.json, by which a later run knows the folder as its own
_SIZE = 224  # pixels of the photos that the network takes
_STEPS = 20  # between two checkpoints of --finetune: the work of a minute, which a kill costs
_SHOWN = 20  # unreadable photos that the console names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to its parser."""
    add = parser.add_argument
    text = "folder with a folder of photos for each class, or of photos without classes"
    add("photos", metavar="PHOTOS", type=user_path, help=text)
    text = "folder of the run; `quantjax encode` takes it"
    add("-o", "--out", metavar="RUN", type=user_path, required=True, help=text)
    add("--bits", metavar="N", type=int, default=32, help="code length; 32 where absent")
    text = "your features [N, F], of the photos by part, class and name, for EfficientNet-Lite0's"
    add("--features", metavar="FILE", type=user_path, help=text)
    text = "train the network too, and not only codes of its features; takes minutes to hours"
    add("--finetune", action="store_true", help=text)
    text = "passes of --finetune over the photos to train; 8 where absent"
    add("--num_epochs", metavar="N", type=int, help=text)
    text = (
        "folders in PHOTOS that have the class folders: to train, to validate (or none), to test; "
        "where absent, train, validation and test, or a draw of 80, 10 and 10 per cent of a class"
    )
    add("--parts", metavar="NAME,...", help=text)
    add("--seed", metavar="N", type=int, default=0, help="seed of all randomness; 0 where absent")
    text = "pixels that a photo may have; Pillow's limit of 89,478,485 where absent"
    add("--max_pixels", metavar="N", type=int, help=text)
    add("--json", action="store_true", help="print one JSON object; lines go to standard error")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command with its parsed arguments; returns its exit status."""
    try:
        return _run(arguments)
    except signals.Stopped:
        # `fit` has saved the state and said so.
        return os.EX_TEMPFAIL


def _run(arguments):
    began = time.perf_counter()
    compile_cache.keep_programs()
    out = arguments.out
    names = arguments.parts.split(",") if arguments.parts else ()
    photos, parts = recipes.find_photos(
        arguments.photos, size=_SIZE, parts=names, seed=arguments.seed
    )
    _check_finetune(arguments, parts)
    sizes = [f"{len(rows)} {name}" for name, rows in parts.items()]
    console.say("; ".join([photos.summary, *sizes]))
    _check_own(out)
    with pixel_limit(arguments.max_pixels), workdirs.held(out):
        # At the start, so that a killed run is known as one of this command.
        files.write_text(out / workdirs.CONFIG, json.dumps({"experiment": _NAME}) + "\n")
        x, failures, extractor = _features(arguments, photos, out)
        for path, reason in [*failures.items()][:_SHOWN]:
            console.say(f"cannot read {path}: {reason}")
        source, rows = _without(photos, parts, failures, x)
        learned = (_learn if parts else _fit)(arguments, source, rows)
        if arguments.finetune:
            learned, extractor = _finetune(arguments, source, rows, extractor, learned, out)
        _save_encoder(out, learned, source, extractor)
        found = _describe(arguments, source, rows, learned, failures)
        evaluate.write_results(out, learned.results, {"experiment": _NAME, "seed": arguments.seed})
        files.write_text(out / workdirs.CONFIG, json.dumps(found, indent=2) + "\n")
    seconds = round(time.perf_counter() - began, 1)
    del found["split"]  # as long as the folder has photos
    if arguments.json:
        results = [row for each in learned.results for row in each.rows()]
        print(json.dumps({"run": str(out), "results": results, **found, "seconds": seconds}))
    elif learned.results:
        console.table(learned.results)
    skipped = f", {len(failures):,} could not be read" if failures else ""
    console.say(
        f"codes of {len(x):,} photos are learned{skipped}; {seconds} s; everything is in {out}"
    )
    return FAILED if failures else 0


def _check_finetune(arguments, parts):
    """Raises ValueError if options do not go together."""
    if arguments.num_epochs is not None and not arguments.finetune:
        raise InputError("--num_epochs goes with --finetune alone")
    if arguments.num_epochs is not None and arguments.num_epochs < 1:
        raise InputError(f"--num_epochs must be 1 or more, got {arguments.num_epochs}")
    if arguments.finetune and arguments.features is not None:
        raise InputError("--finetune does not go with --features, whose network is not known")
    if arguments.finetune and not parts:
        raise InputError("--finetune learns from classes; put photos into a folder for each class")


def _check_own(out):
    """Raises ValueError if a folder holds something else than an earlier run of this command."""
    workdirs.check_free(out)
    config = out / workdirs.CONFIG
    if config.exists():
        with files.reading(f"cannot read {config}", "name another folder"):
            found = json.loads(config.read_text(encoding="utf-8"))["experiment"]
        if found != _NAME:
            raise InputError(f"{out} is a run of {files.one_line(found)}; name another folder")


def _features(arguments, photos, out):
    """Returns features of the readable photos, the reasons of the others, and the extractor."""
    if arguments.features is not None:
        x = np.asarray(data.read_vectors(arguments.features), np.float32)
        if len(x) != len(photos):
            raise InputError(
                f"{arguments.features} must have a row for each of {len(photos)} photos, got "
                f"{len(x)}"
            )
        return x, {}, None
    extractor = features.efficientnet_lite0(_SIZE)
    due = {"files": _digest(photos.paths, extractor)}
    cache = out / f"features-{due['files'][:16]}.safetensors"
    if cache.exists():
        return features.read(cache, due), {}, extractor
    x, errors = _extract(photos.paths, extractor)
    # A file without some photos would not say whose features it has.
    if not errors:
        files.write_arrays(cache, {"feature": x}, due)
    return x, {path: error.reason for path, error in errors.items()}, extractor


def _digest(paths, extractor):
    """Returns a digest of photo files and of the network that reads them."""
    # By name, size and time of each file: hashing pixels would decode every photo once more.
    stats = [(str(path), path.stat()) for path in paths]
    known = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    return hashlib.sha256(repr((known, extractor.preprocessing)).encode()).hexdigest()


def _extract(paths, extractor):
    with console.counter("photos") as progress:
        return features.extract_photos(paths, extractor, size=_SIZE, progress=progress)


def _without(photos, parts, failures, x):
    """Returns the source of the readable photos' features, and their rows in each part."""
    readable = np.array([str(path) not in failures for path in photos.paths])
    if not readable.any():
        raise InputError(f"none of {len(photos)} photos can be read; see the reasons above")
    names = [path for path, is_readable in zip(photos.paths, readable, strict=True) if is_readable]
    source = data.from_features(x, photos.labels[readable], classes=photos.classes, names=names)
    # The rows of the readable photos are numbered anew.
    place = np.cumsum(readable) - 1
    return source, {name: place[rows[readable[rows]]] for name, rows in parts.items()}


def _learn(arguments, source, rows):
    """Learns codes from classes, and measures them."""
    splits = _splits(source, rows)
    # Own photos are often there twice: that is said, and stops nothing.
    equal = data.audit(splits, max_equal_images=1).shared_images["query in database"]
    if equal:
        console.say(
            f"{equal} of {len(splits.query)} test photos are in the database too, pixel by pixel"
        )
    experiment = recipes.experiment(splits, bits=arguments.bits, seed=arguments.seed)
    with console.progress(experiment) as bar:
        return recipes.learn_classes(experiment, callbacks=(bar,))


def _splits(source, rows):
    return data.make_splits(
        source,
        train=rows["train"],
        validation=rows["validation"],
        query=rows["test"],
        database=rows["train"],
        name="photos",
    )


def _finetune(arguments, source, rows, extractor, frozen, out):
    """Trains the network too; returns codes of its new features, and the network."""
    sizes = {"bits": arguments.bits, "seed": arguments.seed}
    splits, paths = _splits(source, rows), source.names
    experiment = recipes.experiment(splits, num_epochs=recipes.START_EPOCHS, **sizes)
    photos = data.from_photos(paths, source.labels, classes=source.classes, size=_SIZE)
    epochs = {} if arguments.num_epochs is None else {"num_epochs": arguments.num_epochs}
    tuned = recipes.finetuned(
        experiment, recipes.trained(experiment), _splits(photos, rows), extractor, **epochs
    )
    # Checkpoints of other photos or bits are refused by this name.
    about = f"{_digest(paths, extractor)[:8]}, {arguments.bits} bits"
    tuned = tuned._replace(name=f"{_NAME} --finetune, photos {about}")
    with console.progress(tuned) as bar:
        state = fit(
            tuned,
            workdir=out,
            mesh=recipes.one_device(),
            callbacks=(bar,),
            checkpoint_every=_STEPS,
            keep=1,
            raise_on_signal=True,
            progress=False,
        ).state
    extractor = recipes.finetuned_extractor(extractor, state)
    x, _ = _extract(paths, extractor)
    experiment = experiment._replace(splits=_splits(features.with_features(source, x), rows))
    learned = recipes.measured(experiment, recipes.refitted(experiment, state))
    results = [each._replace(name=f"frozen {each.name}") for each in frozen.results]
    return learned._replace(results=[*learned.results, *results]), extractor


def _fit(arguments, source, rows):
    """Fits codes to photos without classes."""
    del rows
    x = source.columns["feature"]
    learned = recipes.learn_neighbours(x, bits=arguments.bits, seed=arguments.seed)
    found = ", ".join(f"{recall:.3f} by {name}" for name, recall in learned.recalls.items())
    console.say(f"no classes: recall of the 10 nearest, of photos that were held out: {found}")
    return learned


def _save_encoder(out, learned, source, extractor):
    """Writes the encoder, of photos or of the user's features."""
    # Encoders of vectors have no photos to prepare, nor weights of others.
    photos = licence = None
    example = jax.ShapeDtypeStruct(source.columns["feature"].shape[1:], np.float32)
    if extractor is not None:
        learned = recipes.of_photos(learned, extractor)
        example = jax.ShapeDtypeStruct((_SIZE, _SIZE, 3), np.uint8)
        photos, licence = index.Preparation(_SIZE), efficientnet_lite.licence()
    index.save_encoder(
        out / "encoder",
        embed=learned.embed,
        weights=learned.weights,
        codec=learned.codec,
        example=example,
        classes=source.classes,
        photos=photos,
        licence=licence,
        about={"experiment": _NAME},
    )


def _describe(arguments, source, rows, learned, failures):
    """Returns the content of config.json: what was learned of which photos."""
    return {
        "experiment": _NAME,
        "photos": len(source),
        "classes": len(source.classes),
        "bits": arguments.bits,
        "seed": arguments.seed,
        "recalls": learned.recalls,
        "failures": failures,
        "split": {name: [str(source.name_of(row)) for row in each] for name, each in rows.items()},
    }
