"""Collects the bundle: run within the base image, while its image is built.

Its programs run from /opt/kumite whatever else an image holds, or lacks: each names the bundle's own dynamic
loader as its interpreter, and that loader looks for libraries in the bundle's folder first. Both are paths in
files, which are overwritten with others that are no longer.
"""

import compileall
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

HOME = "/opt/kumite"
_LOADER = f"{HOME}/lib/ld.so"
_UNNEEDED = (
    *("test", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "pydoc_data", "distutils"),
    *("site-packages", "dist-packages", "config-*", "LICENSE.txt"),
)
_OF_EXTENSIONS = ("libgcc_s.so.1", "libstdc++.so.6")
"""Libraries that compiled packages need, where a volume has some: those of harnesses' programs."""
_LIBRARY = re.compile(r"^\s*(?:(\S+) => )?(/\S+) \(0x", re.MULTILINE)
_FOLDER = re.compile(rb"(?<=\0)/(?:usr/)?lib/[a-z0-9_]+-linux-gnu/(?=\0)")
_CACHE = (b"/etc/ld.so.cache", b"/etc/ld.so.preload")


def main() -> None:
    """Fills the folder that the command line names."""
    out = Path(sys.argv[1])
    binaries, libraries = out / "bin", out / "lib"
    binaries.mkdir(parents=True)
    library = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(
        library, libraries / library.name, symlinks=False, ignore=shutil.ignore_patterns(*_UNNEEDED)
    )
    programs = {f"python{sysconfig.get_python_version()}": sys.executable, "bash": shutil.which("bash")}
    elves: list[Path] = list((libraries / library.name).rglob("*.so"))
    for name, program in programs.items():
        if program is None:
            raise SystemExit(f"the base image has no {name}")
        shutil.copyfile(os.path.realpath(program), binaries / name)
        (binaries / name).chmod(0o755)
        elves.append(binaries / name)
    for name in ("python", "python3"):
        (binaries / name).symlink_to(f"python{sysconfig.get_python_version()}")
    interpreters = _copy_libraries(elves, libraries)
    for library_name in _OF_EXTENSIONS:
        for found in Path("/").glob(f"usr/lib/*-linux-gnu/{library_name}"):
            _copy_libraries([found], libraries)
            shutil.copyfile(os.path.realpath(found), libraries / library_name)
    if len(interpreters) != 1:
        raise SystemExit(f"the base image has not one dynamic loader, but {sorted(interpreters)}")
    interpreter = interpreters.pop()
    shutil.copyfile(os.path.realpath(interpreter), libraries / "ld.so")
    (libraries / "ld.so").chmod(0o755)
    _make_loader_look_here(libraries / "ld.so")
    for name in programs:
        _overwrite(binaries / name, interpreter.encode(), _LOADER.encode())
    packages = libraries / library.name / "sandbox_images"
    shutil.copytree("/kumite/sandbox_images", packages)
    compileall.compile_dir(
        packages, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH, stripdir=str(out)
    )


def _copy_libraries(elves: list[Path], folder: Path) -> set[str]:
    """Copies every shared library that these need; gives back the dynamic loaders that they name."""
    interpreters: set[str] = set()
    for elf in elves:
        told = subprocess.run(["ldd", str(elf)], capture_output=True, text=True, check=False).stdout
        if "not found" in told:
            raise SystemExit(f"{elf} needs a library that the base image has not: {told}")
        for name, path in _LIBRARY.findall(told):
            if not name:
                interpreters.add(path)
            elif not (folder / name).exists():
                shutil.copyfile(os.path.realpath(path), folder / name)
                (folder / name).chmod(0o755)
    return interpreters


def _make_loader_look_here(loader: Path) -> None:
    content, changed = _FOLDER.subn(
        lambda found: f"{HOME}/lib/".encode().ljust(len(found[0]), b"/"), loader.read_bytes()
    )
    if not changed:
        raise SystemExit("the base image's dynamic loader is not Debian's: it names no folder to replace")
    loader.write_bytes(content)
    for path in _CACHE:  # those of the image are of other libraries
        _overwrite(loader, path, b"/dev/null/none".ljust(len(path), b"-"))


def _overwrite(file: Path, old: bytes, new: bytes) -> None:
    """Replaces a text that ends in NUL, by one that is no longer."""
    content = file.read_bytes()
    if old + b"\0" not in content or len(new) > len(old):
        raise SystemExit(f"{file}: {old!r} is not there to be replaced by {new!r}")
    file.write_bytes(content.replace(old + b"\0", new.ljust(len(old) + 1, b"\0")))


if __name__ == "__main__":
    main()
