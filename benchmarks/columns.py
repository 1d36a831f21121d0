"""Tables of what `datasets` and frames pass, and of what looks at rows: reports and explanations."""

from collections.abc import Callable
from typing import Any

import numpy as np
import other_projects
import pandas
import polars
import pyarrow
from common import masker, rows
from tables import table
from timing import median, medians

SHAPES = ((1, 512), (8, 512), (100, 1000), (1000, 1000))
LARGEST = SHAPES[-1]


def lists() -> str:
    """Lists of lists, as `datasets.map(..., batched=True)` passes them."""
    label, others = masker(), other_projects.for_lists()
    names = ["rolemask", "`numpy.asarray(row).tolist()`", *others]
    found = {}
    for shape in SHAPES:
        given = rows(shape).ids.tolist()
        calls: dict[str, Callable[[], Any]] = {
            "rolemask": lambda given=given: label(given),
            "`numpy.asarray(row).tolist()`": lambda given=given: [np.asarray(row).tolist() for row in given],
        }
        calls |= {name: lambda call=call, given=given: call(given) for name, call in others.items()}
        found[shape] = medians(calls, 6)
    head = [
        "way, ns a token",
        *(f"{count} x {size}" for count, size in SHAPES),
        *(f"{count} x {size}: times rolemask" for count, size in SHAPES[-1:]),
    ]
    cells = [
        [name, *(found[shape][name] / np.prod(shape) * 1e9 for shape in SHAPES), found[LARGEST][name] / found[LARGEST]["rolemask"]]
        for name in names
    ]
    return table(head, cells)


def formats() -> str:
    """The forms in which a column of ids may come."""
    label, ids = masker(), rows(LARGEST).ids
    given = ids.tolist()
    forms: dict[str, Any] = {
        "an array (B, T)": ids,
        "lists of `int`": given,
        "lists of `numpy.int64`": [list(row) for row in ids],
        "a list of arrays": list(ids),
        "an Arrow column of lists": pyarrow.chunked_array([pyarrow.array(given)]),
        "a pandas column of lists": pandas.Series(given),
        "a pandas column of arrays": pandas.Series(list(ids)),
        "a polars column of lists": polars.Series(given),
    }
    times = medians({name: lambda form=form: label(form) for name, form in forms.items()}, 8)
    return table(
        ["`input_ids`, 1000 x 1000", "ns a token", "times lists of `int`"],
        [[name, taken / ids.size * 1e9, taken / times["lists of `int`"]] for name, taken in times.items()],
    )


def looks() -> str:
    """Reports and explanations."""
    label, ids, long = masker(), rows(LARGEST).ids, rows((1, 32768)).ids
    report = median(lambda: label.report(ids), 5)
    explain = median(lambda: label.explain(long), 5)
    return table(
        ["what", "us a row", "ns a token"],
        [
            ["`report`, 1000 rows of 1000 tokens", report / len(ids) * 1e6, report / ids.size * 1e9],
            ["`explain`, a row of 32,768 tokens", explain * 1e6, explain / long.size * 1e9],
        ],
    )
