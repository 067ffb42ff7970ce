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


def soft_assign(codebooks, x, temperature, noise=0.0):
    """Softmax of (noise - squared distance) / temperature over the codewords, [M, N, K]."""
    slices = np.stack(np.split(x, len(codebooks), axis=1))
    logits = noise - np.sum((slices[:, :, None] - codebooks[:, None]) ** 2, axis=-1)
    powers = np.exp((logits - np.max(logits, axis=-1, keepdims=True)) / temperature)
    return powers / np.sum(powers, axis=-1, keepdims=True)


def mix(weights, codebooks):
    """Codewords summed by weights [M, N, K], subspaces side by side."""
    return np.concatenate([w @ book for w, book in zip(weights, codebooks, strict=True)], axis=1)


def draw_row(weight, u):
    return np.flatnonzero(np.cumsum(weight) > u * np.sum(weight))[0]


def plus_plus(uniform, x, mask):
    """Rows drawn by squared distance to those drawn before, by a uniform number each."""
    chosen = []
    for u in uniform:
        nearest = [min((sum((row - c) ** 2) for c in chosen), default=1.0) for row in x]
        weight = mask * nearest
        chosen.append(x[draw_row(weight if np.any(weight > 0) else 1.0 * mask, u)])
    return np.stack(chosen)


def repair_empty(centroids, counts):
    """Each empty cluster beside the next largest one's, which is pushed the other way."""
    result = np.array(centroids, np.float64)
    donors = sorted(range(len(counts)), key=lambda k: -counts[k])
    for empty, donor in zip(np.flatnonzero(np.asarray(counts) == 0), donors, strict=False):
        if counts[donor] >= 2:
            parts = centroids[donor] if np.any(centroids[donor]) else np.full(len(result[0]), 1e-6)
            shift = 1e-3 * np.cos(1 + np.arange(len(parts))) * parts
            result[empty], result[donor] = centroids[donor] + shift, centroids[donor] - shift
    return result


def lloyd_step(codebooks, x, assignments):
    """The mean of every codeword's rows, and the codeword itself where there are none."""
    means = np.array(codebooks, np.float64)
    for m, part in enumerate(np.split(x, len(means), axis=1)):
        for k in set(assignments[:, m]):
            means[m, k] = np.mean(part[assignments[:, m] == k], axis=0)
    return means


def lloyd(centroids, x, mask, num_iterations):
    counts = np.ones(len(centroids))
    for _ in range(num_iterations):
        centroids = repair_empty(centroids, counts)
        numbers = encode(centroids[None], x[mask])
        centroids = lloyd_step(centroids[None], x[mask], numbers)[0]
        counts = np.bincount(numbers[:, 0], minlength=len(centroids))
    return centroids
