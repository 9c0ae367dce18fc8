"""What preflight finds wrong, as sentences: what, where, what to write instead."""

from __future__ import annotations

import difflib
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.parsing.convert_bool import boolean

Spec = Mapping[str, Any]
Problems = list[str]

OLDEST_PYTHON = (3, 11)
LDAP_SERVER = r"(ldaps|ldap\+starttls)://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?"
DAYS_TO_RENEW = 14
USERS_OWN = r"(?=.*\{(user|home)\})(/|\{home\})([A-Za-z0-9_./@+-]|\{user\}|\{home\})*"
DASK_JOB = {"cores": 1, "memory_gib": 1, "walltime_minutes": 1, "queue_wait_minutes": 0, "death_timeout_seconds": 1}
"""What a Dask job may not have less of."""


def preflight_specs(roles: str) -> dict[str, Spec]:
    """Return every role's options by variable name; of a name that several roles have, the first role's."""
    options: dict[str, Spec] = {}
    for path in sorted(Path(roles).glob("*/meta/argument_specs.yml")):
        for entry in yaml.safe_load(path.read_text())["argument_specs"].values():
            for name, spec in entry["options"].items():
                options.setdefault(name, spec)
    return options


def preflight_inventory(given: Mapping[str, Any], specs: Mapping[str, Spec], of_site: Sequence[str]) -> Problems:
    """Return what is wrong with the variables of an inventory, without looking at any host."""
    asked = {name: spec for name, spec in specs.items() if name not in of_site}
    problems = [*_unknown(given, asked)]
    for name, spec in asked.items():
        problems += _value(name, spec, given)
    # What belongs together is judged only where each part is right by itself.
    return problems or [
        *_queues(given), *_url(given), *_tls(given), *_reachable(given), *_form(given), *_ldap(given),
        *_stack(given), *_radius(given), *_logs(given), *_dask(given),
    ]  # fmt: skip


def _unknown(given: Mapping[str, Any], specs: Mapping[str, Spec]) -> Iterable[str]:
    for name in given:
        if name not in specs:
            near = difflib.get_close_matches(name, specs, n=1, cutoff=0.75)
            yield f"Unknown variable '{name}'." + (f" Did you mean '{near[0]}'?" if near else " Remove it.")


def _value(name: str, spec: Spec, given: Mapping[str, Any]) -> Problems:
    if given.get(name) is None:
        return [f"{name} is not set. Write: {_sentence(spec)}"] if spec.get("required") else []
    value = given[name]
    if spec.get("elements") == "dict" and isinstance(value, list):
        return [problem for element in value for problem in _element(name, spec, element)]
    return _by_spec(name, {name: spec}, {name: value})


def _element(name: str, spec: Spec, element: object) -> Problems:
    """Check one element of a list by itself, so that the message can say which."""
    if not isinstance(element, dict):
        return [f"{name} must be a list of mappings, and {_shown(spec, element)} is none."]
    label = f"{name} '{element['name']}'" if "name" in element else f"{name}, an element without name"
    options = spec["options"]
    problems = [f"{label}: unknown key '{key}'." + _meant(key, options) for key in element if key not in options]
    for key, option in options.items():
        if element.get(key) is None:
            problems += [f"{label}: {key} is not set. Write: {_sentence(option)}"] if option.get("required") else []
        else:
            problems += _by_spec(f"{label}: {key}", {key: option}, {key: element[key]})
    return problems


def _meant(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean '{near[0]}'?" if near else f" Known are {', '.join(known)}."


def _by_spec(label: str, spec: Spec, value: Mapping[str, Any]) -> Problems:
    ((name, option),) = spec.items()
    # A default may be a template, and is not what is checked here.
    bare = {name: {key: part for key, part in option.items() if key in ("type", "choices", "elements")}}
    if not ArgumentSpecValidator(bare).validate(dict(value)).errors.messages and not _boolean(option, value[name]):
        return []
    kind = "mappings" if option.get("elements") == "dict" else option["type"]
    wanted = f"one of {', '.join(option['choices'])}" if "choices" in option else _KINDS[kind]
    return [f"{label} is {_shown(option, value[name])}, and must be {wanted}: {_sentence(option)}"]


def _shown(option: Spec, value: object) -> str:
    """Return a value as a message may show it, which a secret, or what should have held one, is not."""
    secret = any(part.get("no_log") for part in (option, *option.get("options", {}).values()))
    return "something that is not shown here" if secret else repr(value)


_KINDS = {
    "str": "text",
    "path": "a path",
    "int": "a whole number",
    "bool": "true or false",
    "list": "a list",
    "dict": "a mapping",
    "mappings": "a list of mappings",
}


def _boolean(option: Spec, value: object) -> bool:
    """Whether a boolean stands where a number or a text belongs; YAML makes one of yes, no, on and off."""
    return isinstance(value, bool) and option["type"] != "bool"


def _sentence(spec: Spec) -> str:
    text = " ".join(str(spec["description"]).split())
    return text[0].lower() + text[1:]


def _queues(given: Mapping[str, Any]) -> Iterable[str]:
    queues = given["hpc_queues"]
    names = [queue["name"] for queue in queues]
    if not queues:
        yield "hpc_queues is empty. Name at least one queue that users may choose."
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"hpc_queues '{name}' stands in the list twice. Keep one of them."
    defaults = [queue["name"] for queue in queues if queue.get("default")]
    if len(defaults) > 1:
        yield f"hpc_queues: {', '.join(defaults)} all have default: true. Keep one of them."
    for queue in queues:
        for key in ("max_walltime_minutes", "max_cores", "max_memory_gib"):
            if queue.get(key) is not None and int(queue[key]) < 1:
                yield f"hpc_queues '{queue['name']}': {key} is {queue[key]}. Write at least 1, or leave it out."


def _url(given: Mapping[str, Any]) -> Iterable[str]:
    url = urlsplit(given["jupyterhub_url"])
    if url.scheme != "https":
        yield f"jupyterhub_url is {given['jupyterhub_url']}. Passwords travel over it: write https://."
    elif not url.hostname or url.query or url.fragment or url.username:
        yield f"jupyterhub_url is {given['jupyterhub_url']}. Write https://, a host name and, if need be, a port."
    elif boolean(given.get("jupyterhub_subdomains", False)) and _is_address(url.hostname):
        yield (
            f"jupyterhub_subdomains is true, and jupyterhub_url is {given['jupyterhub_url']}: an address has no names"
            " below. Write a host name, or drop jupyterhub_subdomains."
        )


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _tls(given: Mapping[str, Any]) -> Iterable[str]:
    if given.get("jupyterhub_proxy_tls_mode", "files") == "files":
        for name in ("jupyterhub_proxy_tls_certificate", "jupyterhub_proxy_tls_private_key"):
            if given.get(name) is None:
                yield f"{name} is not set, and jupyterhub_proxy_tls_mode is files. Name the file on the login node."


def _reachable(given: Mapping[str, Any]) -> Iterable[str]:
    host = str(given.get("jupyterhub_connect_host", ""))
    if host == "localhost" or host.startswith("127."):
        yield f"jupyterhub_connect_host is {host}, which a compute node takes for itself. Write the login node's name."
    listens = [int(given.get("jupyterhub_port", 8081)), _proxy_port(given)]
    if listens[0] == listens[1]:
        yield f"jupyterhub_port and jupyterhub_proxy_port are both {listens[0]}. Choose two ports."


def _proxy_port(given: Mapping[str, Any]) -> int:
    return int(given.get("jupyterhub_proxy_port") or urlsplit(given["jupyterhub_url"]).port or 443)


def _stack(given: Mapping[str, Any]) -> Iterable[str]:
    """Say what does not belong together in the way to sign in."""
    stack, service = given.get("jupyterhub_pam_stack", "oath_unix"), given.get("jupyterhub_pam_service")
    seconds = int(given.get("jupyterhub_login_timeout_seconds", 60))
    if stack == "own" and not service:
        yield "jupyterhub_pam_service is not set, and jupyterhub_pam_stack is own. Name your file in /etc/pam.d."
    if stack != "own" and service:
        yield (
            f"jupyterhub_pam_service is {service}, but jupyterhub_pam_stack is {stack}."
            " Write jupyterhub_pam_stack: own, or remove the first."
        )
    if service and not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", service):
        yield (
            f"jupyterhub_pam_service is {service}. Write the name of a file in /etc/pam.d, in small letters, without"
            " its directory."
        )
    users_file = given.get("jupyterhub_pam_oath_users_file", "/etc/oath/users/${USER}")
    if not re.fullmatch(r"/[^$]*/[^/$]*\$\{USER\}[^/$]*", users_file):
        yield (
            f"jupyterhub_pam_oath_users_file is {users_file}. Write a file for each user, such as"
            " /etc/oath/users/${USER}."
        )
    if stack == "duo" and seconds < 60:
        yield (
            f"jupyterhub_login_timeout_seconds is {seconds}, but a push waits for up to 60 s, and jupyterhub_pam_stack"
            " is duo. Write at least 60."
        )
    if stack == "password" and not given.get("jupyterhub_pam_accept_single_factor"):
        yield (
            "jupyterhub_pam_stack is password, a single factor. Choose another or, for a test system, write"
            " jupyterhub_pam_accept_single_factor: true."
        )


def _radius(given: Mapping[str, Any]) -> Iterable[str]:
    """Say what would keep the RADIUS module from asking, or make it ask for longer than anybody waits."""
    if given.get("jupyterhub_pam_stack") != "radius":
        return
    servers = given.get("jupyterhub_pam_radius_servers") or []
    seconds = int(given.get("jupyterhub_pam_radius_timeout_seconds", 5))
    whole = int(given.get("jupyterhub_login_timeout_seconds", 60))
    if not servers:
        yield "jupyterhub_pam_radius_servers is empty, and jupyterhub_pam_stack is radius. Name at least one server."
    for server in servers:
        for key in ("host", "secret"):
            if not re.fullmatch(r"[^\s#]\S*", str(server[key])):
                yield (
                    f"jupyterhub_pam_radius_servers '{server['host']}': {key} is empty, has a blank, or begins with #."
                    " Choose another."
                )
    if not 3 <= seconds <= 60:
        yield f"jupyterhub_pam_radius_timeout_seconds is {seconds}. Write 3 to 60, which is what the module can do."
    longest = len(servers) * 2 * seconds
    if longest + 5 > whole:
        yield (
            f"jupyterhub_pam_radius_timeout_seconds is {seconds}, so {len(servers)} servers may take {longest} s, but"
            f" jupyterhub_login_timeout_seconds is {whole}: lower the first, or make that {longest + 5}."
        )


def _form(given: Mapping[str, Any]) -> Iterable[str]:
    queues = given["hpc_queues"]
    first = next((queue for queue in queues if queue.get("default")), queues[0] if queues else {})
    pairs = {
        "jupyterhub_default_walltime_minutes": ("max_walltime_minutes", 60),
        "jupyterhub_default_cores": ("max_cores", 1),
        "jupyterhub_default_memory_gib": ("max_memory_gib", 4),
    }
    for name, (key, default) in pairs.items():
        value, limit = int(given.get(name, default)), first.get(key)
        if limit is not None and value > int(limit):
            yield f"{name} is {value}, but {key} of the queue '{first['name']}', with which the form opens, is {limit}."


def _logs(given: Mapping[str, Any]) -> Iterable[str]:
    """Say which directory of logs could not be each user's own, or would mean something else to a batch system."""
    places = {name: given.get(name) for name in ("jupyterhub_spawner_log_directory", "dask_site_log_directory")}
    for own in given.get("dask_site_queues") or []:
        places[f"dask_site_queues '{own['name']}': log_directory"] = own.get("log_directory")
    for name, place in places.items():
        if place is not None and not re.fullmatch(USERS_OWN, place):
            yield (
                f"{name} is {place}. Write a plain absolute path with {{user}} or {{home}} in it, such as"
                " /scratch/{user}/logs."
            )


def _dask(given: Mapping[str, Any]) -> Iterable[str]:
    """Say what no Dask job could be, or would be against the queue's limits."""
    queues = {queue["name"]: queue for queue in given["hpc_queues"]}
    owns = given.get("dask_site_queues") or []
    names = [own["name"] for own in owns]
    for name in dict.fromkeys(name for name in names if name not in queues):
        yield f"dask_site_queues '{name}' is not in hpc_queues. Write one of {', '.join(queues)}."
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"dask_site_queues '{name}' stands in the list twice. Keep one of them."
    keys = [*DASK_JOB, "local_directory"]
    site = {key: given[f"dask_site_{key}"] for key in keys if given.get(f"dask_site_{key}") is not None}
    for label, job in {"dask_site_": site, **{f"dask_site_queues '{own['name']}': ": own for own in owns}}.items():
        yield from _dask_job(label, job, queues.get(job.get("name"), {}))
    for name, queue in queues.items():
        job = {**site, **next((own for own in owns if own["name"] == name), {})}
        wait, longest = int(job.get("queue_wait_minutes", 0)), queue.get("max_walltime_minutes")
        lasts = min(int(job.get("walltime_minutes", 60)), int(longest or sys.maxsize))
        if wait * 20 > lasts * 3:  # see dask_site's own filter
            yield (
                f"Dask jobs in queue '{name}' wait {wait} minutes and last {lasts}: all may retire before new ones"
                f" come. Let them last {-(-wait * 20 // 3)}, or write a shorter queue_wait_minutes."
            )


def _dask_job(label: str, job: Mapping[str, Any], queue: Mapping[str, Any]) -> Iterable[str]:
    for key, least in DASK_JOB.items():
        if job.get(key) is not None and int(job[key]) < least:
            yield f"{label}{key} is {job[key]}. Write at least {least}."
        limit = queue.get(f"max_{key}")
        if job.get(key) is not None and limit is not None and int(job[key]) > int(limit):
            yield f"{label}{key} is {job[key]}, but max_{key} of that queue in hpc_queues is {limit}."
    place = job.get("local_directory")
    if place is not None and not re.fullmatch(r'[/$][^"\n]*', str(place)):
        yield f"{label}local_directory is {place}. Write an absolute path, or a variable of the job such as $TMPDIR."


def _ldap(given: Mapping[str, Any]) -> Problems:
    if given.get("jupyterhub_login_method", "pam") != "ldap":
        return []
    return [*_ldap_servers(given), *_ldap_entries(given)]


def _ldap_servers(given: Mapping[str, Any]) -> Iterable[str]:
    servers = given.get("jupyterhub_ldap_servers") or []
    if not servers:
        yield "jupyterhub_ldap_servers is empty, and jupyterhub_login_method is ldap. Write at least one ldaps://HOST."
    for url in servers:
        scheme, _, place = str(url).partition("://")
        if scheme == "ldap":
            yield (
                f"jupyterhub_ldap_servers: {url} has no TLS, and PINs travel over it. Write"
                f" ldaps://{place.split(':')[0]} or ldap+starttls://{place}."
            )
        elif not re.fullmatch(LDAP_SERVER, str(url)):
            yield f"jupyterhub_ldap_servers: {url} is no server. Write ldaps://HOST, and a port if need be."
    one = int(given.get("jupyterhub_ldap_timeout_seconds", 5))
    whole = int(given.get("jupyterhub_login_timeout_seconds", 60))
    if not 0 < one < whole:
        yield (
            f"jupyterhub_ldap_timeout_seconds is {one}, for one answer, and jupyterhub_login_timeout_seconds is"
            f" {whole}, for all. Write 1 to {whole - 1}."
        )


def _ldap_entries(given: Mapping[str, Any]) -> Iterable[str]:
    template, base = given.get("jupyterhub_ldap_bind_dn"), given.get("jupyterhub_ldap_search_base")
    if bool(template) == bool(base):
        both = "are both set" if base else "are both empty"
        yield (
            f"jupyterhub_ldap_bind_dn and jupyterhub_ldap_search_base {both}. Write one of them: where people's entries"
            " are, or where to search for them."
        )
    if template and not re.fullmatch(r"[^{}]*\{username\}[^{}]*", template):
        yield f"jupyterhub_ldap_bind_dn is {template}. Write {{username}} once, and no other braces."
    account = given.get("jupyterhub_ldap_lookup_dn")
    if account and not base:
        yield f"jupyterhub_ldap_lookup_dn is {account}, but nothing is searched. Leave it out, or set the search base."
    if account and not given.get("jupyterhub_ldap_lookup_password"):
        yield "jupyterhub_ldap_lookup_password is not set, and jupyterhub_ldap_lookup_dn is. Refer to it in the vault."


def preflight_host(
    answers: Mapping[str, Any],
    queues: Sequence[Mapping[str, Any]],
    systems: Mapping[str, Sequence[str]],
    system: Mapping[str, str],
) -> Problems:
    """Return what the login node's answers say against the inventory."""
    problems = []
    if system["major"] not in systems.get(system["family"], ()):
        known = "; ".join(f"{family} {' and '.join(majors)}" for family, majors in systems.items())
        problems.append(f"The login node runs {system['name']} {system['major']}. hpchub runs on {known}.")
    if not answers["systemd"]:
        problems.append("The login node does not run systemd, which the hub's services need.")
    problems += _python(answers["python"], answers["python_path"])
    if not answers["group"]["known"]:
        name = answers["group"]["name"]
        problems.append(f"hpc_users_group '{name}' is no group on the login node (getent group {name}).")
    if not answers["host"]["addresses"]:
        name = answers["host"]["name"]
        problems.append(f"jupyterhub_connect_host '{name}' has no address on the login node (getent hosts {name}).")
    if answers["certificate"]:
        problems += _certificate(answers["certificate"])
    for url, error in answers["directory"].items():
        remedy = (
            " Write the name that its certificate has, and its authority's certificate to jupyterhub_ldap_ca_file."
            if "certificate" in error
            else ""
        )
        problems.append(f"jupyterhub_ldap_servers: {url} cannot be asked from the login node: {error}.{remedy}")
    for unit, port in answers["ports"].items():
        if port["taken"]:
            problems.append(
                f"Port {port['port']}, on which {unit} would listen, cannot be had: {port['taken']}"
                f" (ss -ltnp sport = :{port['port']})."
            )
    return [*problems, *_sign_in(answers["sign_in"]), *_scheduler(answers["scheduler"], queues)]


_HARM = {
    "localifdown": "lets people in when no RADIUS server answers",
    "nullok": "lets an account without a password in",
    "alwaysok": "lets people in whatever they type",
}


def _sign_in(answer: Mapping[str, Any]) -> Iterable[str]:
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


def _python(version: str, path: str) -> Problems:
    if not version:
        return [f"hpc_python is {path}, which is not on the login node, or cannot run."]
    if tuple(map(int, version.split("."))) < OLDEST_PYTHON:
        return [f"hpc_python is {path}, which is Python {version}. Name one of 3.11 or newer that all nodes have."]
    return []


def _certificate(told: Mapping[str, Any]) -> Problems:
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


def _validity(told: Mapping[str, Any]) -> Problems:
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


def preflight_warnings(answers: Mapping[str, Any]) -> Problems:
    """Return what a sysadmin has to know soon, and what need not stop a run."""
    told = answers["certificate"]
    if not told or not told.get("is_certificate"):
        return []
    warnings = []
    days = (told["ends"] - told["now"]) / 86400
    if 0 <= days < DAYS_TO_RENEW:
        warnings.append(
            f"The certificate {told['path']} ends on {_date(told['ends'])}, in {days:.0f} days. Renew it, then:"
            " systemctl restart hpchub-proxy"
        )
    if told["lacks_issuer"]:
        warnings.append(
            f"{told['path']} lacks the certificate of the issuer, {told['issuer']}, which the login node does not know"
            " either. Unless it is a root that browsers here trust, append it: they would refuse the hub."
        )
    return warnings


def _scheduler(answer: Mapping[str, str], queues: Sequence[Mapping[str, Any]]) -> Problems:
    if answer["error"]:
        return [f"The scheduler does not answer: {answer['error']} ({answer['command']})."]
    known = _slurm_limits(answer["output"]) if "scontrol" in answer["command"] else _pbs_limits(answer["output"])
    problems = []
    for queue in queues:
        name, wanted = queue["name"], queue.get("max_walltime_minutes")
        if name not in known:
            problems.append(f"hpc_queues '{name}': the scheduler knows no such queue, but {', '.join(known)}.")
        elif wanted is not None and known[name] is not None and int(wanted) > known[name]:
            problems.append(
                f"hpc_queues '{name}': max_walltime_minutes is {wanted}, but the scheduler allows {known[name]}"
                f" ({answer['command']}). Lower it, or leave it out."
            )
    return problems


def _slurm_limits(output: str) -> dict[str, int | None]:
    """Minutes that each partition allows, None for no limit, from `scontrol show partition --oneliner`."""
    limits = {}
    for line in output.splitlines():
        fields = dict(re.findall(r"(\w+)=(\S*)", line))
        if "PartitionName" in fields:
            limits[fields["PartitionName"]] = _minutes(fields.get("MaxTime", "UNLIMITED"))
    return limits


def _pbs_limits(output: str) -> dict[str, int | None]:
    """Minutes that each queue allows, None for no limit, from `qstat -Q -f -F json`."""
    listed = json.loads(output).get("Queue", {})
    return {name: _minutes(str(queue.get("resources_max", {}).get("walltime", ""))) for name, queue in listed.items()}


def _minutes(text: str) -> int | None:
    """Whole minutes of [days-]hours:minutes:seconds; None for all that is no such time."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if match is None:
        return None
    days, hours, minutes, _ = (int(part or 0) for part in match.groups())
    return (days * 24 + hours) * 60 + minutes


def preflight_report(problems: Sequence[str], inventory: str) -> str:
    """Return one numbered report."""
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    lines = [f"{number}. {problem}" for number, problem in enumerate(problems, 1)]
    return "\n".join([f"preflight found {count} in {Path(inventory).name}:", "", *lines, "", "Nothing was changed."])


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file."""
        return {
            "preflight_specs": preflight_specs,
            "preflight_inventory": preflight_inventory,
            "preflight_host": preflight_host,
            "preflight_warnings": preflight_warnings,
            "preflight_report": preflight_report,
        }
