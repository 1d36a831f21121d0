"""Runs the examples of a marker set, with the toy tokenizer."""

from rolemask.errors import Problem, RoleMaskError
from rolemask.markers.spec import IGNORE_INDEX, Example, MarkerSet
from rolemask.masking.policy import DEFAULT_ROLES, make_policy
from rolemask.masking.reference import mask
from rolemask.matching.compiler import compile_rules
from rolemask.matching.toy_tokenizer import ToyTokenizer


def check_examples(markers: MarkerSet) -> list[Problem]:
    """Run the examples of a marker set, and return a problem for each that trains something else than it says."""
    problems = []
    for example in markers.examples:
        try:
            trained = trained_texts(markers, example)
        except RoleMaskError as error:
            problems.append(Problem(example.where, str(error)))
            continue
        if trained != list(example.trained):
            message = f"this example trains {trained}, expected {list(example.trained)}"
            problems.append(Problem(example.where, message, "correct the markers, or what `trained` lists"))
    return problems


def trained_texts(markers: MarkerSet, example: Example) -> list[str]:
    """Return the trained stretches of an example's text, under the default policy."""
    tokenizer = ToyTokenizer(markers)  # single bytes and special tokens: exact to the character
    rules = compile_rules(markers, tokenizer.vocabulary)
    roles = [role for role in DEFAULT_ROLES if role in markers.roles]
    ids = tokenizer.encode(example.text)
    labels = mask(ids, rules, make_policy(markers.roles, roles_to_train=roles)).labels
    runs: list[list[int]] = []
    for at, label in enumerate(labels):
        if label != IGNORE_INDEX:
            if at == 0 or labels[at - 1] == IGNORE_INDEX:
                runs.append([])
            runs[-1].append(label)
    return [rules.vocabulary.text(run) for run in runs]
