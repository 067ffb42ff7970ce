"""Reads pickle files of arrays and weights without running code from the file."""
