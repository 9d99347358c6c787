#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes what the package is made of, as SPDX 2.3 in JSON: `packaging/sbom.py FILE`.

Carried wheels are those of packaging/vendor.txt, with their hashes; libraries and programs of
Debian those that debian/control depends on, whose versions are the host's. Licences are those that
debian/copyright names. Nothing is written down twice: all of it is read from these files.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SPDX_IDS = {"Expat": "MIT"}
"""Licences that SPDX calls otherwise than Debian."""


def carried() -> Iterator[tuple[str, str, str]]:
    """Name, version and SHA-256 of each carried wheel."""
    text = _read("packaging/vendor.txt").replace("\\\n", " ")
    for line in text.splitlines():
        if pinned := re.fullmatch(r"([\w.-]+)==(\S+)\s+--hash=sha256:([0-9a-f]{64})", line.strip()):
            yield pinned[1], pinned[2], pinned[3]
        elif line.strip() and not line.startswith("#"):
            raise SystemExit(f"packaging/vendor.txt: no name, version and one hash: {line}")


def depended() -> Iterator[tuple[str, str]]:
    """Each package that debian/control depends on, and the relation that names it."""
    field = re.search(r"^Depends:\n((?: .*\n)+)", _read("packaging/debian/control"), re.MULTILINE)
    assert field is not None
    seen = set()
    for relation in re.split(r"[,\n]+", field[1]):
        for one in relation.split("|"):
            name = one.split()[0] if one.strip() else ""
            if name and not name.startswith("$") and name not in seen:
                seen.add(name)
                yield name, relation.strip()


def licence_of(path: str) -> str:
    """The licence that debian/copyright has for a file, as SPDX calls it; the last match counts."""
    found = "NOASSERTION"
    for paragraph in _read("packaging/debian/copyright").split("\n\n"):
        fields = dict(re.findall(r"^(Files|License): (.*)$", paragraph, re.MULTILINE))
        if any(fnmatch(path, pattern) for pattern in fields.get("Files", "").split()):
            found = str(SPDX_IDS.get(fields["License"], fields["License"]))
    return found


def document() -> dict[str, Any]:
    """The whole SBOM. Its time is that of the changelog, so the output is reproducible."""
    (version,) = re.findall(r'^__version__ = "(.*)"$', _read("sparkd/_version.py"), re.MULTILINE)
    created = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
    parts = [*_wheels(), *_packages()]
    main = {
        **_package("sparkd", "sparkd", version, licence_of("sparkd/sparkctl/main.py")),
        "primaryPackagePurpose": "APPLICATION",
    }
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"sparkd-{version}",
        "documentNamespace": f"https://example.org/sparkd/sbom/{version}/{created:%Y%m%d%H%M%S}",
        "creationInfo": {
            "created": f"{created:%Y-%m-%dT%H:%M:%SZ}",
            "creators": [f"Tool: sparkd-sbom-{version}"],
        },
        "packages": [main, *(package for _, package in parts)],
        "relationships": [
            _relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-sparkd"),
            *(_relation("SPDXRef-sparkd", kind, str(one["SPDXID"])) for kind, one in parts),
        ],
    }


def _wheels() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, version, digest in carried():
        licence = licence_of(f"carried/{name.replace('-', '_')}/__init__.py")
        package = _package(f"wheel-{name}", name, version, licence)
        package["checksums"] = [{"algorithm": "SHA256", "checksumValue": digest}]
        package["externalRefs"] = [_reference(f"pkg:pypi/{name}@{version}")]
        yield "CONTAINS", package


def _packages() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, relation in depended():
        package = _package(f"deb-{name}", name, "", "NOASSERTION")
        package["comment"] = f"Depends: {relation}"
        package["externalRefs"] = [_reference(f"pkg:deb/debian/{name}")]
        yield "DEPENDS_ON", package


def _package(reference: str, name: str, version: str, licence: str) -> dict[str, Any]:
    return {
        "SPDXID": "SPDXRef-" + re.sub(r"[^A-Za-z0-9.-]", "-", reference),
        "name": name,
        **({"versionInfo": version} if version else {}),
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": licence,
        "licenseDeclared": licence,
        "copyrightText": "NOASSERTION",
    }


def _reference(purl: str) -> dict[str, str]:
    return {
        "referenceCategory": "PACKAGE-MANAGER",
        "referenceType": "purl",
        "referenceLocator": purl,
    }


def _relation(one: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(document(), indent=1) + "\n", encoding="utf-8")
