"""Whether a file lies on a level, as seen from here. Ingest looks and opens nothing for reading."""

from __future__ import annotations

import os
import stat

from shared.names import check_filename

# O_PATH: the right to look is enough. O_NOFOLLOW: a link could lead out of the level.
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class LevelHiddenError(Exception):
    """The level's own directory cannot be reached from here; the text says why."""


def fault(root: str, filename: str) -> str:
    """Why the file cannot be tracked, or an empty text. Blocks. Raises LevelHiddenError, InvalidError.

    The mover's `beneath` opens files for work and sorts its errors by retry or dead letter; here a look is all there
    is to it, so the two share the idea and no code.
    """
    *directories, name = check_filename(filename).split("/")
    try:
        fd = os.open(root, _DIRECTORY)
    except OSError as error:
        raise LevelHiddenError(str(error.strerror)) from None
    try:
        for directory in directories:
            below = os.open(directory, _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = below
        mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return "there is no such file"
    except OSError as error:
        # ENOTDIR: a component is a file or, with O_NOFOLLOW, a symbolic link.
        return f"it cannot be reached without following a link ({error.strerror})"
    finally:
        os.close(fd)
    return "" if stat.S_ISREG(mode) else "it is not a regular file"
