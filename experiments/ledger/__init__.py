"""Ledger of results: runs experiments over code lengths and seeds, and keeps every number.

`entries` finds an experiment by name, `runs` runs it, `tuning` chooses its settings by validation
queries, `hypotheses` has the claims and how they are decided, `tables` renders docs/results.md from
the files in `results/`. `python -m experiments.ledger --help` describes the command.
"""
