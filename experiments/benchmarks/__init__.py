"""Benchmarks: time quantjax and other libraries side by side in one run."""
