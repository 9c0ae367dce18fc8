"""What is wrong with the site's certificate, its key and its chain, and what soon will be."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

DAYS_TO_RENEW = 14


def problems(told: Mapping[str, Any]) -> list[str]:
    """What keeps the certificate that the login node looked at from being served."""
    certificate, key = told["path"], told["key_path"]
    problems = []
    for name, path, error in (
        ("jupyterhub_proxy_tls_certificate", certificate, told["error"]),
        ("jupyterhub_proxy_tls_private_key", key, told["key_error"]),
    ):
        if error:
            problems.append(f"{name} is {path}, which root cannot read on the login node: {error}.")
    if not told["openssl"]:
        return [*problems, "The login node has no program openssl, which certificates are checked with. Install it."]
    if told["readers"]:
        who = " and ".join(told["readers"])
        problems.append(f"The key {key} can be read by {who}. Close it: chown root:root {key}; chmod 600 {key}")
    if not told["key_error"] and not told["key_opens"]:
        problems.append(
            f"{key} holds no private key in PEM that opens without a passphrase, and nobody is there to type one."
            f" Write it anew: openssl pkey -in {key} -out NEW"
        )
    if not told["error"] and not told["is_certificate"]:
        problems.append(
            f"{certificate} holds no certificate in PEM. If it is in DER, convert it:"
            f" openssl x509 -inform der -in {certificate} -out NEW"
        )
    return problems + (_validity(told) if told["is_certificate"] else [])


def _validity(told: Mapping[str, Any]) -> list[str]:
    certificate, key = told["path"], told["key_path"]
    problems = []
    if told["now"] > told["ends"]:
        problems.append(f"The certificate {certificate} ended on {_date(told['ends'])}. Have a new one issued.")
    if told["now"] < told["starts"]:
        problems.append(
            f"The certificate {certificate} is good from {_date(told['starts'])} on, and the login node's clock says"
            f" {_date(told['now'])}. Correct the clock (timedatectl), or wait."
        )
    if told["key_opens"] and not any(told["key_of"]):
        problems.append(
            f"The key {key} is not the one of the certificate {certificate}. Name the key with which it was requested."
        )
    elif told["key_opens"] and not told["key_of"][0]:
        problems.append(
            f"The key {key} belongs to the certificate number {told['key_of'].index(True) + 1} in {certificate}."
            " Put that first, and its chain behind it."
        )
    names = ", ".join(told["names"]) or "no name (it has no subjectAltName)"
    for name, covered in told["covers"].items():
        if not covered or not told["names"]:
            asks = "jupyterhub_subdomains" if name.startswith("*") else "jupyterhub_url"
            problems.append(
                f"The certificate {certificate} is for {names}, and {asks} needs {name}. Have one issued for"
                f" {' and '.join(told['covers'])}, or change {asks}."
            )
    return problems


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def warnings(told: Mapping[str, Any] | None) -> list[str]:
    """Return what a sysadmin has to know soon, and what need not stop a run."""
    if not told or not told.get("is_certificate"):
        return []
    found = []
    days = (told["ends"] - told["now"]) / 86400
    if 0 <= days < DAYS_TO_RENEW:
        found.append(
            f"The certificate {told['path']} ends on {_date(told['ends'])}, in {days:.0f} days. Renew it, then:"
            " systemctl restart hpchub-proxy"
        )
    if told["lacks_issuer"]:
        found.append(
            f"{told['path']} lacks the certificate of the issuer, {told['issuer']}, which the login node does not know"
            " either. Unless it is a root that browsers here trust, append it: they would refuse the hub."
        )
    return found
