"""Names the commit of the code, to be stored with a result."""

import pathlib
import subprocess

_PACKAGE = pathlib.Path(__file__).parents[1] / "__init__.py"


def commit(source: pathlib.Path = _PACKAGE) -> str:
    """Returns the commit of the code, with a plus if Python files differ from it.

    Args:
      source: A file of the repository, or a folder with one; by default a file of this package.

    Returns:
      Seven hex digits and maybe a plus, or "unknown" if no repository has the file.
    """
    folder = source if source.is_dir() else source.parent

    def git(*arguments):
        try:
            return subprocess.run(
                ["git", *arguments], cwd=folder, capture_output=True, text=True, check=False
            ).stdout.strip()
        except OSError:  # no git on this machine, or no such folder
            return ""

    # A package that was installed into another repository's folder is not of that repository.
    # A new file, which no commit has yet, is.
    if not git("ls-files", "--cached", "--others", "--exclude-standard", "--", str(source)):
        return "unknown"
    found = git("rev-parse", "--short=7", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=all", "--", ":/*.py")
    return f"{found}{'+' if changed else ''}" if found else "unknown"
