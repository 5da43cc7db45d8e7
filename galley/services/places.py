"""Where fetched models lie: a folder each, which is there whole or not at all."""

import os
import re
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

_ORIGIN = ".source"
# Whatever bears this name is swept away by the next to come.
UNFINISHED = ".unfinished-"


class SourceError(Exception):
    """A model's files cannot be had: one line that says why, and what to do next."""


@dataclass(frozen=True, slots=True)
class Place:
    """One model's folder; `origin` says where its files are from, and when they are outdated."""

    folder: Path
    origin: str

    @classmethod
    def of(cls, name: str, models_dir: Path, origin: str) -> "Place":
        """The folder for the model called `name`."""
        return cls(models_dir / re.sub(r"[^\w.-]|^\.", "-", name), origin)

    @property
    def filled(self) -> bool:
        """Whether the files are here, and from this origin."""
        try:
            return (self.folder / _ORIGIN).read_text(encoding="utf-8") == self.origin
        except OSError:
            return False

    @contextmanager
    def filling(self) -> Generator[Path]:
        """Give an empty folder to fill; it takes the old one's place when all went well."""
        fresh = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=self.folder.parent))
        try:
            yield fresh
            (fresh / _ORIGIN).write_text(self.origin, encoding="utf-8")
            fresh.chmod(0o755)
            if self.folder.exists():
                outdated = tempfile.mkdtemp(prefix=UNFINISHED, dir=self.folder.parent)
                os.replace(self.folder, outdated)
                shutil.rmtree(outdated)
            os.replace(fresh, self.folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def only_one(models_dir: Path) -> Generator[None]:
    """Let one process at a time change the models; sweep up after those that died at it.

    Raises:
        SourceError: the folder cannot be written to.
    """
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(models_dir / ".lock").acquire()
    except OSError as error:
        raise SourceError(
            f"{models_dir} cannot be written to ({error.strerror});"
            " set GALLEY_MODELS_DIR to a folder that can."
        ) from error
    with lock:
        for left in models_dir.glob(f"{UNFINISHED}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield
