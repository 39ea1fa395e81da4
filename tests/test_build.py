"""Tests the build: what it refuses, what it says, what makes it build again, what its modules show.

Compiles no C, beyond checking the syntax of a header. tests/install has the builds with real
compilers, which take longer (`make test-install`). Needs setuptools.
"""

import os
import runpy
import shlex
import shutil
import struct
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

from sources import copied_sources

pytest.importorskip("setuptools")

TOP = Path(__file__).parent.parent
MISSING = "pygpt: error: no C compiler: 'no-such-cc' not found"
BUILD = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
# A compiler that records its arguments and makes an empty file as its output.
FAKE_COMPILER = """#!/bin/sh
echo "$@" >> "{log}"
while [ $# -gt 0 ]; do [ "$1" = -o ] && : > "$2"; shift; done
"""


@pytest.fixture
def tree(tmp_path):
    return copied_sources(tmp_path / "tree")


def run(tree, command, **env):
    """Run a command to its end, without the environment's choices about building."""
    kept = {name: value for name, value in os.environ.items()
            if name not in ("CC", "CFLAGS", "LDSHARED") and not name.startswith(("PYGPT_", "MAKE"))}
    return subprocess.run(command, cwd=tree, env={**kept, **env}, capture_output=True, text=True,
                          timeout=120)


def make(tree, target):
    """Return the command of `make target` that uses this Python, not the environment's."""
    venv = tree / ".venv"
    venv.mkdir(exist_ok=True)
    (venv / ".installed").touch()
    return ["make", target, f"VENV={venv}", f"PY={sys.executable}"]


def test_without_a_compiler_the_build_says_so_in_one_line(tree):
    result = run(tree, BUILD, CC="no-such-cc")
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith(MISSING) and result.stderr.count("\n") == 1


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_make_without_a_compiler_stops_with_that_line(tree):
    result = run(tree, make(tree, "train"), CC="no-such-cc")
    said = [line for line in result.stderr.splitlines() if not line.startswith("make: ***")]
    assert result.returncode == 2 and result.stdout == ""  # 2 is make's own for any failure
    assert len(said) == 1 and said[0].startswith(MISSING)


def test_pip_without_a_compiler_shows_that_line(tree):
    pytest.importorskip("pip")
    result = run(tree, [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps",
                        "--no-index", "--disable-pip-version-check", "--target", "out", "."],
                 CC="no-such-cc")
    assert result.returncode == 1
    assert MISSING in result.stderr and "Traceback" not in result.stderr


def test_a_source_distribution_needs_no_compiler_and_holds_the_sources(tree):
    result = run(tree, [sys.executable, "setup.py", "-q", "sdist"], CC="no-such-cc")
    assert result.returncode == 0, result.stderr
    with tarfile.open(next((tree / "dist").glob("pygpt-*.tar.gz"))) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    needed = {str(path.relative_to(tree)) for folder in ("csrc", "pygpt", "tests")
              for path in (tree / folder).rglob("*.*") if path.suffix not in (".pyc", ".egg-info")}
    assert needed | {"Makefile", "setup.py", "pyproject.toml", "LICENSE", "README.md"} <= packed


def test_what_makes_it_build_again(tree, tmp_path):
    log = tmp_path / "compiled"
    first, second = tmp_path / "first-cc", tmp_path / "second-cc"
    for cc in (first, second):
        cc.write_text(FAKE_COMPILER.format(log=log))
        cc.chmod(0o755)

    def compiled(cc=first, **env):
        """Return the kernel sources that a build compiles, and its last compiler command."""
        log.write_text("")
        result = run(tree, BUILD, CC=str(cc), **env)
        assert result.returncode == 0, result.stderr
        lines = log.read_text().splitlines()
        return {path.name for path in (tree / "csrc").glob("*.c")
                if any(f"csrc/{path.name} " in line for line in lines)}, lines

    everything = {path.name for path in (tree / "csrc").glob("*.c")}
    assert compiled()[0] == everything
    assert compiled()[0] == set()

    again, lines = compiled(PYGPT_OPENMP="0")
    assert again == everything and not any("-fopenmp" in line for line in lines)
    assert compiled(PYGPT_OPENMP="0")[0] == set()
    again, lines = compiled()
    assert again == everything and sum("-fopenmp" in line for line in lines) > len(everything)

    assert compiled(PYGPT_CFLAGS="-DNOTHING")[0] == everything
    assert compiled(PYGPT_CFLAGS="-DNOTHING", CFLAGS="-DMORE")[0] == everything
    assert compiled(second)[0] == everything
    assert compiled(second)[0] == set()

    for name in ("csrc/gelu.inl", "csrc/simd.h", "csrc/pygpt.h", "csrc/gelu.c"):
        newest = max(path.stat().st_mtime for path in (tree / "build").rglob("*"))
        os.utime(tree / name, (newest + 1, newest + 1))
        assert compiled(second)[0] == everything, name
        for path in (tree / "build").rglob("*.so"):  # as if a second had passed
            os.utime(path, (newest + 2, newest + 2))
    assert compiled(second)[0] == set()


@pytest.mark.parametrize("status", [0, 1])
def test_an_assembler_without_the_units_instructions_leaves_them_out(tree, tmp_path, status):
    log, compiler = tmp_path / "log", tmp_path / "cc"
    refuse = f'case "$(cat "$1" 2>/dev/null)" in *tdpbf16ps*) exit {status};; esac\n'
    compiler.write_text(FAKE_COMPILER.format(log=log).replace("while", refuse + "while", 1))
    compiler.chmod(0o755)
    result = run(tree, BUILD, CC=str(compiler))
    assert result.returncode == 0, result.stderr
    compiled = [line for line in log.read_text().splitlines() if "dispatch.c" in line]
    assert compiled and all(("-DPYGPT_NO_UNITS" in line) == bool(status) for line in compiled)


# ------------------------------------------------------------------------- what others can see ---

# The linker's own names, which some of them export.
OF_THE_LINKER = {"_init", "_fini", "_edata", "_end", "__bss_start"}
MODULES = sorted((TOP / "pygpt").glob("_*.so"))


def dynamic_symbols(path):
    """Return {name: whether the file defines it} of an ELF file's dynamic symbols."""
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\2\1":
        pytest.skip("not a 64-bit little-endian ELF file")
    start, size, count = struct.unpack_from("<40xQ10xHH", data)  # of the section headers
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, start + i * size) for i in range(count)]
    symbols = next(section for section in sections if section[1] == 11)  # SHT_DYNSYM
    names = sections[symbols[6]][4]  # where the strings of its link begin
    found = {}
    for at in range(symbols[4] + 24, symbols[4] + symbols[5], 24):  # the first symbol is empty
        name, _, _, section = struct.unpack_from("<IBBH", data, at)
        found[data[names + name:data.index(b"\0", names + name)].decode()] = section != 0
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name.partition(".")[0])
def test_a_module_exports_the_name_of_its_init_alone(path):
    symbols = dynamic_symbols(path)
    exported = {name for name, defined in symbols.items() if defined} - OF_THE_LINKER
    # Clang's lock for OpenMP's reductions, which libraries share on purpose; no C name begins so.
    exported = {name for name in exported if not name.startswith(".gomp_critical_user_")}
    assert exported == {f"PyInit_{path.name.partition('.')[0]}"}
    assert len(symbols) > 3  # those of Python's that it needs


# ------------------------------------------------------------------------ what a build refuses ---

GCC_8 = "-U__clang__ -U__GNUC__ -D__GNUC__=8"
CLANG_12 = "-D__clang__ -D__clang_major__=12 -U__apple_build_version__"
REFUSED = [
    (GCC_8, "pygpt needs GCC 9 or newer, because older ones lack __builtin_convertvector"),
    ("-U__clang__ -U__GNUC__", "pygpt needs GCC 9 or newer or Clang 13 or newer"),
    (f"-U__clang_major__ {CLANG_12}", "pygpt needs Clang 13 or newer"),
    ("-D__clang__ -U__clang_major__ -D__clang_major__=13 -D__apple_build_version__=1",
     "pygpt needs Apple Clang 14 or newer"),
    ("-D_MSC_VER=1940", "pygpt needs GCC or Clang, because it uses their vector types, which MSVC"),
    ("-D_WIN32", "pygpt does not run on Windows itself"),
    ("-U__BYTE_ORDER__ -D__BYTE_ORDER__=4321", "pygpt needs a little-endian processor"),
    ("-U__SIZEOF_POINTER__ -D__SIZEOF_POINTER__=4", "pygpt needs a 64-bit system and a 64-bit"),
]


@pytest.fixture(scope="module")
def build_ffi():
    """Return the names that csrc/build_ffi.py defines."""
    return runpy.run_path(str(TOP / "csrc" / "build_ffi.py"))


@pytest.fixture
def real_compiler():
    command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if not shutil.which(command[0]):
        pytest.skip("needs a C compiler, which checks the syntax of one file")
    return command


@pytest.mark.parametrize("flags, sentence", REFUSED)
def test_a_compiler_or_target_that_cannot_work_is_refused_by_name(build_ffi, real_compiler, flags,
                                                                  sentence):
    with pytest.raises(SystemExit) as refusal:
        build_ffi["require_support"]([*real_compiler, "-Wno-builtin-macro-redefined",
                                      *flags.split()])
    said = str(refusal.value)
    assert said.startswith(f"pygpt: error: {sentence}") and "\n" not in said


def test_a_compiler_that_can_work_is_not_refused(build_ffi, real_compiler):
    build_ffi["require_support"](real_compiler)


def test_a_build_that_is_refused_says_so_in_one_line(tree, real_compiler):
    result = run(tree, BUILD, CC=shlex.join(real_compiler), PYGPT_CFLAGS="-D_MSC_VER=1940")
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith("pygpt: error: pygpt needs GCC or Clang")
    assert result.stderr.count("\n") == 1


def test_windows_is_told_of_wsl(build_ffi, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit, match="^pygpt: error: .*MSVC.*; use WSL"):
        build_ffi["compiler"]()


# -------------------------------------------------------------- OpenMP on macOS, by a stand-in ---

# Apple's Clang: the driver does not know -fopenmp, and finds omp.h and libomp where it is told.
APPLE_CLANG = """#!/bin/sh
echo "$@" >> "{log}"
case " $* " in
    *" -Xpreprocessor -fopenmp -I{root}/include "*" -L{root}/lib "*" -lomp "*) exit 0;;
esac
exit 1
"""


@pytest.fixture
def apple_clang(tmp_path, monkeypatch):
    """Return (a stand-in for Apple's compiler, where it finds libomp, the log of its calls)."""
    root, log, cc = tmp_path / "brew" / "opt" / "libomp", tmp_path / "log", tmp_path / "cc"
    cc.write_text(APPLE_CLANG.format(log=log, root=root))
    cc.chmod(0o755)
    monkeypatch.setattr(sys, "platform", "darwin")
    for name in ("PYGPT_OPENMP", "CONDA_PREFIX", "HOMEBREW_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    return str(cc), root, log


@pytest.mark.parametrize("variable, below", [("HOMEBREW_PREFIX", "opt/libomp"),
                                             ("CONDA_PREFIX", "")])
def test_on_macos_libomp_is_found_where_it_is_usually_installed(build_ffi, apple_clang, monkeypatch,
                                                                variable, below):
    cc, root, _ = apple_clang
    (root / "include").mkdir(parents=True)
    (root / "include" / "omp.h").touch()
    monkeypatch.setenv(variable, str(root).removesuffix(below).rstrip("/"))
    compiling, linking = build_ffi["openmp_flags"]([cc])
    assert compiling == ["-Xpreprocessor", "-fopenmp", f"-I{root}/include"]
    assert linking == [f"-L{root}/lib", f"-Wl,-rpath,{root}/lib", "-lomp"]


def test_on_macos_without_libomp_the_hint_names_homebrew_and_macports(build_ffi, apple_clang,
                                                                      capsys):
    cc, _, log = apple_clang
    assert build_ffi["openmp_flags"]([cc]) is None
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "one thread" in said
    assert "brew install libomp" in said and "port install libomp" in said
    assert "-Xpreprocessor -fopenmp" in log.read_text()  # it was tried without a place, too


def test_elsewhere_the_hint_names_the_packages_of_linux(build_ffi, apple_clang, monkeypatch,
                                                        capsys):
    monkeypatch.setattr(sys, "platform", "linux")
    assert build_ffi["openmp_flags"]([apple_clang[0]]) is None
    assert "libgomp" in (said := capsys.readouterr().err) and "brew" not in said
    assert "-Xpreprocessor" not in apple_clang[2].read_text()
