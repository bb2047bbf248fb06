"""A process that dies at any touch of a file, and a folder on which another is at work in between."""

import sys

from orchestrator.store import Folder

WATCHED = {"open", "os.mkdir", "os.link", "os.rename", "os.remove"}


class Died(BaseException):
    """The process was killed here."""


class Death:
    """Forbids every touch of a file under `root` from the n-th on, those of its own clean-up too: so nothing
    but what a killed process leaves is left. test_crash.py kills real ones."""

    def __init__(self) -> None:
        self.root, self._left, self._hooked = "", 0, False

    def arm(self, root, touch) -> None:
        self.root, self._left = root, touch
        if not self._hooked:
            sys.addaudithook(self._hear)
            self._hooked = True

    def _hear(self, heard, args) -> None:
        if self.root and heard in WATCHED and any(str(arg).startswith(self.root) for arg in args):
            self._left -= 1
            if self._left < 0:
                raise Died


DEATH = Death()


class Between(Folder):
    """A folder on which something else happens before the n-th call, between a look and a deletion too."""

    def __init__(self, root, call, other) -> None:
        super().__init__(root)
        self.left, self._other = call, other

    def _turn(self) -> None:
        self.left -= 1
        if self.left == 0:
            self._other()

    def read(self, path):
        self._turn()
        return super().read(path)

    def put(self, path, data):
        self._turn()
        super().put(path, data)

    def put_if_absent(self, path, data):
        self._turn()
        return super().put_if_absent(path, data)

    def list(self, prefix=""):
        self._turn()
        yield from super().list(prefix)

    def stat(self, path):
        self._turn()
        return super().stat(path)

    def _temp(self):
        self._turn()
        return super()._temp()
