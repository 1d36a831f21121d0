"""Building the package, and running commands in a folder of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path, check: bool = True, sees_checkout: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command. Without `sees_checkout`, a PYTHONPATH that leads to this checkout is dropped: what is installed counts."""
    environment = {name: value for name, value in os.environ.items() if sees_checkout or name != "PYTHONPATH"}
    result = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, env=environment)
    assert not check or result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result


def make_environment(folder: Path) -> Path:
    """Make a virtual environment and return its Python."""
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    return folder / "bin" / "python"
