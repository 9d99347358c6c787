# SPDX-License-Identifier: Apache-2.0
"""`sparkctl` as a command: what it says to a wrong command line, how it ends, what it loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparkd.core.errors import (
    Busy,
    Forbidden,
    GpuHeld,
    HostError,
    Misconfigured,
    NotFound,
    NotPresent,
    RequestError,
    SparkdError,
    StartCrashed,
    StartTimedOut,
    Unauthorized,
    Unavailable,
)
from sparkd.sparkctl import main
from sparkd.sparkctl.arguments import Options, parse
from sparkd.sparkctl.exit_codes import Exit, NotPermittedError, UsageError, exit_of
from tests.unit.project.sources import ROOT

HEAVY = {"asyncio", "podman", "requests", "httpx", "dbus_fast", "sanic", "psutil", "logging"}
IMAGE = "registry.example/vllm:1"


@pytest.fixture
def config_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Configuration of our own, of an installation whose user manager does not run."""
    for name in ("RUNTIME", "STATE", "CONFIG", "CATALOG"):
        directory = tmp_path / name.lower()
        directory.mkdir()
        monkeypatch.setenv(f"SPARKD_{name}_DIR", str(directory))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "config"


def write_catalog(config_dir: Path, text: str) -> Path:
    path = config_dir / "models.d/test.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def sparkctl(*words: str) -> subprocess.CompletedProcess[str]:
    program = "import sys; from sparkd.sparkctl.main import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        ([], "no command is given", "sparkctl --help"),
        (["modles"], "there is no command sparkctl modles", "did you mean sparkctl models?"),
        (["xyzzy"], "there is no command sparkctl xyzzy", "sparkctl --help"),
        (["key"], "key wants one of show, rotate, add, list, revoke", "sparkctl key --help"),
        (["key", "add"], "the following arguments are required: NAME", "sparkctl key add --help"),
        (["key", "add", "x", "--scope", "root"], "'root' is not one of inference, admin", ""),
        (["key", "add", "x", "--per-minute", "-1"], "argument --per-minute", ""),
        (["key", "add", "x", "--concurrent", "0"], "0 is out of range", "1 to 100000"),
        (["key", "add", "two words"], "'two words' is not a valid key name", "at most 64"),
        (
            ["key", "revoke", "api-key"],
            "is the key that the package made",
            "sudo sparkctl key rotate",
        ),
        (["key", "add", "x", "--expires", "soon"], "'soon' is not a date", "write 2027-01-31"),
        (
            ["key", "add", "x", "--expires", "2020-01-01"],
            "--expires 2020-01-01 is in the past",
            "name a later day",
        ),
        (
            ["key", "shwo"],
            "there is no command sparkctl key shwo",
            "did you mean sparkctl key show",
        ),
        (["start"], "the following arguments are required: MODEL", "sparkctl start --help"),
        (["ps", "--yes"], "unrecognized arguments: --yes", "sparkctl --help"),
        (["stop", "a", "b"], "unrecognized arguments: b", "sparkctl --help"),
        (["logs", "a", "-n", "-3"], "argument -n/--lines", "sparkctl logs --help"),
        (["logs", "a", "-n", "x"], "'x' is not a number of lines", "sparkctl logs --help"),
    ],
)
def test_wrong_command_line_is_one_line_with_a_hint(
    words: list[str], error: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(words) == Exit.USAGE
    printed = capsys.readouterr()
    assert printed.out == ""
    first, second = printed.err.splitlines()
    assert first.startswith("sparkctl: ")
    assert error in first
    assert second.startswith(f"  hint: {hint}")


def test_options_of_a_command_are_read() -> None:
    assert parse(["logs", "-f", "-n", "5", "m", "--json"]) == Options(
        command="logs",
        words=("logs", "-f", "-n", "5", "m", "--json"),
        json=True,
        model="m",
        follow=True,
        lines=5,
    )
    assert parse(["stop", "--now", "m"]).now
    assert parse(["key", "rotate"]).command == "key rotate"


@pytest.mark.parametrize("words", [["--json", "models"], ["models", "--json"]])
def test_json_may_stand_before_and_after_the_command(words: list[str]) -> None:
    assert parse(words).json


def test_options_are_not_abbreviated() -> None:
    with pytest.raises(UsageError):
        parse(["models", "--js"])


@pytest.mark.parametrize("words", [["--help"], ["stop", "--help"], ["key", "--help"]])
def test_help_is_a_success_on_stdout(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(words) == Exit.OK
    printed = capsys.readouterr()
    assert printed.out.startswith(f"usage: sparkctl{' ' if words[1:] else ' [-h]'}")
    assert printed.err == ""


def test_help_lists_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    main.main(["--help"])
    printed = capsys.readouterr().out
    assert all(f" {code.value}  {code.meaning}\n" in printed for code in Exit)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("x"), 2),
        (NotFound("x", code="model_not_found"), 3),
        (StartCrashed("x"), 4),
        (StartTimedOut("x"), 4),
        (NotPresent("x", code="image_missing"), 4),
        (GpuHeld("x"), 5),
        (Busy("x"), 5),
        (Unavailable("x"), 5),
        (HostError("x"), 6),
        (Misconfigured("x"), 7),
        (NotPermittedError("x"), 8),
        (Unauthorized("x"), 8),
        (Forbidden("x"), 8),
        (RequestError("x"), 2),
        (SparkdError("x"), 70),
    ],
)
def test_each_error_has_its_exit_code(error: SparkdError, code: int) -> None:
    assert exit_of(error) == code


def test_check_reports_every_problem_with_file_line_and_hint_and_ends_with_1(
    config_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_catalog(config_dir, f"models:\n  a: {{image: {IMAGE}, gup: all}}\n  b: {{}}\n")
    assert main.main(["check"]) == Exit.NO
    printed = capsys.readouterr()
    assert [line.split(": ")[:2] for line in printed.out.splitlines()] == [
        [f"{path}:2", "models.a.gup"],
        [f"{path}:3", "models.b"],
    ]
    assert "(did you mean gpu?)" in printed.out
    assert main.main(["check", "--json"]) == Exit.NO
    answer = json.loads(capsys.readouterr().out)
    assert (answer["ok"], answer["models"], answer["broken"]) == (False, 0, ["a", "b"])
    assert [(problem["file"], problem["line"]) for problem in answer["problems"]] == [
        (str(path), 2),
        (str(path), 3),
    ]


def test_check_of_a_right_configuration_says_ok_with_counts(
    config_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        f"defaults: {{image: {IMAGE}}}\nmodels: {{a: {{}}, b: {{}}, c: {{lifecycle: utility}}}}\n"
    )
    write_catalog(config_dir, text)
    assert main.main(["check"]) == Exit.OK
    assert capsys.readouterr().out == "ok: 3 models (2 normal, 1 utility)\n"


def test_models_without_a_user_manager_are_listed_with_unknown_state_and_a_remark(
    config_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_catalog(config_dir, f"models: {{a: {{image: {IMAGE}, max_model_len: 4096}}}}\n")
    assert main.main(["models", "--json"]) == Exit.OK
    printed = capsys.readouterr()
    assert json.loads(printed.out) == [
        {
            "id": "a",
            "lifecycle": "normal",
            "local": "yes",
            "missing": [],
            "state": "unknown",
            "status": "experimental",
            "reason": None,
            "dialects": ["chat", "completions"],
            "max_model_len": 4096,
            "aliases": [],
            "adapters": [],
            "problem": None,
        }
    ]
    assert printed.err.startswith("sparkctl: states are unknown: the user manager of sparkd")


def test_disabled_models_are_hidden_unless_all_are_asked_for(
    config_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_catalog(
        config_dir,
        f"defaults: {{image: {IMAGE}}}\n"
        "models: {a: {}, b: {status: disabled, reason: garbage}, c: {status: manual, reason: r}}\n",
    )
    assert main.main(["models"]) == Exit.OK
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines()] == ["MODEL", "a", "c", "1"]
    assert shown.splitlines()[-1] == "1 disabled model not shown: sparkctl models --all"
    assert main.main(["models", "--all"]) == Exit.OK
    assert capsys.readouterr().out.splitlines()[-1] == "b is disabled: garbage"
    assert main.main(["models", "--json"]) == Exit.OK
    assert [one["id"] for one in json.loads(capsys.readouterr().out)] == ["a", "c"]
    assert main.main(["models", "--all", "--json"]) == Exit.OK
    listed = {one["id"]: one for one in json.loads(capsys.readouterr().out)}
    assert (listed["b"]["status"], listed["b"]["reason"]) == ("disabled", "garbage")


@pytest.mark.usefixtures("config_dir")
def test_ps_without_a_user_manager_is_a_host_error_with_a_hint(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main.main(["ps"]) == Exit.HOST
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"  hint: sudo systemctl start user@{os.getuid()}.service\n" in printed.err


def test_unknown_model_is_not_found_and_the_nearest_names_are_told(
    config_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_catalog(
        config_dir, f"defaults: {{image: {IMAGE}}}\nmodels: {{llama-8b: {{}}, qwen-8b: {{}}}}\n"
    )
    assert main.main(["start", "lama-8b"]) == Exit.NOT_FOUND
    assert capsys.readouterr().err == (
        "sparkctl: there is no model 'lama-8b'\n  hint: did you mean llama-8b?\n"
    )
    assert main.main(["start", "constructor"]) == Exit.NOT_FOUND
    assert "hint: sparkctl models lists the models" in capsys.readouterr().err


def test_broken_entry_is_named_as_the_reason_why_it_cannot_start(
    config_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_catalog(config_dir, "models: {a: {image: 3.5}}\n")
    assert main.main(["start", "a"]) == Exit.CONFIGURATION
    assert f"{path}:1: models.a.image: " in capsys.readouterr().err


def test_key_show_prints_keys_alone_to_stdout(
    config_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config_dir / "api-key"
    path.touch(mode=0o600)
    path.write_text("# for the laptop\nsk-one\n\nsk-two\n")
    assert main.main(["key", "show"]) == Exit.OK
    said = capsys.readouterr()
    assert said.out == "sk-one\nsk-two\n"
    assert said.err.startswith(f"2 API keys in {path}")
    main.main(["key", "show", "--json"])
    assert json.loads(capsys.readouterr().out) == {"file": str(path), "keys": ["sk-one", "sk-two"]}


def test_key_rotate_replaces_the_file_and_prints_the_new_key_last(
    config_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config_dir / "api-key"
    path.write_text("sk-old\n")
    assert main.main(["key", "rotate"]) == Exit.OK
    first = capsys.readouterr().out.removesuffix("\n")
    assert path.read_text() == f"{first}\n"
    assert path.stat().st_mode & 0o7777 == 0o640
    main.main(["key", "rotate", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["daemon_restarts"] is False
    assert answer["keys"] == [path.read_text().strip()] != [first]


@pytest.mark.usefixtures("config_dir")
def test_missing_key_is_a_configuration_error_that_tells_how_to_make_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main.main(["key", "show"]) == Exit.CONFIGURATION
    assert "  hint: sudo sparkctl key rotate\n" in capsys.readouterr().err


def test_a_reader_that_stops_reading_ends_it_quietly(config_dir: Path) -> None:
    write_catalog(config_dir, f"models: {{a: {{image: {IMAGE}}}}}\n")
    program = (
        "import sys; from sparkd.sparkctl.main import main; sys.stdin.read(); sys.exit(main())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, "check"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait() == Exit.PIPE


def test_version_is_printed() -> None:
    done = sparkctl("--version")
    assert (done.stdout, done.returncode) == (f"sparkctl {_version()}\n", 0)


@pytest.mark.parametrize("words", [["--version"], ["check"], ["modles"]])
@pytest.mark.usefixtures("config_dir")
def test_quick_commands_load_no_heavy_library(words: list[str]) -> None:
    program = (
        "import sys; from sparkd.sparkctl.main import main; main(sys.argv[1:]);"
        f"print(sorted(set(sys.modules) & {HEAVY!r}), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.splitlines()[-1] == "[]"


def test_documentation_lists_every_exit_code_with_the_same_meaning() -> None:
    text = (ROOT / "docs/reference/cli.md").read_text()
    assert all(f"| {code.value} | {code.meaning} |\n" in text for code in Exit)


def _version() -> str:
    from sparkd import __version__

    return __version__
