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
            os.chmod(current, 0o700)
            for entry in list(os.scandir(current)):
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                    continue
                moved += 1
                part = f"{folder}.{moved}"
                os.chmod(entry.path, 0o700)
                os.rename(entry.path, part)
                folders.append(part)
            os.rmdir(current)
        except OSError:
            continue
