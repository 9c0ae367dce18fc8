"""The root login helper: what it refuses before PAM, what PAM's answers become, and that nothing but "ok" is open."""

import ctypes
import grp
import json
import multiprocessing
import os
import pwd
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpchub.privileged import login, pam

ME = pwd.getpwuid(os.getuid())
CONFIG = login.Config("hpchub", {}, "hpcusers", ME.pw_name, 1000, "^[a-z_][a-z0-9_-]{0,31}$", 5)
ALICE = pwd.struct_passwd(("alice", "x", 2001, 2000, "", "/home/alice", "/bin/bash"))
GOOD = pam.Outcome("account", pam.PAM_SUCCESS, 1)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with alice in the enrolled group, bob outside it, and a system account."""
    accounts = {
        "alice": ALICE,
        "bob": pwd.struct_passwd(("bob", "x", 2002, 3000, "", "/home/bob", "/bin/bash")),
        "root": pwd.struct_passwd(("root", "x", 0, 0, "", "/root", "/bin/bash")),
        "slurm": pwd.struct_passwd(("slurm", "x", 64030, 2000, "", "/", "/bin/false")),
        "daemon": pwd.struct_passwd(("daemon", "x", 1, 2000, "", "/", "/bin/false")),
        ME.pw_name: ME,
    }
    if ME.pw_name != "root":
        accounts[ME.pw_name] = ME
    (tmp_path / "pam.d").mkdir()
    (tmp_path / "pam.d/hpchub").write_text("auth required pam_unix.so\naccount required pam_unix.so\n")
    (tmp_path / "login.json").write_text(json.dumps(CONFIG.__dict__))
    monkeypatch.setattr(login, "CONFIG", tmp_path / "login.json")
    monkeypatch.setattr(login, "LOCKS", tmp_path)
    monkeypatch.setattr(login, "PAM_SERVICES", tmp_path / "pam.d")
    monkeypatch.setattr(login, "REFUSAL_SECONDS", 0.0)
    monkeypatch.setattr(login, "READ_SECONDS", 1)
    monkeypatch.setattr(pwd, "getpwnam", accounts.__getitem__)
    monkeypatch.setattr(grp, "getgrnam", lambda _name: grp.struct_group(("hpcusers", "x", 2000, [])))
    monkeypatch.setattr(os, "getgrouplist", lambda _user, gid: [gid])
    monkeypatch.setattr(login.signal, "alarm", lambda _seconds: 0)
    return tmp_path


def exchange(request: bytes | dict[str, object]) -> login.Verdict:
    """One attempt over a real socket, as the hub makes it."""
    ours, theirs = socket.socketpair()
    raw = request if isinstance(request, bytes) else json.dumps(request).encode() + b"\n"
    ours.sendall(raw)
    with ours, theirs:
        return login.serve(theirs)[0]


def attempt(user: str = "alice", password: str = "1234567890", rhost: str = "192.0.2.7") -> login.Verdict:
    return exchange({"user": user, "password": password, "rhost": rhost})


def pam_says(monkeypatch: pytest.MonkeyPatch, check: Callable[..., pam.Outcome]) -> None:
    monkeypatch.setattr(pam, "check", check)


def test_a_user_whom_pam_accepts_gets_in(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = site / "seen"
    pam_says(monkeypatch, lambda *args: (seen.write_text(repr(args)), GOOD)[1])
    assert attempt().result == "ok"
    assert seen.read_text() == repr(("hpchub", "alice", bytearray(b"1234567890"), "192.0.2.7"))


@pytest.mark.parametrize(
    "user", ["root", "daemon", "bob", "nobody-here", "Alice", "../alice", "alice\n", "-alice", "", "a" * 33]
)
def test_whoever_is_not_an_enrolled_person_is_refused_before_pam_is_asked(
    site: Path, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    pam_says(monkeypatch, lambda *_args: (site / "asked").touch() or GOOD)
    assert attempt(user).result == "denied"
    assert not (site / "asked").exists()


@pytest.mark.parametrize("password", ["", "x" * 512, "a\0b"])
def test_a_secret_that_pam_cannot_carry_is_refused_before_pam_is_asked(
    site: Path, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    pam_says(monkeypatch, lambda *_args: GOOD)
    assert attempt(password=password).result == "denied"


@pytest.mark.parametrize(
    "line",
    [
        b"hello\n",
        b"[]\n",
        b'{"user": "alice", "password": "x"}\n',
        b'{"user": "alice", "password": "x", "rhost": "", "service": "sshd"}\n',
        b'{"user": "alice", "password": 1, "rhost": ""}\n',
        b'{"user": "alice", "password": "x", "rhost": "not an address"}\n',
        b'{"user": "alice", "password": "\\ud800", "rhost": ""}\n',
        b'{"user": "alice", "password": "' + b"x" * 5000 + b'", "rhost": ""}\n',
        b"[" * 4000 + b"\n",
        b'{"user": "alice", "password": "x", "rhost": ""}',
    ],
)
def test_a_request_that_is_not_exactly_the_protocol_is_refused(
    site: Path, monkeypatch: pytest.MonkeyPatch, line: bytes
) -> None:
    pam_says(monkeypatch, lambda *_args: GOOD)
    assert exchange(line).result == "denied"


def test_another_account_than_the_hubs_gets_no_answer_from_pam(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pam_says(monkeypatch, lambda *_args: GOOD)
    monkeypatch.setattr(login, "peer_uid", lambda _connection: ME.pw_uid + 1)
    verdict = attempt()
    assert (verdict.result, "refused" in verdict.reason) == ("unavailable", True)


def test_the_peer_is_known_by_the_kernels_word() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert login.peer_uid(ours) == os.getuid()


def test_a_module_that_hangs_ends_at_the_time_limit(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (site / "login.json").write_text(json.dumps(CONFIG.__dict__ | {"timeout_seconds": 1}))
    pam_says(monkeypatch, lambda *_args: time.sleep(60) or GOOD)
    started = time.monotonic()
    assert attempt().result == "unavailable"
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "end", [lambda: os._exit(0), lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: sys.exit(0), lambda: 1 / 0]
)
def test_a_module_that_crashes_or_exits_opens_nothing(
    site: Path, monkeypatch: pytest.MonkeyPatch, end: Callable[[], object]
) -> None:
    pam_says(monkeypatch, lambda *_args: end() or GOOD)
    assert attempt().result == "unavailable"


def test_a_missing_pam_service_is_not_replaced_by_pams_own_other(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (site / "pam.d/hpchub").unlink()
    pam_says(monkeypatch, lambda *_args: GOOD)
    assert attempt().result == "unavailable"


DUO = "[duo]\nikey = DI\nfailmode = secure\nautopush = yes\n"


@pytest.mark.skipif(os.getuid() != 0, reason="a file of root's needs root")
@pytest.mark.parametrize(
    ("content", "mode", "result"),
    [
        (DUO, 0o600, "ok"),
        (DUO.replace(" = ", "="), 0o400, "ok"),
        ("# failmode = safe fails open\n" + DUO, 0o600, "ok"),
        (None, 0o600, "unavailable"),
        (DUO, 0o640, "unavailable"),
        (DUO, 0o604, "unavailable"),
        ("", 0o600, "unavailable"),
        (DUO.replace("secure", "safe"), 0o600, "unavailable"),
        (DUO.replace("secure", "secured"), 0o600, "unavailable"),
        (DUO.replace("failmode", "; failmode"), 0o600, "unavailable"),
        (DUO.replace("failmode", "  failmode"), 0o600, "unavailable"),  # which continues the line before
        (DUO + "failmode: safe\n", 0o600, "unavailable"),
        (DUO + "failmode = secure\n", 0o600, "unavailable"),
    ],
)
def test_a_module_is_not_asked_while_its_file_would_make_it_let_everybody_in(
    site: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, mode: int, result: str
) -> None:
    duo = site / "pam_duo.conf"
    if content is not None:
        duo.write_text(content)
        duo.chmod(mode)
    (site / "login.json").write_text(json.dumps(CONFIG.__dict__ | {"files": {str(duo): "failmode=secure"}}))
    pam_says(monkeypatch, lambda *_args: (site / "asked").touch() or GOOD)
    assert attempt().result == result
    assert (site / "asked").exists() == (result == "ok")
    pam_says(monkeypatch, lambda *_args: pam.Outcome("account", pam.PAM_SUCCESS, 0))
    assert standing().result == "ok"  # no module of the auth phase is asked about an account


def test_a_secret_file_that_somebody_else_owns_or_reads_is_not_relied_on(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    radius = site / "radius.conf"
    radius.write_text("192.0.2.1 a-shared-secret 5\n")
    radius.chmod(0o644)
    (site / "login.json").write_text(json.dumps(CONFIG.__dict__ | {"files": {str(radius): ""}}))
    pam_says(monkeypatch, lambda *_args: GOOD)
    verdict = attempt()
    assert (verdict.result, verdict.reason) == ("unavailable", f"{radius} is not a file of root's alone")
    assert "a-shared-secret" not in verdict.reason


@pytest.mark.parametrize(
    ("rules", "result"),
    [
        ("@include common", "ok"),
        ("-auth required x\n@include common-account", "ok"),
        ("auth include common\nAccount required x", "ok"),
        ("", "unavailable"),
        ("# auth required x\naccount required x", "unavailable"),
        ("auth required x", "unavailable"),
        ("auth include common-account\naccount required x", "unavailable"),
        ("@include hpchub", "unavailable"),
        ("@include nowhere\nauth required x\naccount required x", "unavailable"),
    ],
)
def test_for_a_phase_without_rules_pams_own_other_is_not_asked(
    site: Path, monkeypatch: pytest.MonkeyPatch, rules: str, result: str
) -> None:
    (site / "pam.d/hpchub").write_text(rules)
    (site / "pam.d/common").write_text("auth required x\naccount required x\n")
    (site / "pam.d/common-account").write_text("account required x\n")
    pam_says(monkeypatch, lambda *_args: GOOD)
    assert attempt().result == result


def test_broken_settings_let_nobody_in(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pam_says(monkeypatch, lambda *_args: GOOD)
    for broken in (
        "",
        "[]",
        json.dumps(CONFIG.__dict__ | {"uid_min": True}),
        json.dumps(CONFIG.__dict__ | {"x": 1}),
        json.dumps(CONFIG.__dict__ | {"files": [["/etc/duo"]]}),
    ):
        (site / "login.json").write_text(broken)
        with pytest.raises(ValueError, match=r".*"):
            attempt()


def test_attempts_of_one_user_follow_each_other(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = site / "log"
    # A busy machine is no defect.
    (site / "login.json").write_text(json.dumps(CONFIG.__dict__ | {"timeout_seconds": 60}))

    def slow(*_args: object) -> pam.Outcome:
        for word in ("in", "out"):
            with log.open("a") as file:
                file.write(word + "\n")
            time.sleep(0.1)
        return GOOD

    pam_says(monkeypatch, slow)
    # Processes, as systemd starts one for each connection: a child that is forked beside threads may stand still.
    fork = multiprocessing.get_context("fork")
    attempts = [fork.Process(target=lambda: os._exit(attempt().result != "ok")) for _ in range(4)]
    for one in attempts:
        one.start()
    for one in attempts:
        one.join()
    assert [one.exitcode for one in attempts] == [0] * 4
    assert log.read_text().split() == ["in", "out"] * 4


def standing(user: str = "alice") -> login.Verdict:
    """What is said about somebody who signed in earlier."""
    return exchange({"account": user})


def test_an_account_is_asked_about_without_a_secret_and_by_the_account_phase_alone(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = site / "seen"
    pam_says(monkeypatch, lambda *args: (seen.write_text(repr(args)), pam.Outcome("account", pam.PAM_SUCCESS, 0))[1])
    assert standing().result == "ok"
    assert seen.read_text() == repr(("hpchub", "alice", None, ""))


@pytest.mark.parametrize(
    ("what", "result"),
    [
        (pam.Outcome("account", pam.PAM_AUTH_ERR), "locked"),
        (pam.Outcome("account", pam.PAM_PERM_DENIED), "locked"),
        (pam.Outcome("account", pam.PAM_ACCT_EXPIRED), "expired"),
        (pam.Outcome("account", pam.PAM_USER_UNKNOWN), "denied"),
        (pam.Outcome("account", pam.PAM_NEW_AUTHTOK_REQD), "new_pin"),
        (pam.Outcome("account", pam.PAM_AUTHINFO_UNAVAIL), "unavailable"),
        (pam.Outcome("account", pam.PAM_CONV_ERR, 1, "prompt"), "unavailable"),
        (pam.Outcome("account", pam.PAM_SUCCESS, 1, "prompt"), "unavailable"),
        (pam.Outcome("account", pam.PAM_SUCCESS, 1), "unavailable"),
        (pam.Outcome("start", pam.PAM_SUCCESS, 0), "unavailable"),
    ],
)
def test_an_account_that_is_no_longer_good_is_not_ok(
    site: Path, monkeypatch: pytest.MonkeyPatch, what: pam.Outcome, result: str
) -> None:
    pam_says(monkeypatch, lambda *_args: what)
    assert standing().result == result


@pytest.mark.parametrize("user", ["root", "daemon", "bob", "nobody-here", "../alice", "", "a\0b"])
def test_an_account_that_is_no_enrolled_person_is_denied_before_pam_is_asked(
    site: Path, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    pam_says(monkeypatch, lambda *_args: (site / "asked").touch() or pam.Outcome("account", pam.PAM_SUCCESS, 0))
    assert standing(user).result == "denied"
    assert not (site / "asked").exists()


@pytest.mark.parametrize(
    "request_", [{"account": "alice", "password": "x"}, {"account": 1}, {"account": ["alice"]}, {"account": None}]
)
def test_a_question_about_an_account_has_no_other_form(
    site: Path, monkeypatch: pytest.MonkeyPatch, request_: dict[str, object]
) -> None:
    pam_says(monkeypatch, lambda *_args: GOOD)
    assert exchange(request_).result == "denied"


def test_a_directory_that_is_down_makes_nobody_a_deleted_user(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> None:
        raise KeyError(name)

    pam_says(monkeypatch, lambda *_args: GOOD)
    monkeypatch.setattr(pwd, "getpwnam", lambda name: ME if name == ME.pw_name else nothing(name))
    monkeypatch.setattr(grp, "getgrnam", nothing)
    assert standing().result == "unavailable"


def test_an_account_is_asked_about_while_an_attempt_of_its_user_hangs(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(_service: str, _user: str, secret: bytearray | None, _rhost: str) -> pam.Outcome:
        if secret is not None:
            (site / "hanging").touch()
            time.sleep(2)
        return pam.Outcome("account", pam.PAM_SUCCESS, 0)

    pam_says(monkeypatch, check)
    hanging = threading.Thread(target=attempt)
    hanging.start()
    while not (site / "hanging").exists():
        time.sleep(0.01)
    started = time.monotonic()
    assert standing().result == "ok"
    assert time.monotonic() - started < 1
    hanging.join()


def test_the_journal_has_a_line_for_an_account_only_when_it_is_refused() -> None:
    question = login.Request("alice", None, "")
    assert login.audit_line(login.Verdict("ok", "account pam=0"), question) == ""
    line = login.audit_line(login.Verdict("locked", "account pam=7"), question)
    assert line == 'account result=locked user="alice" rhost="" reason="account pam=7"\n'


def outcome(stage: str, code: int, asked: int = 1, refused: str = "") -> pam.Outcome:
    return pam.Outcome(stage, code, asked, refused)


@pytest.mark.parametrize(
    ("what", "result"),
    [
        (outcome("account", pam.PAM_SUCCESS), "ok"),
        (outcome("authenticate", pam.PAM_AUTH_ERR), "denied"),
        (outcome("authenticate", pam.PAM_USER_UNKNOWN, asked=0), "denied"),
        (outcome("authenticate", pam.PAM_MAXTRIES), "denied"),
        (outcome("authenticate", pam.PAM_AUTHINFO_UNAVAIL), "unavailable"),
        (outcome("account", pam.PAM_PERM_DENIED), "locked"),
        (outcome("account", pam.PAM_ACCT_EXPIRED), "expired"),
        (outcome("account", pam.PAM_NEW_AUTHTOK_REQD), "new_pin"),
        (outcome("authenticate", pam.PAM_CONV_ERR, asked=2, refused="second prompt"), "new_pin"),
        (outcome("authenticate", pam.PAM_CONV_ERR, asked=0, refused="echo-on prompt"), "unavailable"),
        (outcome("account", pam.PAM_SUCCESS, asked=0), "unavailable"),
        (outcome("account", pam.PAM_SUCCESS, refused="echo-on prompt"), "unavailable"),
        (outcome("account", pam.PAM_SUCCESS, refused="module changed the user"), "unavailable"),
        (outcome("authenticate", pam.PAM_SUCCESS), "unavailable"),
        (outcome("start", pam.PAM_SYSTEM_ERR), "unavailable"),
    ],
)
def test_each_answer_of_pam_has_one_meaning(what: pam.Outcome, result: str) -> None:
    assert login.judge(what).result == result


@given(
    stage=st.sampled_from(["start", "authenticate", "account"]),
    code=st.integers(-5, 40),
    asked=st.integers(0, 3),
    refused=st.sampled_from(["", "echo-on prompt", "second prompt", "conversation error"]),
)
def test_nothing_is_ok_but_success_of_the_account_phase_after_one_answered_prompt(
    stage: str, code: int, asked: int, refused: str
) -> None:
    verdict = login.judge(outcome(stage, code, asked, refused))
    assert verdict.result in login.RESULTS
    assert (verdict.result == "ok") == ((stage, code, asked, refused) == ("account", 0, 1, ""))


@given(user=st.text(max_size=300), rhost=st.text(max_size=300), reason=st.text(max_size=900))
def test_an_audit_line_is_one_bounded_line_of_plain_characters(user: str, rhost: str, reason: str) -> None:
    line = login.audit_line(login.Verdict("denied", reason), login.Request(user, bytearray(), rhost))
    assert line.endswith("\n")
    line = line.removesuffix("\n")
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 600
    assert line.count('"') == 6


def test_the_answer_names_a_user_only_with_ok_and_the_journal_never_has_the_secret(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for verdict, echoed in ((GOOD, "alice"), (outcome("authenticate", pam.PAM_AUTH_ERR), "")):
        pam_says(monkeypatch, lambda *_args, verdict=verdict: verdict)
        ours, theirs = socket.socketpair()
        ours.sendall(b'{"user": "alice", "password": "very-secret", "rhost": ""}\n')
        descriptor = theirs.detach()
        monkeypatch.setattr(os, "dup", lambda _fd, fd=descriptor: fd)
        monkeypatch.setattr(login.resource, "setrlimit", lambda *_args: None)
        assert login.main() == 0
        assert json.loads(ours.makefile().readline())["user"] == echoed
        ours.close()
        audit = capsys.readouterr().err
        assert 'user="alice"' in audit
        assert "very-secret" not in audit


def converse(styles: list[int], secret: bytes | None = b"s3cret") -> tuple[int, pam.Outcome, list[bytes | None]]:
    """One round of prompts through the C structures, as a PAM module makes it."""
    found = pam.Outcome()
    messages = [pam._Message(style, b"text") for style in styles]
    pointers = (ctypes.POINTER(pam._Message) * len(styles))(*[ctypes.pointer(message) for message in messages])
    responses = ctypes.POINTER(pam._Response)()
    start = ctypes.cast(pointers, ctypes.POINTER(ctypes.POINTER(pam._Message)))
    given_secret = None if secret is None else bytearray(secret)
    code = pam._converse(pam._Libc(), found, given_secret, len(styles), start, ctypes.pointer(responses))
    answers: list[bytes | None] = []
    if code == pam.PAM_SUCCESS:
        answers = [ctypes.string_at(responses[i].answer) if responses[i].answer else None for i in range(len(styles))]
    return code, found, answers


OFF, ON, ERROR, INFO = 1, 2, 3, 4


def test_the_one_hidden_prompt_gets_the_secret_and_texts_are_kept() -> None:
    code, found, answers = converse([INFO, OFF, ERROR])
    assert (code, answers) == (pam.PAM_SUCCESS, [None, b"s3cret", None])
    assert (found.asked, found.messages) == (1, ["text", "text"])


@pytest.mark.parametrize(
    ("styles", "refused"),
    [([ON], "echo-on prompt"), ([OFF, OFF], "second prompt"), ([OFF, ON], "second prompt"), ([99], "echo-on prompt")],
)
def test_any_other_round_of_prompts_gets_nothing(styles: list[int], refused: str) -> None:
    code, found, answers = converse(styles)
    assert (code, found.refused, answers) == (pam.PAM_CONV_ERR, refused, [])


def test_without_a_secret_texts_are_kept_and_every_prompt_is_refused() -> None:
    code, found, _answers = converse([INFO, ERROR], None)
    assert (code, found.asked, found.messages) == (pam.PAM_SUCCESS, 0, ["text", "text"])
    for styles in ([OFF], [ON], [INFO, OFF]):
        code, found, answers = converse(styles, None)
        assert (code, bool(found.refused), answers) == (pam.PAM_CONV_ERR, True, [])


def test_a_secret_is_wiped_in_place() -> None:
    secret = bytearray(b"secret")
    pam.wipe(secret)
    assert secret == bytearray(6)


def test_check_says_what_is_wrong_with_a_file_before_it_is_in_use(tmp_path: Path) -> None:
    file = tmp_path / "login.json"

    def check(change: dict[str, object]) -> tuple[int, list[str]]:
        file.write_text(json.dumps(CONFIG.__dict__ | change))
        argv = [sys.executable, "-m", "hpchub.privileged.login", "--check", str(file)]
        source = str(Path(login.__file__).parents[2])
        done = subprocess.run(argv, capture_output=True, text=True, env={"PYTHONPATH": source}, check=False)
        return done.returncode, done.stderr.strip().split("; ")

    assert check({}) == (0, [""])
    assert check({"username_pattern": "*", "uid_min": 0}) == (
        1,
        [f"{file}: uid_min: write a whole number, at least 1", f"{file}: username_pattern: write a regular expression"],
    )


@pytest.mark.parametrize(
    "change",
    [
        {"service": "../sshd"},
        {"service": "SSHD"},
        {"files": {"relative": ""}},
        {"files": {"/etc/x": 1}},
        {"files": []},
        {"users_group": "root"},
        {"users_group": ""},
        {"hub_user": "a b"},
        {"uid_min": True},
        {"uid_min": "1000"},
        {"timeout_seconds": 600},
        {"username_pattern": "("},
        {"username_pattern": ""},
        {"extra": 1},
    ],
)
def test_each_wrong_setting_is_told_by_its_key(change: dict[str, object]) -> None:
    assert login.faults(CONFIG.__dict__) == {}
    assert login.faults(CONFIG.__dict__ | change).keys() == change.keys()
