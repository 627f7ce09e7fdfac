"""What files themselves say about their patients, for the id map alone: in a worker process, never written.

In: pseudonyms, each with places where its photographs lie. Out: the raw id that is this pseudonym, or None.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing

from ssl_retina import pseudonyms
from ssl_retina.archive import containers, readers
from ssl_retina.archive.found import Found
from ssl_retina.archive.rejection import Rejected, Unforeseen
from ssl_retina.archive.statements import attributes
from ssl_retina.archive.worker import Job, content_of

Lying = tuple[Found, str]
"""A file, and which of its pictures; "" where it has one."""


def originals(job: Job, wanted: Mapping[str, Sequence[Lying]]) -> dict[str, str]:
    """Pseudonym -> raw id, for all that one of their files still names: a file may hold several patients."""
    with closing(containers.Reader(job.source)) as reader:
        named = {pseudonym: _original(job, pseudonym, places, reader) for pseudonym, places in wanted.items()}
    return {pseudonym: raw for pseudonym, raw in named.items() if raw is not None}


def _original(job: Job, pseudonym: str, places: Sequence[Lying], reader: containers.Reader) -> str | None:
    for found, place in places:
        raw = _stated(job, found, place, reader)
        patient = attributes.patient(raw)
        if patient is not None and pseudonyms.patient(job.key, patient, job.site) == pseudonym:
            return raw
    return None


def _stated(job: Job, found: Found, place: str, reader: containers.Reader) -> str:
    """What one picture of a file states; "" where that is nothing, or it cannot be read any more."""
    try:
        with Unforeseen():
            content = content_of(job, found, reader)
            for part in readers.parts(content, found.path, job.selection):
                if part.place.name == place:
                    return part.decode().facts.get("patient", "")
    except Rejected:
        pass
    return ""
