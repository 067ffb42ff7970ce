"""Networks behind two pure functions."""
