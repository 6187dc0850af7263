"""Removal of a scratch folder, whatever a session has made of it."""

import os


def remove(folder: str) -> None:
    """Removes a folder that no process uses any more, as far as that is possible.

    A tree may be deeper than a stack, and folders in it may forbid everything. So each is given
    permissions and moved to the side of `folder`, where it is emptied in turn.

    Args:
        folder: Its path; names that begin with it are taken for its parts.
    """
    folders = [folder]
    moved = 0
    while folders:
        current = folders.pop()
        try:
            _take(current)
            for entry in list(os.scandir(current)):
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                    continue
                moved += 1
                part = f"{folder}.{moved}"
                _take(entry.path)
                os.rename(entry.path, part)
                folders.append(part)
            os.rmdir(current)
        except OSError:
            continue


def _take(folder: str) -> None:
    """Makes a folder ours to empty: a session with a user id of its own leaves folders that are not."""
    if os.geteuid() == 0:
        os.chown(folder, 0, 0, follow_symlinks=False)
    os.chmod(folder, 0o700)
