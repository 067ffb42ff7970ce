"""Runs a job whatever it learns: mesh, processes, signals, checkpoints, metric log and workdirs."""
