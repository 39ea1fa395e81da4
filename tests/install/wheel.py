"""Builds the wheel of the source tree that is the current directory: `make wheel`.

pip builds it from the source archive, in an environment of its own, so that nothing left over from
an earlier build gets into it. auditwheel then copies the OpenMP runtime into it and names the
oldest C library with which it works (manylinux). One wheel serves CPython 3.10 and newer on one
kind of processor (abi3).

Usage: wheel.py [FOLDER]    the wheel is written to FOLDER, else to dist/
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

TOOLS = ("auditwheel", "patchelf")


def build(folder, environment):
    """Build the wheel of the current directory.

    Args:
        folder: where to write the wheel, a Path.
        environment: where to make the virtual environment that holds auditwheel, if it is missing.
    Returns:
        The wheel's path.
    Raises:
        subprocess.CalledProcessError: pip or auditwheel has failed, and said why on stderr.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        _run(sys.executable, "setup.py", "-q", "sdist", "--dist-dir", made)
        _run(sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps",
             "--wheel-dir", made, next(Path(made).glob("*.tar.gz")))
        wheel = next(Path(made).glob("*.whl"))
        if sys.platform != "linux":
            return Path(wheel.replace(folder / wheel.name))  # auditwheel knows Linux only
        tools = _with_tools(environment)
        # auditwheel looks for patchelf in PATH. --strip: the runtime comes with its symbol table.
        said = _run(tools / "auditwheel", "repair", "--strip", "--wheel-dir", folder, wheel,
                    env={**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"},
                    stderr=subprocess.PIPE)
    name = next(line for line in reversed(said.stderr.splitlines()) if ".whl" in line)
    return folder / Path(name.split()[-1]).name


def _with_tools(environment):
    """Return the folder of programs of an environment that holds TOOLS; make it if it is missing.
    """
    programs = environment.resolve() / "bin"
    if not (programs / "auditwheel").exists():
        _run(sys.executable, "-m", "venv", environment)
        _run(programs / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check",
             *TOOLS)
    return programs


def _run(*command, **options):
    result = subprocess.run(command, text=True, **options)
    if result.returncode:
        sys.stderr.write(result.stderr or "")
        result.check_returncode()
    return result


def described(wheel):
    """Describe a wheel in two lines: its name and sizes in bytes, and its compiled files."""
    with zipfile.ZipFile(wheel) as opened:
        files = opened.infolist()
    unpacked = sum(file.file_size for file in files)
    compiled = [f"{Path(file.filename).name} {file.file_size:,}" for file in files
                if ".so" in file.filename or file.filename.endswith(".dylib")]
    return (f"{wheel.name}: {wheel.stat().st_size:,} bytes, {unpacked:,} unpacked\n"
            f"  {', '.join(compiled)}")


if __name__ == "__main__":
    try:
        print(described(build(Path(*sys.argv[1:2] or ["dist"]), Path("build", "wheel-tools"))))
    except subprocess.CalledProcessError as error:
        sys.exit(f"wheel: error: {' '.join(map(str, error.cmd[:4]))} ... failed")
