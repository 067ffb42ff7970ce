"""Serves any training run: mesh, processes, signals, checkpoints, metric log and workdirs."""
