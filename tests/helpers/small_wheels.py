"""Wheels of a few lines, so that packages can be resolved and installed without any network."""

import zipfile
from pathlib import Path

BACKEND = """import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from making import make_wheel


def build_wheel(folder, config_settings=None, metadata_directory=None):
    return make_wheel(Path(folder), "gamma", "1.0", {"gamma.py": Path("gamma.py").read_text()}).name
"""
PYPROJECT = """[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "gamma"
version = "1.0"
"""


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    files: dict[str, str],
    needs: tuple[str, ...] = (),
    python: str | None = None,
) -> Path:
    path = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += f"Requires-Python: {python}\n" if python is not None else ""
    metadata += "".join(f"Requires-Dist: {need}\n" for need in needs)
    contents = {
        **files,
        f"{about}/METADATA": metadata,
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in [*contents, f"{about}/RECORD"])
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in {**contents, f"{about}/RECORD": record}.items():
            wheel.writestr(zipfile.ZipInfo(file), text)
    return path


def make_package_folder(folder: Path, value: int) -> Path:
    """A folder with a pyproject.toml, of a package `gamma`, with a build backend of its own."""
    folder.mkdir(exist_ok=True)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "backend.py").write_text(BACKEND)
    (folder / "making.py").write_text(Path(__file__).read_text())
    (folder / "gamma.py").write_text(f"VALUE = {value}\n")
    return folder
