"""The scanners of other projects, taken out of their packages: the packages need not be importable, nor what they depend on installed.

ROLEMASK_PEERS may name a folder with them: pip install --no-deps --target FOLDER unsloth_zoo axolotl
"""

import ast
import sys
from collections.abc import Callable
from functools import cache
from importlib.machinery import PathFinder
from importlib.metadata import distributions, version
from pathlib import Path
from types import ModuleType
from typing import Any

import texts
import torch
from common import BATCH, masker, rows
from real import given_folders, template_text
from tables import MASKER, table
from timing import medians, torch_threads

Scanner = Callable[[Any], Any]
AXOLOTL_LISTS, AXOLOTL, UNSLOTH = "Axolotl, its list scanner", "Axolotl, its vectorised scanner", "Unsloth, `train_on_responses_only`"


def peers() -> str:
    """The batch of the first table."""
    tensor = torch.from_numpy(rows(BATCH).ids)
    label = masker()
    calls: dict[str, Callable[[], Any]] = {MASKER: lambda: label(tensor)}
    expected, equal = label(tensor), {MASKER: "all"}
    for name, scan in _scanners().items():
        calls[name] = lambda scan=scan: scan(tensor)
        same = (scan(tensor) == expected).float().mean().item()
        equal[name] = "all" if same == 1 else f"{same:.3%}"
    with torch_threads(1):
        times = medians(calls, 8)
    cells = [[_with_version(name), taken * 1e3, taken / times[MASKER], equal[name]] for name, taken in times.items()]
    return table(["way", "ms", "times rolemask", "equal labels"], cells) + _missing()


def for_lists() -> dict[str, Scanner]:
    """Return the scanners that take lists of one length; Axolotl's through a tensor, as a collator would make one."""
    found = _scanners()
    calls: dict[str, Scanner] = {}
    if UNSLOTH in found:
        calls[UNSLOTH] = found[UNSLOTH]
    if AXOLOTL in found:
        calls[f"{AXOLOTL}, lists through a tensor"] = lambda given: found[AXOLOTL](torch.tensor(given)).tolist()
    return calls


def tokenizing() -> str:
    """Masking beside tokenizing, where TRL's training templates mark the assistant's tokens."""
    tokenizer, label = texts.qwen(), masker()
    messages = [{"role": role, "content": text} for chat in texts.chats(10) for role, text in chat if role != "system"]
    options = {"tokenize": True, "return_dict": True}
    template, training = template_text("trl/qwen3.jinja"), template_text("trl/qwen3_training.jinja")
    ids = torch.tensor(tokenizer.apply_chat_template(messages, chat_template=template, **options)["input_ids"])
    calls = {
        "tokenize": lambda: tokenizer.apply_chat_template(messages, chat_template=template, **options),
        "tokenize with TRL's training template and `return_assistant_tokens_mask`": lambda: tokenizer.apply_chat_template(
            messages, chat_template=training, return_assistant_tokens_mask=True, **options
        ),
        "rolemask on the ids": lambda: label(ids),
    }
    times = medians(calls, 5)
    head = [f"one chat of {len(ids):,} tokens (trl {version('trl')})", "ms"]
    return table(head, [[name, taken * 1e3] for name, taken in times.items()])


@cache
def _scanners() -> dict[str, Scanner]:
    """Return the scanners that are installed, from a tensor (B, T) to labels; Unsloth's takes lists, too."""
    found: dict[str, Scanner] = {}
    if _folder("axolotl"):
        found |= _axolotl()
    if _folder("unsloth_zoo"):
        found[UNSLOTH] = _unsloth()
    return found


def _axolotl() -> dict[str, Scanner]:
    names = ["RoleBoundary", "_compute_role_keep_mask", "_apply_role_boundaries"]
    names += ["_compute_role_keep_mask_vectorized", "_apply_role_boundaries_vectorized"]
    code = _definitions("axolotl", "processing_strategies.py", names)
    encode = texts.qwen().encode
    boundaries = [
        code["RoleBoundary"](
            role, encode(f"<|im_start|>{role}\n", add_special_tokens=False), encode("<|im_end|>", add_special_tokens=False)
        )
        for role in ("system", "user", "assistant")
    ]
    return {
        name: lambda ids, apply=code[function]: apply(ids.clone(), boundaries, {"assistant"}, "turn")
        for name, function in ((AXOLOTL_LISTS, names[2]), (AXOLOTL, names[4]))
    }


def _unsloth() -> Scanner:
    names = ["train_on_responses_only", "_find_common_token_ids", "_longest_common_sublist", "_stable_marker_edges"]
    code = _definitions("unsloth_zoo", "dataset_utils.py", names)
    start = "<|im_start|>{}\n"
    scan = code[names[0]](None, start.format("user"), start.format("assistant"), tokenizer=texts.qwen(), return_function=True)
    return lambda given: scan({"input_ids": given})["labels"]


def _definitions(package: str, file: str, names: list[str]) -> dict[str, Any]:
    """Run the imports from torch and the standard library of a module, and its definitions of these names."""
    tree = ast.parse((_folder(package) / file).read_text(encoding="utf-8"))
    usable = {*sys.stdlib_module_names, "torch"}
    tree.body = [node for node in tree.body if getattr(node, "name", None) in names or _imported(node) & usable]
    module = ModuleType(f"{package}.{file.removesuffix('.py')}")
    sys.modules[module.__name__] = module  # dataclasses look it up
    exec(compile(tree, file, "exec"), module.__dict__)
    return module.__dict__


def _imported(node: ast.stmt) -> set[str]:
    """Return the packages that a statement imports."""
    if isinstance(node, ast.ImportFrom):
        return {str(node.module).split(".")[0]}
    return {alias.name.split(".")[0] for alias in node.names} if isinstance(node, ast.Import) else set()


@cache
def _folder(package: str) -> Path | None:
    """Return the folder of an installed package, which is not imported."""
    spec = PathFinder.find_spec(package, _places())
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def _places() -> list[str]:
    return [*map(str, given_folders("ROLEMASK_PEERS")), *sys.path]


def _with_version(name: str) -> str:
    package = {"Axolotl": "axolotl", "Unsloth": "unsloth_zoo"}.get(name.split(",")[0])
    return f"{name} ({package} {next(iter(distributions(name=package, path=_places()))).version})" if package else name


def _missing() -> str:
    missing = [package for package in ("axolotl", "unsloth_zoo") if _folder(package) is None]
    return f"\n\nNot installed, so not measured: {', '.join(missing)}." if missing else ""
