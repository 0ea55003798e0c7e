"""Make a small hub by running a commit itself, and keep it as a fixture for the tests of upgrades.

    python -m tests.upgrade.make_hub_of 7689ad6

The commit is exported and installed without its dependencies into an environment of its own, which finds them in the
environment of `--python`: where the commit needs others than today's, give one that has them. `fill_hub.py` then runs
in that environment, so that no line of later code of the hub takes part.

    hub_of_<commit>.tar.xz
      notes.json      what the tests need to know: secrets, ids, hashes, and how the API answered
      roles.sql       pg_dumpall --globals-only
      database.sql    pg_dump --create
      home/           the hub's folder without database, logs and run
      files/          what a user of the hub had: a pulled adapter, a recipe
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
FILLERS = ("fill_hub.py", "visiting.py")
# Left behind: made anew at each start, or told by the dump.
LEFT_OUT = {"postgres", "logs", "run"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("commit")
    parser.add_argument("--python", default=sys.executable, help="an environment with the commit's dependencies")
    options = parser.parse_args()
    commit = git("rev-parse", "--short=7", f"{options.commit}^{{commit}}").decode().strip()
    # Short, for the sockets in it; open to pass through, for the account that root's Postgres runs as.
    with tempfile.TemporaryDirectory(prefix="fh-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        python = install(commit, folder, Path(options.python))
        for filler in FILLERS:
            (folder / filler).write_bytes((HERE / filler).read_bytes())
        command = [str(python), str(folder / "fill_hub.py"), commit, str(folder / "hub"), str(folder / "source")]
        subprocess.run(command, cwd=folder, env=clean_environment(folder), check=True)
        archive = HERE / f"hub_of_{commit}.tar.xz"
        pack(folder / "hub", archive)
    print(f"{archive}: {archive.stat().st_size / 1e6:.1f} MB")


def install(commit: str, folder: Path, python: Path) -> Path:
    """The Python of an environment that holds the commit, and finds other packages where `python` does."""
    source = folder / "source"
    with tarfile.open(fileobj=io.BytesIO(git("archive", commit))) as archive:
        archive.extractall(source, filter="data")
    subprocess.run([str(python), "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    own = folder / "venv" / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    borrowed, packages = (
        subprocess.run([str(one), "-c", ask], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        for one in (python, own)
    )
    # A plain path: the .pth files in it, such as that of an editable install of today's code, count for nothing.
    Path(packages, "borrowed.pth").write_text(f"{borrowed}\n")
    pip = [str(python), "-m", "pip", "--python", str(own), "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, str(source)], check=True)
    return own


def clean_environment(folder: Path) -> dict[str, str]:
    """No hub's addresses of the shell that this was called from, and a user's home that is empty."""
    kept = {key: os.environ[key] for key in ("PATH", "LANG", "LC_ALL", "TZ") if key in os.environ}
    return {**kept, "HOME": str(folder / "user")}


def pack(hub: Path, archive: Path) -> None:
    def entry(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        parts = Path(info.name).parts
        if parts[0] == "home" and len(parts) > 1 and parts[1] in LEFT_OUT:
            return None
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        return info

    with tarfile.open(archive, "w:xz", preset=9) as packed:
        for path in sorted(hub.iterdir()):
            packed.add(path, path.name, filter=entry)


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=REPOSITORY, stdout=subprocess.PIPE, check=True).stdout


if __name__ == "__main__":
    main()
