"""Labels files and tasks, joined with shards by keyed pseudonyms: neither ever names the other's files.

    table = labels.read(Path("labels.csv"))
    target = labels.target(labels.parse_task("glaucoma=Label:GON+"), table)
    joined = labels.join(table, reader, key)             # reader: shards.Reader; key: pseudonyms.read_key()
    numbers, classes = labels.agreed(joined, target)     # (n,) rows of the reader, (n,) int64 classes

`target.classes` are the classes' names, (negative, positive) of a binary task.
"""

from ssl_retina.labels.joining import CONFLICT, Joined, agreed, class_of, join
from ssl_retina.labels.table import PATIENT_COLUMNS, Table, parse, read
from ssl_retina.labels.tasks import Kind, Target, Task, listed, parse_task, target

__all__ = [
    "CONFLICT",
    "PATIENT_COLUMNS",
    "Joined",
    "Kind",
    "Table",
    "Target",
    "Task",
    "agreed",
    "class_of",
    "join",
    "listed",
    "parse",
    "parse_task",
    "read",
    "target",
]
