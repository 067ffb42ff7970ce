"""Quantizers by brute force, in float64 numpy loops; random draws alone are JAX's."""

import math

import jax
import numpy as np


def split(x, count):
    return np.stack(np.split(x, count, axis=1))


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


def moved_weights(codebooks, x, at, one_hot, temperature, noise=0.0):
    """a C with a = soft + constant, the constant making a the one-hot where it stands."""
    soft, before = (soft_assign(*pair, temperature, noise) for pair in ((codebooks, x), at))
    return mix(one_hot + soft - before, codebooks)


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


def plus_plus_of_key(key, x, mask, num_centroids):
    return plus_plus(np.float64(jax.random.uniform(key, (num_centroids,), np.float32)), x, mask)


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


def lloyd(centroids, x, mask, num_iterations, momentum=0.0):
    counts, before = np.ones(len(centroids)), centroids
    for iteration in range(num_iterations):
        last = iteration == num_iterations - 1
        ahead = centroids if last else centroids + momentum * (centroids - before)
        start = repair_empty(ahead, counts)
        before = np.where(start == ahead, centroids, start)
        numbers = encode(start[None], x[mask])
        centroids = lloyd_step(start[None], x[mask], numbers)[0]
        counts = np.bincount(numbers[:, 0], minlength=len(centroids))
    return centroids


def fit(start, x, mask, num_iterations):
    """k-means with momentum, first on the rows amid 64 * K equal parts of a large table."""
    num_parts = 64 * len(start)
    if len(x) > 2 * num_parts:
        counting = np.flatnonzero(mask)
        some = counting[np.int64((np.arange(num_parts) + 0.5) * len(counting) / num_parts)]
        start = lloyd(start, x[some], mask[some], num_iterations, 0.7)
    return lloyd(start, x, mask, num_iterations, 0.7)


def additive_decode(codebooks, assignments):
    books = np.float64(codebooks)
    return np.array([sum(books[m][k] for m, k in enumerate(row)) for row in assignments])


def ridge(codebooks, x, assignments, ridge):
    """(H^T H + ridge I)^-1 H^T X, and the old value where H has an empty column."""
    books, numbers = np.float64(codebooks), np.asarray(assignments, np.int64)
    one_hot = np.concatenate([np.eye(books.shape[1])[column] for column in numbers.T], axis=1)
    gram = one_hot.T @ one_hot + ridge * np.eye(one_hot.shape[1])
    solved = np.linalg.lstsq(gram, one_hot.T @ np.float64(x), rcond=1e-12)[0]
    used = one_hot.sum(axis=0) > 0
    return np.where(used[:, None], solved, books.reshape(solved.shape)).reshape(books.shape)


def beam(codebooks, row, beam_width):
    """Keeps the best partial sums in float64, by sorting all of their continuations."""
    beams = [((), np.float64(row))]
    for book in np.float64(codebooks):
        beams = [
            ((*numbers, k), left - word) for numbers, left in beams for k, word in enumerate(book)
        ]
        beams = sorted(beams, key=lambda beam: np.sum(beam[1] ** 2))[:beam_width]
    return beams[0][0]


def beam_encode(codebooks, x, beam_width=1):
    return np.array([beam(codebooks, row, beam_width) for row in x])


def running_sums(codebooks, counts, x, assignments, decay, mask=None):
    """The papers' form in float64: counts and sums apart, codeword = sum / count."""
    books, counts = np.float64(codebooks), np.float64(counts)
    sums = counts[..., None] * books
    batch_counts, batch_sums = np.zeros_like(counts), np.zeros_like(books)
    for n, row in enumerate(np.float64(x)):
        for m, part in enumerate(np.split(row, len(books))):
            if mask is None or mask[n]:
                batch_counts[m, assignments[n, m]] += 1
                batch_sums[m, assignments[n, m]] += part
    counts = decay * counts + (1 - decay) * batch_counts
    sums = decay * sums + (1 - decay) * batch_sums
    return np.where(
        counts[..., None] > 0, sums / np.maximum(counts, 1e-30)[..., None], books
    ), counts


def usage(codebooks, x):
    numbers = encode(codebooks, x)
    gaps = np.float64(x) - decode(np.float64(codebooks), numbers)
    counts = np.array([np.bincount(column, minlength=codebooks.shape[1]) for column in numbers.T])
    shares = counts / len(x)
    entropy = [-sum(p * np.log(p) for p in row if p > 0) for row in shares]
    distortion = np.mean(np.sum(gaps.reshape(len(x), len(codebooks), -1) ** 2, axis=-1), axis=0)
    return np.exp(entropy), np.sum(counts == 0, axis=1), distortion, counts


def signs(x):
    return np.where(x >= 0, 1, -1)


def halves(x):
    """The larger half of each column is +1, of equals the earlier."""
    signs = -np.ones(x.shape)
    for j, column in enumerate(np.float64(x).T):
        ranked = sorted(range(len(column)), key=lambda i: (-column[i], i))
        signs[ranked[: len(column) // 2], j] = 1
    return signs


def packed(numbers, width):
    return [packed_as_text(row, width) for row in numbers]


def unpacked(codes, width, count):
    """Number m is bits m * width and up of the code read as one long number."""
    longs = [int.from_bytes(bytes(row), "little") for row in codes]
    return np.array([[n >> (m * width) & (2**width - 1) for m in range(count)] for n in longs])


def hamming(queries, database):
    return [
        [sum((int(a) ^ int(b)).bit_count() for a, b in zip(q, d, strict=True)) for d in database]
        for q in queries
    ]
