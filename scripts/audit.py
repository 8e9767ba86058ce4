#!/usr/bin/env python3
"""Checks every dependency of the workspace, offline: its licence is one we may ship and it comes from a package registry or from here.

Advisories need a network and the cargo-audit program; without it that part is skipped, and the output says so.
Exit code 2 when something is wrong."""

import json
import re
import shutil
import subprocess
import sys

ALLOWED = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CDLA-Permissive-2.0",
    "ISC", "MIT", "MIT-0", "MPL-2.0", "OpenSSL", "Unicode-3.0", "Unlicense", "Zlib", "bzip2-1.0.6",
}


def acceptable(expression: str) -> bool:
    """Evaluates an SPDX expression such as `(MIT OR Apache-2.0) AND Unicode-3.0`."""
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))
    python, term = [], []

    def close() -> None:
        if term:
            python.append(str(" ".join(term) in ALLOWED))
            term.clear()

    for token in tokens:
        if token in ("(", ")", "AND", "OR"):
            close()
            python.append(token.lower())
        else:
            term.append(token)
    close()
    return bool(eval(" ".join(python)))  # only True, False, and, or, parentheses


def host() -> str:
    """The platform we build for: the one whose packages are on this machine."""
    version = subprocess.check_output(["rustc", "-vV"], text=True)
    return next(line.removeprefix("host: ") for line in version.splitlines() if line.startswith("host: "))


def main() -> int:
    metadata = json.loads(subprocess.check_output(["cargo", "metadata", "--format-version=1", "--locked", "--offline", "--filter-platform", host()]))
    problems = []
    for package in metadata["packages"]:
        name = f"{package['name']} {package['version']}"
        source, licence = package["source"], package["license"]
        if source is not None and not source.startswith(("registry+", "sparse+")):
            problems.append(f"{name}: comes from {source}")
        if licence is None and package["license_file"] is None:
            problems.append(f"{name}: names no licence")
        elif licence is not None and not acceptable(licence):
            problems.append(f"{name}: licence {licence} is not on the list")
    for problem in problems:
        print(f"audit: {problem}")
    print(f"audit: {len(metadata['packages'])} packages, {len(problems)} problems with licences and sources")

    if shutil.which("cargo-audit") is None:
        print("audit: advisories not checked, cargo-audit is not installed")
    elif subprocess.run(["cargo", "audit", "--quiet"]).returncode != 0:
        problems.append("advisories")
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
