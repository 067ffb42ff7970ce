"""Methods: each paper as a NamedTuple of pure functions."""
