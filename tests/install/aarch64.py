"""Builds the library for AArch64 and runs the tests of its kernels under qemu: `make test-aarch64`.

Debian's arm64 packages of Python and cffi are unpacked below build/aarch64/root, beside pure Python
copies of pytest and hypothesis; nothing of them is installed. The compiler is Debian's cross
compiler. It takes long: qemu interprets each instruction.

Usage: aarch64.py [TEST FILE ...]    unset: the kernel tests
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

HOME = Path("build/aarch64").absolute()
ROOT, TREE, SITE = HOME / "root", HOME / "tree", HOME / "site"
COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
PACKAGES = ("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libc6",
            "libgomp1", "libgcc-s1", "libffi8", "zlib1g", "libexpat1", "libssl3", "libbz2-1.0",
            "liblzma5", "libuuid1", "libcrypt1", "python3-cffi-backend")
SHARED = ("python3-cffi", "python3-pycparser", "python3-ply")  # for every processor
PURE = ("hypothesis==6.112.0", "pytest<9")  # later ones hold modules for this processor
TESTS = ("simd", "few_rows", "quantized", "convert", "kernels", "half_tensors", "units", "blocks",
         "sampling", "gradients", "bpe")
# It starts Python anew, which qemu-user leaves to this system.
NOT_HERE = "tests/test_bpe.py::test_the_reference_backend_gives_the_same_ids"


def run(*command, **options):
    return subprocess.run([str(word) for word in command], check=True, **options)


def unpack():
    """Fill ROOT and SITE, unless they are there."""
    if (HOME / ".unpacked").exists():
        return
    debs = HOME / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    run("apt-get", "-qq", "download", *(f"{name}:arm64" for name in PACKAGES), *SHARED, cwd=debs)
    for deb in debs.glob("*.deb"):
        run("dpkg-deb", "-x", deb, ROOT)
    run(sys.executable, "-I", "-m", "pip", "install", "-q", "--disable-pip-version-check",
        "--target", SITE, *PURE)
    (HOME / ".unpacked").touch()


def build():
    """Copy the sources to TREE and cross-compile them there."""
    for name in ("csrc", "pygpt", "tests", "docs"):
        shutil.copytree(name, TREE / name, dirs_exist_ok=True,
                        ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(name, TREE)
    run(sys.executable, "setup.py", "-q", "build_ext", "--inplace", cwd=TREE,
        env=os.environ | {"CC": COMPILER, "LDSHARED": f"{COMPILER} -shared"})


def main(files):
    missing = [name for name in (COMPILER, EMULATOR, "dpkg-deb") if not shutil.which(name)]
    if missing:
        sys.exit(f"test-aarch64: {missing[0]} is missing; on Debian: dpkg --add-architecture arm64 "
                 "&& apt-get update && apt-get install gcc-aarch64-linux-gnu qemu-user")
    unpack()
    build()
    environment = os.environ | {"PYTHONPATH": f"{SITE}:{ROOT}/usr/lib/python3/dist-packages"}
    command = [EMULATOR, "-L", ROOT, ROOT / "usr/bin/python3.11", "-m", "pytest",
               f"--deselect={NOT_HERE}", *(files or [f"tests/test_{name}.py" for name in TESTS])]
    return subprocess.run([str(word) for word in command], cwd=TREE, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
