"""Losses: one published equation, one pure function; the caller reduces."""
