"""What a type checker sees of the installed wheel, and what a user can import."""

import importlib
import inspect
import pkgutil
import re
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from installed import ROOT, make_environment, run

import rolemask

USER = Path(__file__).with_name("typed_user.py")


@pytest.fixture(scope="module")
def python(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel, which also sees this environment's packages."""
    folder = tmp_path_factory.mktemp("typing")
    python = make_environment(folder / "venv")
    (wheel,) = dist.glob("*.whl")
    run(python, "-m", "pip", "install", "-q", "--no-deps", wheel, cwd=folder)
    own = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).stdout.strip()
    (Path(own) / "others.pth").write_text(sysconfig.get_path("purelib"))
    assert own in run(python, "-c", "import rolemask; print(rolemask.__file__)", cwd=folder, sees_checkout=False).stdout
    return python


def test_mypy_sees_real_types(python: Path, pytestconfig: pytest.Config, tmp_path: Path) -> None:
    cache = pytestconfig.cache.mkdir("mypy") if pytestconfig.cache is not None else tmp_path
    options = ("--strict", "--config-file", "", "--cache-dir", cache, "--python-executable", python)
    assert "Success" in run(sys.executable, "-m", "mypy", *options, USER, cwd=tmp_path, sees_checkout=False).stdout


def test_the_library_is_typed_without_numba_too(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """`.ci/run` checks it with numba; skipping the import has the effect of a missing package."""
    config = tmp_path / "mypy.ini"
    skipped = "ignore_missing_imports = True\nfollow_imports = skip\n"
    config.write_text(f"[mypy]\nstrict = True\n[mypy-numba.*]\n{skipped}[mypy-torch.*,pyarrow.*]\nignore_missing_imports = True\n")
    cache = pytestconfig.cache.mkdir("mypy-without-numba") if pytestconfig.cache is not None else tmp_path
    options = ("--config-file", config, "--cache-dir", cache)
    assert "Success" in run(sys.executable, "-m", "mypy", *options, ROOT / "rolemask", cwd=ROOT).stdout


def test_pyright_sees_real_types(python: Path, tmp_path: Path) -> None:
    started = run(sys.executable, "-m", "pyright", "--version", cwd=tmp_path, check=False)
    if started.returncode:
        pytest.skip("pyright cannot start: its package downloads the program from npm when it is first run")
    assert "0 errors" in run(sys.executable, "-m", "pyright", "--pythonpath", python, USER, cwd=tmp_path, sees_checkout=False).stdout


def own_classes() -> dict[str, type]:
    """Every public class that rolemask defines."""
    modules = [
        importlib.import_module(found.name)
        for found in pkgutil.walk_packages(rolemask.__path__, "rolemask.")
        if "__main__" not in found.name
    ]
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__.startswith("rolemask.") and not name.startswith("_")
    }


def names_in(value: Any) -> set[str]:
    """The names in the annotations of a function, or of a class and of its public methods and fields."""
    if not isinstance(value, type):
        return set(re.findall(r"\w+", str(inspect.signature(value))))
    found = set(re.findall(r"\w+", " ".join(map(str, getattr(value, "__annotations__", {}).values()))))
    for name, member in vars(value).items():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if inspect.isfunction(function) and (not name.startswith("_") or name in ("__call__", "__init__")):
            found |= set(re.findall(r"\w+", str(inspect.signature(function))))
    return found


def test_every_type_in_a_public_signature_is_public() -> None:
    own = own_classes()
    for name in rolemask.__all__:
        value = getattr(rolemask, name)
        if inspect.isfunction(value) or isinstance(value, type):
            assert names_in(value) & own.keys() <= set(rolemask.__all__), name


def test_every_error_is_public() -> None:
    errors = {name for name, value in own_classes().items() if issubclass(value, rolemask.RoleMaskError)}
    assert errors - {"UnsupportedScenarioError"} <= set(rolemask.__all__)
