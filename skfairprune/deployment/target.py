"""The file that an estimator is written to: found before anything is computed for it."""

import os
from pathlib import Path

__all__ = ["find_target"]


def find_target(path: str | os.PathLike[str]) -> Path:
    """Return the file to write, which a link is followed to.

    Parameters
    ----------
    path : str or path
        As the user gave it.

    Raises
    ------
    IsADirectoryError
        If it is a folder.
    FileNotFoundError
        If it is in a folder that is not there.
    """
    path = Path(path)
    target = path.resolve() if path.is_symlink() else path
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the path of a file in it.")
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"{path} cannot be written: there is no folder {target.parent}. Make it first."
        )
    return target
