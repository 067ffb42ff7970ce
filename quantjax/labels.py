"""Labels as class ids, one-hot or multi-hot, and the similarity of pairs that follows."""

import jax
import jax.numpy as jnp


def share_label(queries: jax.Array, database: jax.Array) -> jax.Array:
    """Tells of every pair whether it shares at least one label.

    Args:
      queries: Multi-hot labels [Q, L] (one-hot is the single-label case).
      database: Multi-hot labels [N, L].

    Returns:
      Whether each pair shares a label, [Q, N] bool.

    Raises:
      ValueError: if the label counts L differ.
    """
    if queries.ndim != 2 or database.ndim != 2 or queries.shape[1] != database.shape[1]:
        raise ValueError(
            "queries and database must be multi-hot labels [Q, L] and [N, L] of one L, got "
            f"{queries.shape} and {database.shape}"
        )
    # Counts of shared labels are exact in float32 up to 2^24 labels, and a matmul shards by rows.
    return queries.astype(jnp.float32) @ database.astype(jnp.float32).T > 0.5
