"""Writes C that compiles only those loops of an instruction set that one .inl file changes.

To compile all loops of a set takes several seconds, and a list of mutations changes one at a time.
So the whole table of the set is compiled once, as isa_SET_whole. For a mutant, the C written here
compiles the loops that contain the changed file, and puts them into a copy of that table:

    isa_avx2 = isa_avx2_whole, then isa_avx2.softmax_forward = the new one, ...
"""

import re

TABLE = re.compile(r"extern const isa ISA_TABLE;\nconst isa ISA_TABLE = \{\n(.*?)\n\};\n",
                   re.DOTALL)
ENTRY = re.compile(r"^    \.(\w+) = (.*?),(?=\n    \.|\Z)", re.DOTALL | re.MULTILINE)
# The beginning of a function, or of a macro's call that makes one.
DEFINITION = re.compile(r"^(?:(?:static|INLINE|NOINLINE)\b[^;={}]*?\b(\w+)\(|"
                        r"(?:TILE|FEW_PART)\((\w+))", re.MULTILINE)


def definitions(text):
    """Return [(name, the words of its text)] of the functions of an .inl file."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    found = list(DEFINITION.finditer(text))
    ends = [each.start() for each in found[1:]] + [len(text)]
    return [(next(filter(None, each.groups())), set(re.findall(r"\w+", text[each.start():end])))
            for each, end in zip(found, ends)]


def dependent(files, changed):
    """Return the names that depend on a file: its own, and those whose text holds one of them.

    Args:
        files: {name: text} of all files that define loops.
        changed: the name of one of them.
    """
    every = [each for text in files.values() for each in definitions(text)]
    found, size = {name for name, _ in definitions(files[changed])}, -1
    while len(found) != size:
        size = len(found)
        found |= {name for name, words in every if words & found}
    return found


def write(folder, name, changed):
    """Return the text of a C file.

    Args:
        folder: the Path of csrc.
        name: the instruction set.
        changed: the name of the file that was changed, an .inl or simd.h.
    """
    files = {path.name: path.read_text() for path in folder.glob("*.inl")
             if path.name not in ("isa.inl", "unit.inl", "unit_tiles.inl", "attention_bf16.inl",
                                  "matmul_bf16.inl")}
    files["simd.h"] = (folder / "simd.h").read_text()
    depend, isa = dependent(files, changed), (folder / "isa.inl").read_text()
    entries = [(key, value) for key, value in ENTRY.findall(TABLE.search(isa)[1] + "\n")
               if depend & set(re.findall(r"\w+", value))]
    listed = "\n".join(f"    .{key} = {value}," for key, value in entries)
    copied = "\n".join(f"    memcpy(&isa_{name}.{key}, &changed.{key}, sizeof changed.{key});"
                       for key, _ in entries)
    table = (f"extern const isa isa_{name}_whole;\nstatic const isa changed = {{\n{listed}\n}};\n"
             f"isa isa_{name};\n__attribute__((constructor)) static void take_changed(void) {{\n"
             f"    isa_{name} = isa_{name}_whole;\n{copied}\n}}\n")
    set_text = (folder / f"isa_{name}.c").read_text()
    return set_text.replace('#include "isa.inl"', TABLE.sub(lambda _: table, isa))
