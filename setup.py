"""Builds the Cython extensions.

Switches, all environment variables:

    FASTRELAY_ONLY=reply,client   build just these extensions (a quick rebuild while working on one)
    FASTRELAY_DEBUG=1             -O0 -g, assertions and bounds checks
    FASTRELAY_COVERAGE=1          line tracing for coverage.py
    FASTRELAY_SANITIZE=address    compile and link with a sanitizer (tests/run --asan uses it)
    FASTRELAY_ANNOTATE=1          write Cython's annotated HTML next to the sources
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup

EXT = Path("ext/fastrelay/_core")
LIBRARIES = {"lmdb": ["lmdb"], "commit": ["lmdb"], "scan": ["lmdb"]}

debug = bool(os.environ.get("FASTRELAY_DEBUG"))
coverage = bool(os.environ.get("FASTRELAY_COVERAGE"))
sanitize = os.environ.get("FASTRELAY_SANITIZE", "")
only = {name for name in os.environ.get("FASTRELAY_ONLY", "").split(",") if name}

compile_args = ["-std=gnu11", "-Wno-unreachable-code"]
link_args = []
compile_args += ["-O0", "-g", "-UNDEBUG"] if debug else ["-O2", "-g1", "-fno-semantic-interposition"]
if sanitize:
    compile_args += [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-g"]
    link_args += [f"-fsanitize={sanitize}"]

Options.annotate = bool(os.environ.get("FASTRELAY_ANNOTATE"))


def extension(pyx: Path) -> Extension:
    """One extension; its dotted name equals its path below ext/ (DESIGN section 7)."""
    name = pyx.stem
    headers = sorted(str(path) for path in (*EXT.glob("*.pxd"), *EXT.glob("*.h")))
    return Extension(
        f"fastrelay._core.{name}",
        [str(pyx)],
        libraries=LIBRARIES.get(name, []),
        include_dirs=[str(EXT)],
        depends=headers,
        extra_compile_args=compile_args,
        extra_link_args=link_args,
        define_macros=[("CYTHON_TRACE", "1")] if coverage else [],
    )


setup(
    ext_modules=cythonize(
        [extension(pyx) for pyx in sorted(EXT.glob("*.pyx")) if not only or pyx.stem in only],
        include_path=["ext"],
        annotate=Options.annotate,
        nthreads=0,
        compiler_directives={
            "language_level": "3",
            "boundscheck": True,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
            "embedsignature": True,
            "linetrace": coverage,
            "warn.undeclared": False,
        },
    ),
)
