"""`make audit`: known vulnerabilities, risky code, and all licences. Outside CI, since it asks the web.

python -m tests.gates.audit TOOLS     TOOLS is the folder of pip-audit, bandit and pip-licenses; exit codes:

     0  nothing was found
     1  something was found, by one of the three
    69  nothing was found, but the advisories could not be asked about every package: whether they are safe is not known
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from tests.gates.dead_links import ROOT

FOUND = 1
NOT_ASKED = os.EX_UNAVAILABLE


@dataclass
class Advisories:
    """What the index's advisories say about packages, and which packages they could not be asked about."""

    asked: int = 0
    vulnerable: list[str] = field(default_factory=list)
    not_asked: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, document: dict[str, Any]) -> Advisories:
        """From pip-audit's JSON. It skips what it was not told about, and then says that nothing was found."""
        advisories = cls()
        for package in document["dependencies"]:
            if "skip_reason" in package:
                advisories.not_asked.append(package["name"])
                continue
            advisories.asked += 1
            for found in package["vulns"]:
                fixed = ", ".join(found["fix_versions"]) or "no release yet"
                advisories.vulnerable.append(f"{package['name']} {package['version']}: {found['id']}, fixed in {fixed}")
        return advisories

    def verdict(self) -> tuple[int, str]:
        """The exit code, and the words for it."""
        lines = [f"  {line}" for line in self.vulnerable]
        if self.not_asked:
            names = ", ".join(self.not_asked[:5]) + (", …" if len(self.not_asked) > 5 else "")
            lines.append(
                f"  NOT CHECKED: the advisories on {len(self.not_asked)} packages could not be reached: {names}"
            )
            lines.append("  Run `make audit` where the package index answers with its advisories.")
        if self.vulnerable:
            return FOUND, "\n".join(lines)
        return (NOT_ASKED if self.not_asked else 0), "\n".join(lines or [f"  {self.asked} packages, none known"])


def installed() -> list[str]:
    """Every package beside our own as `name==version`, without the mark of a local build (torch's `+cpu`)."""
    found = {package.name: package.version.partition("+")[0] for package in distributions()}
    return [f"{name}=={version}" for name, version in sorted(found.items()) if name != "finetune_hub"]


def ask_advisories(tools: Path) -> Advisories:
    """Ask about everything that is installed. Where pip-audit gets no answer at all, it ends without a document."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
        requirements.write("\n".join(installed()))
        requirements.flush()
        answer = subprocess.run(
            [tools / "pip-audit", "--requirement", requirements.name, "--no-deps", "--disable-pip", "--format=json"],
            capture_output=True,
            text=True,
            check=False,
        )
    if not answer.stdout:
        print(answer.stderr.strip().splitlines()[-1])
        return Advisories(not_asked=installed())
    return Advisories.read(json.loads(answer.stdout))


def main(tools: Path) -> int:
    print("Vulnerabilities known of what is installed (pip-audit)")
    advisories, words = ask_advisories(tools).verdict()
    print(words)
    print("Risky code (bandit)", flush=True)
    bandit = [tools / "bandit", "--quiet", "--recursive", "--configfile=pyproject.toml", "finetune_hub", "workers"]
    risky = subprocess.run(bandit, cwd=ROOT, check=False).returncode
    print("Licences that are not allowed, by the list in pyproject.toml (pip-licenses)", flush=True)
    licences = [tools / "pip-licenses", f"--python={sys.executable}", "--summary"]
    forbidden = subprocess.run(licences, cwd=ROOT, check=False).returncode
    return FOUND if risky or forbidden else advisories


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
