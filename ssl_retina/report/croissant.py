"""A set of shards -> `croissant.json`: Croissant 1.1 JSON-LD with the fields for responsible use (RAI 1.0).

In: the index of a set. Out: what dataset search engines and mlcroissant read: every shard and its SHA-256,
what a sample says, licence and limits. No pseudonym and no path; the set lies beside it, under no address.
"""

from pathlib import Path
from typing import Any

from ssl_retina import files
from ssl_retina.report import datasheet
from ssl_retina.shards import Index

NAME = "croissant.json"
CONFORMS = ("http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0")
TERMS = (
    *("column", "data", "dataBiases", "dataCollection", "dataType", "dct", "extract", "field", "fileObject"),
    *(
        "fileProperty",
        "fileSet",
        "format",
        "includes",
        "isLiveDataset",
        "jsonPath",
        "key",
        "md5",
        "parentField",
    ),
    *("path", "personalSensitiveInformation", "recordSet", "references", "regex", "repeated", "replace"),
    *(
        "samplingRate",
        "separator",
        "source",
        "subField",
        "transform",
        "value",
        "containedIn",
        "equivalentProperty",
    ),
)
FIELDS = {
    "file": ("filename", "Name of the JSON member: the pseudonym of the photograph, and .json"),
    "json": (
        "content",
        "The JSON of the photograph: key, name, patient, group, eye, modality, device, visit, split, width, "
        "height, source_width, source_height, field_of_view, aliases, pixels_xxh128 (shards/FORMAT.md)",
    ),
}
PERSONAL = (
    "Photographs of eyes of patients, pseudonymised under a key of the site: they identify an eye as a "
    "fingerprint does a finger, and are personal data.",
)
LIMITATIONS = (
    "No labels. Counts by device, eye, modality and visits are in datasheet.html.",
    "Damage that still decodes, and text burned into the picture, may be there.",
)


def write(index: Index, path: Path) -> None:
    """Write the file whole; in a private folder it is private."""
    files.write_json(path, describe(index), files.mode_beside(path.parent))


def describe(index: Index) -> dict[str, Any]:
    """The set as a JSON-LD object; the same set gives the same object."""
    use = datasheet.use(index.facts)
    name = datasheet.name_of(index)
    return {
        "@context": _context(),
        "@type": "sc:Dataset",
        "conformsTo": list(CONFORMS),
        "name": name,
        "description": f"{index.samples} retinal photographs, de-identified, in WebDataset shards.",
        "license": use["licence"],
        "url": use["page"],
        "citeAs": use["citation"],
        "version": f"0.0.0+{index.digest[:12]}",
        "sc:identifier": f"sha256:{index.digest}",
        "distribution": _distribution(index),
        "recordSet": [_records()],
        "rai:dataCollection": f"{use['title']}; consent: {use['consent']}",
        "rai:personalSensitiveInformation": list(PERSONAL),
        "rai:dataLimitations": list(LIMITATIONS),
        "rai:dataUseCases": "Self-supervised pretraining; not for diagnosis.",
    }


def _context() -> dict[str, Any]:
    """The names of the standard: those of schema.org, and its own as `cr:NAME`."""
    own: dict[str, Any] = {term: f"cr:{term}" for term in TERMS if term not in ("dct", "dataType", "data")}
    own |= {"data": {"@id": "cr:data", "@type": "@json"}, "dct": "http://purl.org/dc/terms/"}
    own |= {"dataType": {"@id": "cr:dataType", "@type": "@vocab"}, "conformsTo": "dct:conformsTo"}
    own |= {"examples": {"@id": "cr:examples", "@type": "@json"}, "citeAs": "cr:citeAs"}
    names = {"sc": "https://schema.org/", "cr": "http://mlcommons.org/croissant/"}
    names |= {"rai": "http://mlcommons.org/croissant/RAI/"}
    return {"@language": "en", "@vocab": "https://schema.org/", **names, **own}


def _distribution(index: Index) -> list[dict[str, Any]]:
    """Every shard as a file, and the JSON members of all of them as a set of files."""
    tars = [
        {
            "@type": "cr:FileObject",
            "@id": shard.url,
            "name": shard.url,
            "contentUrl": shard.url,
            "contentSize": f"{shard.filesize} B",
            "encodingFormat": "application/x-tar",
            "sha256": shard.sha256,
        }
        for shard in index.shards
    ]
    inside = [{"@id": shard.url} for shard in index.shards]
    samples = {"@type": "cr:FileSet", "@id": "samples", "name": "samples", "containedIn": inside}
    return [*tars, samples | {"encodingFormat": "application/json", "includes": "*.json"}]


def _records() -> dict[str, Any]:
    """One record a photograph, its JSON as text: mlcroissant 1.1 reads no JSON path in a set of files."""
    return {
        "@type": "cr:RecordSet",
        "@id": "photographs",
        "name": "photographs",
        "description": "One record a photograph; the picture lies beside it in the shard.",
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"photographs/{name}",
                "name": name,
                "description": text,
                "dataType": "sc:Text",
                "source": {"fileSet": {"@id": "samples"}, "extract": {"fileProperty": part}},
            }
            for name, (part, text) in FIELDS.items()
        ],
    }
