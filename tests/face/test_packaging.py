"""What is installed: the light sentinel, the registry inside wheel and sdist, the pre-commit hook."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from installed import ROOT, make_environment, run

from rolemask.cli.main import main
from rolemask.markers.proofs import read_proofs

HEAVY = ("torch", "transformers", "numpy", "numba", "tokenizers", "datasets")


def test_the_core_needs_none_of_the_heavy_packages(tmp_path: Path) -> None:
    """Import, load, check, explain and masking of lists, where importing a heavy package raises."""
    script = f"""
import sys, importlib.abc

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
import rolemask, rolemask.cli.main
from rolemask.check import check_files
from rolemask.markers.folders import data_folder

assert check_files(sorted(data_folder("registry").glob("*.yaml"))) == []
masker = rolemask.MarkerSet.from_role_boundaries([{{"role": "assistant", "start": {{"ids": [1]}}, "end": {{"ids": [2]}}}}]).compile()
assert masker([[1, 5, 2], [1]]) == [[-100, 5, 2], [-100]]
try:
    rolemask.cli.main.main(["explain", "chatml", {str(ROOT / "docs/examples/weather.json")!r}, "--tokenizer", "x"], standalone_mode=False)
except Exception as error:
    assert "pip install 'rolemask[hf]'" in str(error), error
else:
    raise AssertionError("no error")
rolemask.cli.main.main(["explain", "chatml", {str(ROOT / "docs/examples/weather.json")!r}], standalone_mode=False)
assert not set(sys.modules) & set({HEAVY!r})
"""
    assert "Gern geschehen" in run(sys.executable, "-c", script, cwd=tmp_path).stdout


def test_importing_the_package_loads_no_command_line(tmp_path: Path) -> None:
    script = "import sys, rolemask; assert not {'click', 'rich', 'rolemask.cli.main'} & set(sys.modules)"
    run(sys.executable, "-c", script, cwd=tmp_path)


def test_python_m_runs_the_command_line(tmp_path: Path) -> None:
    assert "Usage: rolemask" in run(sys.executable, "-m", "rolemask", "--help", cwd=tmp_path).stdout


@pytest.mark.parametrize("suffix", [".whl", ".tar.gz"])
def test_an_install_elsewhere_has_the_registry(dist: Path, suffix: str, tmp_path: Path) -> None:
    (archive,) = (path for path in dist.iterdir() if path.name.endswith(suffix))
    python = make_environment(tmp_path / "venv")
    run(python, "-m", "pip", "install", "-q", archive, cwd=tmp_path, sees_checkout=False)
    chat = shutil.copy(ROOT / "docs/examples/weather.json", tmp_path)
    command = tmp_path / "venv" / "bin" / "rolemask"
    assert "gemma4" in run(command, "list", cwd=tmp_path, sees_checkout=False).stdout
    assert "Gern geschehen" in run(command, "explain", "gemma4", chat, cwd=tmp_path, sees_checkout=False).stdout
    page = run(command, "explain", "gemma4", chat, "--html", tmp_path / "out.html", cwd=tmp_path, sees_checkout=False)
    assert "wrote" in page.stdout
    installed = run(python, "-m", "pip", "list", "--format=freeze", cwd=tmp_path, sees_checkout=False).stdout.lower()
    assert not [name for name in HEAVY if re.search(rf"^{name}==", installed, re.MULTILINE)]
    origin = Path(
        run(python, "-c", "import rolemask; print(rolemask.load('gemma4').origin)", cwd=tmp_path, sees_checkout=False).stdout.strip()
    )
    assert tmp_path / "venv" in origin.parents
    assert len(read_proofs(origin)) == len(read_proofs(ROOT / "registry" / "gemma4.yaml")) > 0
    assert run(command, "check", origin, cwd=tmp_path, sees_checkout=False).returncode == 0


def test_the_hook_finds_a_bad_file_and_passes_a_good_one(tmp_path: Path) -> None:
    """pre-commit in a scratch repository, against a clone of this one with the files as they are now."""
    hooks, scratch = tmp_path / "rolemask", tmp_path / "scratch"
    tracked = run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).stdout.splitlines()
    for name in tracked:
        if (ROOT / name).is_file():
            (hooks / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, hooks / name)
    (scratch / "registry").mkdir(parents=True)
    for folder in (hooks, scratch):
        run("git", "init", "-q", cwd=folder)
        run("git", "config", "user.email", "test@example.invalid", cwd=folder)
        run("git", "config", "user.name", "test", cwd=folder)
    run("git", "add", "-A", cwd=hooks)
    run("git", "commit", "-qm", "hooks", cwd=hooks)
    revision = run("git", "rev-parse", "HEAD", cwd=hooks).stdout.strip()
    config = {"repos": [{"repo": str(hooks), "rev": revision, "hooks": [{"id": "rolemask-check"}]}]}
    (scratch / ".pre-commit-config.yaml").write_text(yaml.safe_dump(config))
    assert CliRunner().invoke(main, ["new", "mine", "--folder", str(scratch / "registry")]).exit_code == 0
    good = (scratch / "registry" / "mine.yaml").read_text()
    (scratch / "other.yaml").write_text("not: a marker set")
    run("git", "add", "-A", cwd=scratch)
    passed = run(sys.executable, "-m", "pre_commit", "run", "--all-files", cwd=scratch, check=False)
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert "Passed" in passed.stdout

    (scratch / "registry" / "mine.yaml").write_text(good.replace("    start:", "    strat:", 1))
    failed = run(sys.executable, "-m", "pre_commit", "run", "--all-files", cwd=scratch, check=False)
    assert failed.returncode == 1
    assert "found the unknown key 'strat' (did you mean 'start'?)" in failed.stdout


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("registry/gemma4.yaml", True),
        ("my/registry/x.yml", True),
        ("registry/proofs/gemma4.json", True),
        ("my/registry/proofs/x.json", True),
        ("registry/sub/x.yaml", False),
        ("gemma4.yaml", False),
        ("registry/x.json", False),
        ("proofs/x.json", False),
    ],
)  # fmt: skip
def test_the_hook_looks_at_registries_only(name: str, expected: bool) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert bool(re.search(hook["files"], name)) == expected
