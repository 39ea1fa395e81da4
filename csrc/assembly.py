"""Prints the assembly of a kernel's inner loops, with the source lines that it was made from.

    python csrc/assembly.py KERNEL [SET]          make asm KERNEL=gelu

KERNEL is a part of a function's name, such as "gelu" or "gelu_forward". SET is an instruction set,
by default the one in use. The file of the set, and the files whose names hold KERNEL, are compiled
by the build's own compiler and flags, with debugging tables (which change no instruction), and
objdump, of binutils, prints the functions. What the compiler has inlined is part of the function
that calls it.
"""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def sources(kernel, isa):
    """Return the C files in which functions of this kernel may lie, for one instruction set."""
    names = [f"isa_{isa}.c", f"unit_{isa}.c"]
    if isa not in ("avx512", "avx2", "baseline", "neon"):  # a unit: the float32 loops are AVX-512's
        names.append("isa_avx512.c")
    others = [path.name for path in sorted(HERE.glob("*.c"))
              if kernel.partition("_")[0] in path.stem
              and not path.name.startswith(("isa_", "unit"))]
    return [HERE / name for name in dict.fromkeys(names + others) if (HERE / name).exists()]


def functions(path):
    """Return the names of the functions in an object file."""
    listing = subprocess.run(["objdump", "-t", path], capture_output=True, text=True, check=True)
    return re.findall(r" F \.text\S*\s+[0-9a-f]+ (?:\.hidden )?(\S+)$", listing.stdout,
                      re.MULTILINE)


def main(kernel, isa):
    build = runpy.run_path(str(HERE / "build_ffi.py"))
    command = build["compiler"]()
    flags = [*build["all_flags"](command)[0], "-fPIC", "-g"]
    folder = HERE.parent / "build" / "assembly"
    folder.mkdir(parents=True, exist_ok=True)
    found, others = 0, []
    for source in sources(kernel, isa):
        made = folder / f"{source.stem}.o"
        subprocess.run([*command, *flags, "-I", HERE, "-c", source, "-o", made], check=True)
        for name in functions(made):
            if kernel not in name:
                others.append(name)
                continue
            found += 1
            print(f"# {name} in {source.name}", flush=True)
            subprocess.run(["objdump", "--no-show-raw-insn", "--source", f"--disassemble={name}",
                            made], check=True)
    if not found:
        sys.exit(f"asm: no function has {kernel!r} in its name; there are: "
                 f"{', '.join(sorted(set(others)))}")


def set_in_use():
    """Return the instruction set that the built library uses here."""
    code = "from pygpt.backend import kernels; print(kernels.isa())"
    return subprocess.run([sys.executable, "-c", code], cwd=HERE.parent, capture_output=True,
                          text=True, check=True).stdout.strip()


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or not sys.argv[1]:
        sys.exit("asm: name a kernel, such as: make asm KERNEL=gelu")
    if not shutil.which("objdump"):
        sys.exit("asm: objdump not found; install binutils")
    main(sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else set_in_use())
