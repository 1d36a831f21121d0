"""Chat templates: renders messages with Jinja, in the same sandbox as Transformers.

The environment (its options, `tojson`, `raise_exception`, `strftime_now`, the `generation` tag) is that of
transformers/utils/chat_template_utils.py, transformers 5.24. Transformers itself is not needed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from traceback import walk_tb
from typing import Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rolemask.chat_templates.attribution import WRITTEN_FOR, Generation, add_marks, marker_of, read_marks
from rolemask.errors import ChatError
from rolemask.markers.source import read_text

Message = dict[str, Any]

# Templates with a date must render the same text every day, since renderings are compared.
_NOW = datetime(2026, 1, 15, 12, 0, 0)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    # Jinja's own `tojson` escapes HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, autoescape=False, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _NOW.strftime
    return environment


@lru_cache(maxsize=64)
def _compiled(source: str) -> jinja2.Template:
    environment = _environment()
    tree = environment.parse(source)
    add_marks(tree)
    return environment.from_string(tree)


class RenderError(ChatError):
    """A chat template failed on some messages.

    `reason` is the template's own error, without the template's name; `line` is the line of the template where it arose, if it is known.
    """

    def __init__(self, template: str, reason: str, line: int | None = None) -> None:
        super().__init__(template, reason, line)
        self.template = template
        self.reason = reason
        self.line = line

    @property
    def is_syntax(self) -> bool:
        """Whether the template is no Jinja, so that it fails on any messages."""
        return isinstance(self.__cause__, jinja2.TemplateSyntaxError)

    def __str__(self) -> str:
        return f"{self.template}: {self.reason}"


def _line_of(error: Exception) -> int | None:
    if isinstance(error, jinja2.TemplateSyntaxError):
        return error.lineno
    # Jinja puts the template's own lines into the traceback.
    lines = [line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == "<template>"]
    return lines[-1] if lines else None


@dataclass(frozen=True)
class Rendering:
    """A rendered conversation.

    Attributes:
        text: The text.
        generated: The ranges [start, stop) of it inside `generation` blocks.
        written_for: (start, stop, index of the message) of each piece that was written in a loop over the messages.
    """

    text: str
    generated: tuple[tuple[int, int], ...] = ()
    written_for: tuple[tuple[int, int, int], ...] = ()

    def own(self, index: int) -> tuple[int, int] | None:
        """Return the range [start, stop) that was written for message `index`; None if it is not known, or not one piece."""
        pieces = [(start, stop) for start, stop, of in self.written_for if of == index]
        written = [piece for piece in pieces if piece[0] < piece[1]]
        if not written:
            return pieces[-1] if pieces else None
        joined = all(before[1] == after[0] for before, after in pairwise(written))
        return (written[0][0], written[-1][1]) if joined else None


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja chat template, as `verify` and `derive` take it.

    >>> source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
    >>> template = ChatTemplate(source, "toy", {"eos_token": "</s>"})
    >>> template.render([{"role": "user", "content": "Hi"}]).text
    '<user>Hi</s>'

    Attributes:
        source: The Jinja text.
        name: What error messages call it.
        variables: What it can use besides the messages: `bos_token`, `eos_token` and others.
    """

    source: str
    name: str
    variables: Mapping[str, Any]

    @property
    def sha256(self) -> str:
        """The SHA-256 of the source. Proofs name templates by it."""
        return sha256(self.source.encode()).hexdigest()

    @property
    def marks_generation(self) -> bool:
        """Whether the template has `generation` blocks."""
        return "endgeneration" in self.source

    def render(self, messages: Sequence[Message], *, prompt: bool = False, tools: Sequence[Any] | None = None, **options: Any) -> Rendering:
        """Render messages.

        Args:
            messages: Dicts with `role` and `content`, as for `apply_chat_template`.
            prompt: Add the generation prompt.
            tools: JSON schemas of the tools.
            options: Further variables, such as `enable_thinking`.

        Raises:
            ChatError: The template refuses these messages; the error holds its own message.
        """
        given = list(messages)
        variables = {**self.variables, **options, WRITTEN_FOR: marker_of(given)}
        try:
            marked = _compiled(self.source).render(messages=given, tools=tools, add_generation_prompt=prompt, **variables)
            text, generated, written_for = read_marks(marked)
        except Exception as error:  # templates can raise anything
            raise RenderError(self.name, f"{type(error).__name__}: {error}", _line_of(error)) from error
        return Rendering(text, tuple(generated), tuple(written_for))


def templates_of(tokenizer: object) -> list[ChatTemplate]:
    """Return the chat templates of a Transformers tokenizer or processor: none, one, or several with names ("default" first).

    Raises:
        ChatError: What it has is no Jinja text, nor several with names.
    """
    inner = getattr(tokenizer, "tokenizer", None)
    # Newer processors have the template themselves, older ones leave it to their tokenizer.
    found = getattr(tokenizer, "chat_template", None) or getattr(inner, "chat_template", None)
    if not found:
        return []
    variables = variables_of(tokenizer)
    where = plain_name(getattr(tokenizer, "name_or_path", "") or getattr(inner, "name_or_path", "") or type(tokenizer).__name__)
    named = _by_name(found, f"the chat template of {where}")
    names = sorted(named, key=lambda name: name != "default")
    return [ChatTemplate(named[name], f"the chat template {name} of {where}".replace("  ", " "), variables) for name in names]


def _by_name(found: object, what: str) -> dict[str, str]:
    """Return the Jinja texts in a value of `chat_template`: one text, a mapping from names to texts, or a list of {name, template}."""
    if isinstance(found, list) and all(isinstance(entry, Mapping) and {"name", "template"} <= entry.keys() for entry in found):
        found = {entry["name"]: entry["template"] for entry in found}
    named: dict[str, object] = dict(found) if isinstance(found, Mapping) else {"": found}
    texts = {name: source for name, source in named.items() if isinstance(source, str)}
    for name in named:
        which = f"{what}, {name!r}," if name else what
        if name not in texts:
            raise ChatError(f"{which} is of the type {type(named[name]).__name__}, expected Jinja text")
        if any("\ud800" <= char <= "\udfff" for char in texts[name]):
            raise ChatError(f"{which} has half a surrogate pair, so it is no text")
    return texts


def variables_of(tokenizer: object) -> dict[str, Any]:
    """Return the variables a tokenizer or processor gives its template: `bos_token`, `eos_token` and others."""
    inner = getattr(tokenizer, "tokenizer", None)
    return dict(getattr(inner, "special_tokens_map", None) or getattr(tokenizer, "special_tokens_map", None) or {})


def read_templates(template: str | Path, variables: Mapping[str, Any]) -> list[ChatTemplate]:
    """Read chat templates from a file (Jinja, or JSON with the key `chat_template`), or take Jinja text as it is.

    Raises:
        FileReadError: The file cannot be read.
        ChatError: The file has no template, or it is no Jinja text.
    """
    if isinstance(template, str) and ("{%" in template or "{{" in template):
        return [ChatTemplate(template, "the template given", variables)]
    path = Path(template)
    text = read_text(path)
    if path.suffix != ".json":
        return [ChatTemplate(text, path.name, variables)]
    try:
        found = json.loads(text)["chat_template"]
    except (ValueError, TypeError, KeyError) as error:
        raise ChatError(f"{path} is not JSON with the key 'chat_template'") from error
    named = _by_name(found, f"the chat template in {path}")
    return [ChatTemplate(source, f"{path.name} {name}".strip(), variables) for name, source in named.items()]


def plain_name(name: str) -> str:
    """Return a hub id unchanged, and only the last part of a folder's path, so that proofs contain no local paths."""
    return Path(name).name if Path(name).is_dir() else name
