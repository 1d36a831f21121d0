"""Where rolemask keeps its data files."""

from pathlib import Path


def data_folder(name: str) -> Path:
    """Return the folder `registry` or `schemas`: inside the package when installed, at the top of the repository otherwise."""
    package = Path(__file__).parent.parent
    packaged = package / name
    return packaged if packaged.is_dir() else package.parent / name
