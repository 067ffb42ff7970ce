"""Commands of the command line `quantjax`, one file each; `quantjax.cli` parses and starts them.

A file has `add_arguments(parser)` and `run(arguments)`, which may return an exit status.
"""
