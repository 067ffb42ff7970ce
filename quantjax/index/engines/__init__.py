"""Writes an index for other search engines, one module for each, and tests what they answer.

Each module has `export(index, path) -> Exported`. It inserts the codes, searches some of them with
the engine and compares with the codec's own distances before anything is left under `path`.
"""
