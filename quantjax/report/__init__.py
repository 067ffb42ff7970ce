"""HTML reports: a page for each run, and a page that compares several runs.

`keep` measures what the figures show, while the run's data and parameters are at hand, and leaves
it in the workdir; `draw` and `write` make the page from the workdir alone, whenever it is asked to.
"""

from quantjax.report.kept import KEPT, Kept, keep, read
from quantjax.report.pages import PAGE, compare, draw, write
from quantjax.report.runs import Run, compare_results, differing, find_runs, read_run, short_names

__all__ = [
    "KEPT",
    "PAGE",
    "Kept",
    "Run",
    "compare",
    "compare_results",
    "differing",
    "draw",
    "find_runs",
    "keep",
    "read",
    "read_run",
    "short_names",
    "write",
]
