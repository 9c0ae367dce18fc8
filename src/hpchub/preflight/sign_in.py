"""What on the login node would let the wrong people in, or nobody."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_HARM = {
    "localifdown": "lets people in when no RADIUS server answers",
    "nullok": "lets an account without a password in",
    "alwaysok": "lets people in whatever they type",
}


def problems(answer: Mapping[str, Any]) -> Iterable[str]:
    """Say what on the host would let the wrong people in, or nobody."""
    yield from _service(answer["service"], answer["rules"], shipped=answer["shipped"])
    tokens = answer.get("tokens")
    if tokens and not tokens["known"]:
        yield (
            f"jupyterhub_pam_oath_users_file: {tokens['directory']} is no directory on the login node. Make it,"
            " for root alone (install -d -m 0700), with a file for each user."
        )
    elif tokens and tokens["open"]:
        yield f"{tokens['directory']}, which holds token secrets, is open to others than root. Run chmod 0700 on it."
    if tokens and tokens["with_pin"]:
        yield (
            f"In {tokens['directory']} the files of {', '.join(tokens['with_pin'])} hold a PIN of their own. Write + in"
            " its place: the PIN is now the account's password (docs/install.md, How people sign in)."
        )
    for host in answer.get("servers_without_address", ()):
        yield f"jupyterhub_pam_radius_servers '{host}' has no address on the login node (getent hosts {host})."
    if answer.get("duo") is not None:
        yield from _duo(answer["duo"])
    sssd = answer.get("sssd")
    if sssd and not sssd["runs"]:
        yield "sssd does not run on the login node, and it is what would check the secret (systemctl status sssd)."
    if sssd and not sssd["module"]:
        yield (
            "pam_sss is not on the login node. Install libpam-sss (Debian) or sssd-client (EL) yourself: it may change"
            " how the whole host signs people in, so that hpchub does not."
        )


def _service(service: str, rules: Sequence[Mapping[str, Any]] | None, *, shipped: bool) -> Iterable[str]:
    if rules is None:
        yield f"/etc/pam.d/{service} is not on the login node. Write it, or correct jupyterhub_pam_service."
        return
    phases = {rule["phase"] for rule in rules}
    for phase in ("account",) if shipped else ("auth", "account"):
        if phase not in phases:
            yield f"/etc/pam.d/{service} has no {phase} phase, so PAM would take that of the service 'other'. Add one."
    for rule in rules:
        place = f"{rule['file']}, line {rule['line']}"
        for option in _HARM.keys() & rule["words"]:
            yield f"{place}: {option} {_HARM[option]}. Take it out, or include another file in /etc/pam.d/{service}."
        if rule["phase"] == "account" and "pam_faillock.so" in rule["words"]:
            yield (
                f"{place}: pam_faillock in the account phase. The hub runs that phase every few minutes for everybody"
                " who is signed in, and each time it forgets the failures. Use authsucc in the auth phase instead, in"
                " a service of your own (jupyterhub_pam_stack: own)."
            )


def _duo(answer: Mapping[str, Any]) -> Iterable[str]:
    path, wanted = answer["path"], {"failmode": "secure", "autopush": "yes"}
    if not answer["known"]:
        yield (
            f"jupyterhub_pam_duo_config_file: {path} is not on the login node; without it pam_duo lets everybody in."
            " Write it, for root alone, with failmode = secure and autopush = yes."
        )
        return
    if answer["open"]:
        yield f"{path} can be read by others than root, and then pam_duo lets everybody in. Run chmod 0600 on it."
    for key, value in wanted.items():
        if answer["settings"].get(key) != value:
            why = "with anything else it lets people in while Duo is out of reach" if key == "failmode" else ""
            yield f"{path} does not say {key} = {value}" + (f": {why}." if why else ", without which pam_duo asks.")
