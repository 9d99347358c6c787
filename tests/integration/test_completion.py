# SPDX-License-Identifier: Apache-2.0
"""The completions of `sparkctl` in real shells, with the files of the package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODELS = {"gpt-oss-20b", "gpt-oss-120b"}
ADAPTED = """\
models:
  lora-base:
    image: localhost/x
    aliases: [lora-alias]
    adapters: {lora-sql: {path: /srv/sql}, lora-law: {path: /srv/law}}
"""
CASES = {
    "sparkctl sta": {"start", "status", "stats"},
    "sparkctl start gpt-": MODELS,
    "sparkctl stop --now gpt-": MODELS,
    "sparkctl smoke --coder gpt-": MODELS,
    "sparkctl integrate clin": {"cline"},
    "sparkctl integrate cline gpt-": MODELS,
    "sparkctl run lora-": {"lora-base", "lora-sql", "lora-law"},
    "sparkctl key ro": {"rotate"},
    "sparkctl key add --model gpt-": MODELS,
    "sparkctl key add --scope inf": {"inference"},
    "sparkctl key add --sc": {"--scope"},
    "sparkctl key show gpt-": set(),
    "sparkctl start --js": {"--json"},
}
BASH = """
source "$FILES/sparkctl"
COMP_WORDS=($LINE) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
$(complete -p sparkctl | grep -o '_sparkctl') && printf '%s\\n' "${COMPREPLY[@]}"
"""
FISH = 'source "$FILES/sparkctl.fish"; complete -C "$LINE"'
# zsh completes in its line editor only, so one runs on a terminal of its own. Its own compadd is
# asked what fits, by an array that it fills, and says so.
ZSH = r"""
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'PROMPT= RPROMPT=; stty -echo; fpath=($FILES $fpath)'
zpty -w shell 'autoload -U compinit; compinit -u -D'
zpty -w shell 'compadd() {
    if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then builtin compadd "$@"; return; fi
    local -a fitting; builtin compadd -A fitting "$@"; builtin compadd "$@"
    for one in $fitting; do print -r -- "<$one>"; done
}'
zpty -w shell 'say() { _main_complete; print -r -- "<>"; compstate[insert]= }'
zpty -w shell 'zle -C list complete-word say'
zpty -w shell 'bindkey "^I" list; print "<rea"dy\>'
zpty -r shell answer '*<ready>*'
zpty -n -w shell "$LINE"$'\t'
zpty -r shell answer '*<>*'
print -r -- "$answer" | grep -o '<[^ >]*>' | tr -d '<>'
"""
SHELLS = {"bash": ("bash", "-c", BASH), "fish": ("fish", "-c", FISH), "zsh": ("zsh", "-fc", ZSH)}


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files, and a sparkctl that knows the shipped catalog."""
    place = tmp_path_factory.mktemp("completion")
    subprocess.run([sys.executable, ROOT / "packaging/completions.py", place], check=True)
    program = place / "bin/sparkctl"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from sparkd.sparkctl.main import main\nsys.exit(main())\n"
    )
    program.chmod(0o755)
    models = place / "etc/models.d"
    models.mkdir(parents=True)
    (models / "lora.yaml").write_text(ADAPTED)
    return {
        **os.environ,
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "FILES": str(place),
        "HOME": str(place),
        "TERM": "xterm",
        "SPARKD_CATALOG_DIR": str(ROOT / "etc/models.d"),
        "SPARKD_CONFIG_DIR": str(place / "etc"),
    }


@pytest.mark.parametrize("line", CASES)
@pytest.mark.parametrize("shell", SHELLS)
def test_shell_offers_what_fits(shell: str, line: str, environ: dict[str, str]) -> None:
    done = subprocess.run(
        SHELLS[shell],
        env={**environ, "LINE": line},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    offered = {word.split("\t")[0].strip() for word in done.stdout.splitlines()} - {""}
    assert offered == CASES[line], done.stderr
    assert done.stderr == ""
