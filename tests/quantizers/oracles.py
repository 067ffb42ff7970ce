"""Product quantization by brute force, in float64 numpy loops."""

import math

import numpy as np


def encode(codebooks, x):
    books = np.float64(codebooks)
    numbers = np.zeros((len(x), len(books)), np.int64)
    for n, row in enumerate(np.float64(x)):
        for m, part in enumerate(np.split(row, len(books))):
            gaps = [sum((a - b) ** 2 for a, b in zip(part, word, strict=True)) for word in books[m]]
            numbers[n, m] = gaps.index(min(gaps))
    return numbers


def decode(codebooks, assignments):
    return np.array(
        [np.concatenate([codebooks[m][k] for m, k in enumerate(row)]) for row in assignments]
    )


def distances(queries, database, metric):
    result = np.zeros((len(queries), len(database)))
    for i, q in enumerate(np.float64(queries)):
        for j, d in enumerate(np.float64(database)):
            inner = math.fsum(a * b for a, b in zip(q, d, strict=True))
            lengths = math.hypot(*q) * math.hypot(*d)
            result[i, j] = {
                "l2": math.fsum((a - b) ** 2 for a, b in zip(q, d, strict=True)),
                "ip": -inner,
                "cosine": 1 - (inner / lengths if lengths else 0.0),
            }[metric]
    return result


def packed_as_text(row, width):
    """FAISS's little-endian bit string: number m takes bits m * width and up of one long number."""
    text = "".join(format(number, f"0{width}b")[::-1] for number in row)
    text += "0" * (-len(text) % 8)
    return [int(text[i : i + 8][::-1], 2) for i in range(0, len(text), 8)]
