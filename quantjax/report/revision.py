"""Names the commit of the code, to be stored with a result."""

import pathlib
import subprocess


def commit(root: pathlib.Path | None = None) -> str:
    """Returns the commit of the code, with a plus if Python files differ from it.

    Args:
      root: A folder of the repository; the one of this package when None.

    Returns:
      Seven hex digits and maybe a plus, or "unknown" outside of a repository.
    """
    root = pathlib.Path(__file__).parents[2] if root is None else root

    def git(*arguments):
        try:
            return subprocess.run(
                ["git", *arguments], cwd=root, capture_output=True, text=True, check=False
            ).stdout.strip()
        except OSError:  # no git on this machine
            return ""

    # A package that was installed into another repository's folder is not of that repository.
    if not git("ls-files", "quantjax/__init__.py"):
        return "unknown"
    found = git("rev-parse", "--short=7", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=all", "--", "*.py")
    return f"{found}{'+' if changed else ''}" if found else "unknown"
