"""Implements `quantjax records`: converts a folder of photos into ArrayRecord files."""

import argparse
import dataclasses
import math

from quantjax import data
from quantjax.data.decoding import pixel_limit
from quantjax.data.photos import absent_classes
from quantjax.errors import InputError
from quantjax.run import console
from quantjax.run.paths import user_path

_SPLIT = ("train", "validation", "test")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to its parser."""
    add = parser.add_argument
    add("folder", metavar="FOLDER", type=user_path, help="has a folder for each class")
    add("out", metavar="OUT", type=user_path, help="made here, or empty")
    # Both make parts, so that only one of them may be given.
    parts = parser.add_mutually_exclusive_group()
    text = "FOLDER has these folders, such as train,test, and each of them one for each class"
    parts.add_argument("--parts", metavar="NAME,...", help=text)
    text = "per cent of each class, such as 80,10,10, that become the parts train, validation, test"
    parts.add_argument("--split", metavar="P,P,P", type=_shares, help=text)
    add("--seed", metavar="N", type=int, help="of the draw of --split; 0 where absent")
    text = (
        "store pixels of this height and width, the shorter side resized, the longer cropped "
        "(faster to read); files as they are where absent"
    )
    add("--size", metavar="PX", type=int, help=text)
    text = "number of files; one for each 4,096 photos, at most 256, where absent"
    add("--shards", metavar="N", type=int, help=text)
    text = "go on without photos that cannot be read, and name them"
    add("--skip_unreadable", action="store_true", help=text)
    text = (
        "pixels that a photo may have, so that no small file fills the memory; Pillow's limit of "
        "89,478,485 where absent"
    )
    add("--max_pixels", metavar="N", type=int, help=text)


def _shares(text):
    """Parses --split into the percentage of each part."""
    try:
        shares = [float(share) for share in text.split(",")]
    except ValueError:
        shares = []
    # Negated, as NaN compares as False.
    if len(shares) != len(_SPLIT) or not (min(shares) >= 0 and math.isclose(sum(shares), 100)):
        due = "three numbers that sum to 100, such as 80,10,10"
        raise argparse.ArgumentTypeError(f"must be {due}, got {text}")
    if not shares[0]:
        raise argparse.ArgumentTypeError(f"must leave some to train, got {text}")
    return dict(zip(_SPLIT, shares, strict=True))


def run(arguments: argparse.Namespace) -> None:
    """Runs the command with its parsed arguments."""
    # Links are resolved, as OUT may be in FOLDER by another name.
    folder, out = arguments.folder, arguments.out
    if folder.resolve() in out.resolve().parents:
        raise InputError(f"{out} is in {folder}, where it would be a class; choose another folder")
    with pixel_limit(arguments.max_pixels):
        photos, parts = _photos(arguments, folder)
        # Before the conversion, which may take hours: the user may have named the wrong folder.
        if photos.notes:
            console.say(photos.summary)
        with console.counter("photos") as progress:
            notes = data.to_records(
                photos,
                out,
                size=arguments.size,
                num_shards=arguments.shards,
                parts=parts,
                skip_unreadable=arguments.skip_unreadable,
                progress=progress,
            )
    # Opened again, so that the command fails now if the new records cannot be read.
    source = data.from_records(out, size=arguments.size or 1)
    line = f"{len(source)} photos of {len(source.classes)} classes are in {out}"
    if arguments.max_pixels is not None and arguments.size is None:
        notes = (*notes, "larger ones need the limit raised where they are read too, or --size=PX")
    console.say("; ".join((line, *notes)))


def _photos(arguments, folder):
    """Returns the photos of a folder, and the rows of each part by name."""
    if arguments.seed is not None and arguments.split is None:
        raise InputError("--seed is of the draw of --split, which is absent; leave it out")
    # Any size skips the check that all headers agree; without --size files are stored unchanged.
    size = arguments.size or 1
    if arguments.parts is not None:
        names = arguments.parts.split(",")
        photos, rows = data.image_folders(folder, names, size=size)
        return photos, dict(zip(names, rows, strict=True))
    photos = data.image_folder(folder, size=size)
    if arguments.split is None:
        return photos, {}
    parts = data.stratified(photos.labels, arguments.split, seed=arguments.seed or 0)
    numbers = ", ".join(f"{len(rows)} {name}" for name, rows in parts.items())
    absent = absent_classes(photos.labels, photos.classes, parts)
    notes = (*photos.notes, f"split into {numbers}", *absent)
    return dataclasses.replace(photos, notes=notes), parts
