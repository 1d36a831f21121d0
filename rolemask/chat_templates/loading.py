"""Tokenizers and processors of Transformers, loaded by hub id or folder."""

from typing import TYPE_CHECKING

from rolemask.errors import ChatError, require

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(name: str, *, needed_for: str = "--tokenizer") -> "PreTrainedTokenizerBase":
    """Load a tokenizer of Transformers from a hub id or a folder.

    Raises:
        MissingExtraError: Transformers is not installed.
        ChatError: There is no tokenizer of this name.
    """
    transformers = require("transformers", extra="hf", needed_for=needed_for)
    try:
        tokenizer: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()
        raise ChatError(
            f"cannot load the tokenizer {name!r}, neither as a folder nor from the hub: {reason[0] if reason else error!r}"
        ) from error
    return tokenizer


def load_processor(name: str, *, needed_for: str) -> object:
    """Load the processor of a hub id or folder, which may have a chat template that its tokenizer lacks; or else the tokenizer.

    Raises:
        MissingExtraError: Transformers is not installed.
        ChatError: There is neither.
    """
    transformers = require("transformers", extra="hf", needed_for=needed_for)
    try:
        processor: object = transformers.AutoProcessor.from_pretrained(name)
    except Exception:  # a processor may need packages that are not installed here; the tokenizer doesn't
        return load_tokenizer(name, needed_for=needed_for)
    # A model without a processor class gives what it has: a tokenizer, but maybe only the part that reads images.
    return processor if hasattr(processor, "tokenizer") or hasattr(processor, "encode") else load_tokenizer(name, needed_for=needed_for)
