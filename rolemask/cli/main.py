"""The command line. Exit status: 0 success, 1 problems found, 2 misuse or failure."""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

import rolemask
from rolemask.chat_templates.derive import DerivedMarkerSet, derive
from rolemask.chat_templates.detect import detect
from rolemask.chat_templates.loading import load_tokenizer
from rolemask.chat_templates.template import read_templates
from rolemask.chat_templates.verify import Verification, verify, write_verified
from rolemask.check import check_files
from rolemask.cli.chats import Chat, read_chats, render_with_markers, render_with_tokenizer
from rolemask.cli.html import to_html
from rolemask.errors import ChatError, FileReadError, RoleMaskError
from rolemask.markers.registry import load, load_file, registered
from rolemask.markers.schema import schema_comment, schema_path
from rolemask.markers.source import read_text
from rolemask.markers.spec import MarkerSet
from rolemask.masker import Masker
from rolemask.masking.explain import Explanation, visible
from rolemask.matching.toy_tokenizer import ToyTokenizer
from rolemask.matching.vocabulary import read_vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBLEMS, MISUSE = 1, 2
TRAINED_STYLE = "black on green"
MASKED_STYLE = "dim"


class _Failure(click.ClickException):
    """A RoleMaskError on the command line: the message, no traceback."""

    exit_code = MISUSE

    def show(self, file: IO[str] | None = None) -> None:
        click.echo(f"rolemask: {self.message}", err=True)


class _Group(click.Group):
    """Turns every RoleMaskError of a command into a message and exit status 2."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - as click declares it
        try:
            return super().invoke(ctx)
        except RoleMaskError as error:
            raise _Failure(str(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(rolemask.__version__)
def main() -> None:
    """Decide which tokens of a chat count in the training loss."""


_tokenizer_option = click.option("--tokenizer", metavar="ID|FOLDER", help="A tokenizer of Transformers: hub id or folder.")


@main.command("list")
def list_() -> None:
    """List the marker sets."""
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "title", "roles", "aliases"):
        table.add_column(heading, overflow="fold")
    for path in sorted(registered(), key=lambda path: path.stem):
        try:
            markers = load_file(path)
        except RoleMaskError as error:
            click.echo(f"skipped a malformed marker set: {error}", err=True)
            continue
        table.add_row(*map(escape, (markers.name, markers.title, ", ".join(markers.roles), ", ".join(markers.aliases))))
    Console().print(table)


@main.command()
@click.argument("name")
@_tokenizer_option
def show(name: str, tokenizer: str | None) -> None:
    """Show the markers of NAME (a name, an alias, a model's hub id, or a YAML file), with their ids in a tokenizer."""
    markers = load(name)
    encode: Callable[[str], Sequence[int]] | None = None
    if tokenizer is not None:
        loaded = load_tokenizer(tokenizer)
        markers.compile(loaded)  # raises for a wrong tokenizer, instead of showing a table of wrong ids
        encode = read_vocabulary(loaded).encode
    console = Console()
    console.print(f"[bold]{markers.name}[/bold]  {escape(markers.title)}  ({escape(markers.origin)})")
    table = Table(box=None, pad_edge=False)
    for heading in ("role", "start", "end", "notes"):
        table.add_column(heading, overflow="fold")
    for marker in markers.markers:
        flags = [f"within {marker.within}"] if marker.within else []
        flags += [word for word in ("include_start", "rewind", "follows_turn") if getattr(marker, word)]
        flags += [] if marker.include_end else ["not include_end"]
        flags += [f"header_end {_shown(marker.header_end, encode)}"] if marker.header_end else []
        flags += ["start_owner turn"] if marker.start_owner == "turn" else []
        flags += [f"unanswered {marker.unanswered}"] if marker.unanswered else []
        end = _shown(marker.end, encode) if marker.end else "the end of the sequence"
        table.add_row(*map(escape, (marker.role, _shown(marker.start, encode), end, ", ".join(flags))))
    console.print(table)
    if markers.document_start:
        console.print(f"document start: {escape(_shown(markers.document_start, encode))}", style=MASKED_STYLE)
    for kind, tokens in markers.media.items():
        console.print(f"{kind}: {escape(_shown(tokens, encode))}", style=MASKED_STYLE)


def _shown(patterns: Sequence[object], encode: Callable[[str], Sequence[int]] | None) -> str:
    parts = []
    for pattern in patterns:
        text = visible(str(pattern))
        if encode is not None and isinstance(pattern, str) and "*" not in pattern:
            text += f" {list(encode(pattern))}"
        parts.append(text)
    return " | ".join(parts)


@main.command()
@click.argument("files", nargs=-1, required=True, metavar="FILES...", type=click.Path())
def check(files: tuple[str, ...]) -> None:
    """Check marker-set FILES: shape, meaning, examples. Exit 1 on problems."""
    problems = check_files(files)
    for problem in problems:
        click.echo(str(problem))
    click.echo(f"{len(files)} checked, {len(problems)} problem{'' if len(problems) == 1 else 's'}", err=True)
    sys.exit(PROBLEMS if problems else 0)


@main.command("verify")
@click.argument("name")
@_tokenizer_option
@click.option("--template", "files", multiple=True, metavar="FILE", help="A chat template: Jinja, or JSON with the key chat_template.")
@click.option("--write", is_flag=True, help="Write the proofs into proofs/NAME.json beside the YAML file.")
@click.option("--show", "shown", metavar="SCENARIO", help="Also show the trained text, and the expected one, in this scenario.")
def verify_(name: str, tokenizer: str | None, files: tuple[str, ...], write: bool, shown: str | None) -> None:
    """Verify the marker set NAME against a model's own chat template. Exit 1 on a difference.

    Without --template, the tokenizer's own template is used; without --tokenizer, a small tokenizer made from the set's special tokens.
    With neither, the tokenizer of the first model that the set names; standard error says which.
    """
    markers = load(name)
    if tokenizer is None and not files:
        named = [model for model in markers.match.get("model_id", ()) if "*" not in model]
        if not named:
            raise ChatError(f"{markers.name!r} names no model: pass --tokenizer ID|FOLDER, or --template FILE")
        tokenizer = named[0]
        click.echo(f"with the tokenizer of {tokenizer}, the first model that {markers.name!r} names", err=True)
    loaded = None if tokenizer is None else load_tokenizer(tokenizer)
    found = [one for file in files or (None,) for one in verify(markers, loaded, None if file is None else Path(file))]
    console = Console()
    for one in found:
        _print_verification(console, one, shown)
    if write:
        path = write_verified(markers, found, rolemask.__version__)
        click.echo(f"wrote {path}" if path.is_file() else f"no proof holds, so there is no {path}")
    sys.exit(0 if all(one.ok for one in found) else PROBLEMS)


@main.command("derive")
@click.argument("source", metavar="TOKENIZER|TEMPLATE")
@click.option("--name", default="inferred", show_default=True, help="The name of the marker set.")
def derive_(source: str, name: str) -> None:
    """Derive a marker set from a chat template, and print it as YAML.

    TEMPLATE is a file: Jinja, or JSON with the key chat_template. TOKENIZER is a hub id or a folder. Exit 1 if something could not be
    settled; standard error says what.
    """
    derived = derive(_template_or_tokenizer(source), name=name)
    click.echo(derived.text, nl=False)
    _print_unsettled(derived)
    sys.exit(PROBLEMS if derived.unsettled else 0)


def _template_or_tokenizer(source: str) -> "Path | PreTrainedTokenizerBase":
    return Path(source) if Path(source).is_file() else load_tokenizer(source)


def _print_unsettled(derived: DerivedMarkerSet) -> None:
    for problem in derived.unsettled:
        click.echo(f"not settled: {problem}", err=True)
    for note in derived.notes:
        click.echo(f"note: {note}", err=True)


_SKELETON = """\
name: {name}
title: {name}                       # the model family, for people
special_tokens: ["<|turn|>", "<|end|>"]   # must each be one id in the tokenizer
markers:
  - role: [system, user, assistant]
    start: "<|turn|>{{{{ role }}}}\\n"
    end: "<|end|>"
  - role: other                     # a turn of any other role ends the turn before it, and is never trained
    start: "<|turn|>"
    end: "<|end|>"
source: {{repository: owner/model, revision: "the commit", path: chat_template.jinja}}
examples:
  - text: "<|turn|>user\\nHi<|end|>\\n<|turn|>assistant\\nHello!<|end|>\\n"
    trained: ["Hello!<|end|>"]
"""


@main.command()
@click.argument("name")
@click.option("--from", "source", metavar="TOKENIZER|TEMPLATE", help="Derive the markers from this chat template.")
@click.option("--folder", default="registry", show_default=True, type=click.Path(path_type=Path), help="Where to write NAME.yaml.")
def new(name: str, source: str | None, folder: Path) -> None:
    """Start a marker set: write NAME.yaml, derived from a chat template (--from) or as a skeleton to fill in.

    What could not be derived is in the file as comments. If a marker set fits already, you are told so.
    """
    path = folder / f"{name}.yaml"
    if path.exists():
        raise FileReadError(f"{path}: exists already")
    text, derived, reason, of_source = _SKELETON.format(name=name), None, "", ""
    if source is not None:
        loaded = _template_or_tokenizer(source)
        of_source = f" {'--template' if isinstance(loaded, Path) else '--tokenizer'} {source}"
        _say_what_fits(loaded)
        try:
            derived = derive(loaded, name=name)
            text = derived.text.partition("\n")[2]  # without the line that names the schema
        except ChatError as error:
            reason = str(error)
            text += f"# Nothing could be derived: {reason}\n"
    try:
        path.write_text(f"{schema_comment(folder)}\n{text}", encoding="utf-8")
    except OSError as error:
        raise FileReadError(f"{path}: cannot be written: {error.strerror or error}. Choose another folder with --folder") from error
    click.echo(f"wrote {path}. Next: edit it, then `rolemask check {path}` and `rolemask verify {path}{of_source}`")
    if derived is not None:
        _print_unsettled(derived)
    elif reason:
        click.echo(f"nothing could be derived, so the file is a skeleton: {reason}", err=True)


def _say_what_fits(loaded: object) -> None:
    """Say which registered set fits a tokenizer or the template in a file, if one does."""
    if isinstance(loaded, Path):
        templates = read_templates(loaded, {})
        loaded = SimpleNamespace(chat_template=templates[0].source, special_tokens_map={"bos_token": "<s>", "eos_token": "</s>"})
    try:
        fitting = detect(loaded).name
    except RoleMaskError:
        return
    click.echo(
        f"{fitting!r} fits already: `rolemask verify {fitting}` compares it. Add an alias and the model's id there instead", err=True
    )


@main.command()
def schema() -> None:
    """Print the JSON Schema of marker sets, for editors and other tools."""
    click.echo(read_text(schema_path()), nl=False)


_STATUS_STYLES = {"ok": "green", "differs": "bold red", "not supported": MASKED_STYLE, "masks more": "yellow"}


def _print_verification(console: Console, one: Verification, shown: str | None) -> None:
    console.print(f"[bold]{one.markers}[/bold] on {escape(one.template.name)}, tokenizer: {escape(one.tokenizer)}", highlight=False)
    table = Table(box=None, pad_edge=False)
    for heading in ("scenario", "result", ""):
        table.add_column(heading, overflow="fold")
    for result in one.scenarios:
        detail = "; ".join(part for part in (result.detail, *result.notes) if part)
        table.add_row(result.scenario, Text(result.status, style=_STATUS_STYLES[result.status]), escape(detail))
    console.print(table, highlight=False)
    for result in one.scenarios:
        if result.scenario == shown and result.trained:
            text = f"\n{result.scenario}, trained:\n{result.trained}\n\nexpected:\n{result.expected}"
            console.print(Text(text), soft_wrap=True, highlight=False)
    counts: Counter[str] = Counter(result.status for result in one.scenarios)
    console.print(
        ", ".join(f"{counts[status]} {status}" for status in _STATUS_STYLES if counts[status] or status != "masks more") + "\n",
        highlight=False,
    )


@main.command()
@click.argument("name")
@click.argument("chat", type=click.Path(path_type=Path))
@_tokenizer_option
@click.option("--html", type=click.Path(path_type=Path), metavar="OUT", help="Write a self-contained HTML page instead.")
@click.option("--roles-to-train", metavar="ROLE,...", help="The roles that are trained.  [default: assistant]")
@click.option("--roles-to-mask", metavar="ROLE,...", default="", help="The roles that are never trained.")
@click.option("--train-on-eos", metavar="WHICH", default="turn", show_default=True, help="Which end markers: turn, all, last or none.")
@click.option("--train-on-inputs", is_flag=True, help="Train everything but media and padding.")
@click.option("--turns", metavar="WHICH", default="all", show_default=True, help="Which turns: all, last or last_round.")
def explain(
    name: str,
    chat: Path,
    tokenizer: str | None,
    html: Path | None,
    roles_to_train: str | None,
    roles_to_mask: str,
    train_on_eos: str,
    train_on_inputs: bool,
    turns: str,
) -> None:
    """Show which tokens of CHAT (JSON or JSON Lines) are trained with the marker set NAME.

    With --tokenizer, its own chat template renders the chat. Without, the chat is rendered with the markers, and cut into tokens by a
    small tokenizer made from them.
    """
    markers = load(name)
    policy: dict[str, Any] = {"train_on_eos": train_on_eos, "train_on_inputs": train_on_inputs, "turns": turns}
    for option, roles in (("roles_to_train", roles_to_train), ("roles_to_mask", roles_to_mask)):
        if roles is not None:
            policy[option] = [role.strip() for role in roles.split(",") if role.strip()]
    explanations = _explain_chats(markers, read_chats(chat), tokenizer, policy)
    if html is not None:
        try:
            html.write_text(to_html(explanations), encoding="utf-8")
        except OSError as error:
            raise FileReadError(f"{html}: cannot be written: {error.strerror or error}") from error
        click.echo(f"wrote {html}")
        return
    console = Console()
    for explanation in explanations:
        _print_explanation(console, explanation)


def _explain_chats(markers: MarkerSet, chats: Sequence[Chat], tokenizer: str | None, policy: dict[str, Any]) -> list[Explanation]:
    if tokenizer is not None:
        loaded = load_tokenizer(tokenizer)
        masker = Masker(markers, loaded, **policy)
        rows = [render_with_tokenizer(chat, loaded) for chat in chats]
    else:
        texts = [render_with_markers(chat, markers) for chat in chats]
        toy = ToyTokenizer(markers, texts)
        masker = Masker(markers, toy, **policy)
        rows = [toy.encode(text) for text in texts]
    return [masker.explain(row) for row in rows]


def _print_explanation(console: Console, explanation: Explanation) -> None:
    text = Text()
    for trained, segments in groupby(explanation.segments, key=attrgetter("trained")):
        run = "".join(segment.text for segment in segments)
        # Without colours, brackets mark what is trained.
        text.append(run if console.color_system or not trained else f"[[{run}]]", style=TRAINED_STYLE if trained else MASKED_STYLE)
    console.print(text, soft_wrap=True, highlight=False)
    legend = Text.assemble(("trained", TRAINED_STYLE), " / ", ("masked", MASKED_STYLE)) if console.color_system else "[[trained]] / masked"
    counts = f": {explanation.trained} of {explanation.tokens} tokens are trained ({explanation.name}; {explanation.policy})"
    console.print(Text.assemble("\n", legend, counts), soft_wrap=True, highlight=False)
