"""Certificates between proxy, hub and Labs: two private authorities, and what the hub signs with one of them.

`services` vouches for hub, proxy and culler; its key never leaves root. `labs` vouches for Labs; the hub has its key. A
Lab takes connections from services alone, so nobody opens it with the certificate of another Lab.

A Lab's key pair is made with its job and travels in the job's script. Until the job runs nobody knows where, so the
certificate beside it only lets the job call the hub; the one with the node's name comes as the hub's answer.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage
from cryptography.x509.oid import NameOID

CLOCK_SKEW = timedelta(minutes=10)
WAITING = timedelta(days=366)
"""How long a job may wait in the queue."""
BEYOND_WALLTIME = timedelta(days=7)
"""For jobs that an administrator gives more time."""


@dataclass(frozen=True)
class Pair:
    """A private key and the certificate that fits it, as PEM."""

    key: str
    certificate: str


@dataclass(frozen=True)
class Labs:
    """The authority of the Labs: its private key and its certificate; and the certificate of whom Labs believe. PEM."""

    key: str
    certificate: str
    services: str

    @cached_property
    def _key(self) -> ec.EllipticCurvePrivateKey:
        key = serialization.load_pem_private_key(self.key.encode(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("the key of the Labs' authority is no elliptic curve key")
        return key

    @cached_property
    def _certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate.encode())

    def caller(self, name: str) -> Pair:
        """A new key pair for the server `name`, good for calling the hub and for nothing else."""
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Pair(pem.decode(), self._sign(key.public_key(), name, WAITING, [Usage.CLIENT_AUTH], []))

    def server(self, caller: str, node: str, walltime: timedelta) -> str:
        """A certificate for the key of `caller` (PEM) that also lets it serve on `node`, a host name or an address."""
        given = x509.load_pem_x509_certificate(caller.encode())
        key = given.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError("the caller's certificate is none of ours")
        (name,) = given.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        usages = [Usage.SERVER_AUTH, Usage.CLIENT_AUTH]
        return self._sign(key, str(name.value), walltime + BEYOND_WALLTIME, usages, [_subject(node)])

    def _sign(
        self,
        key: ec.EllipticCurvePublicKey,
        name: str,
        lifetime: timedelta,
        usages: list[x509.ObjectIdentifier],
        names: list[x509.GeneralName],
    ) -> str:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])]))
            .issuer_name(self._certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SKEW)
            .not_valid_after(min(now + lifetime, self._certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(_SIGNATURES, critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        signed = builder.sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM).decode()


_SIGNATURES = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def _subject(node: str) -> x509.GeneralName:
    """The name under which the proxy looks for a node."""
    try:
        return x509.IPAddress(ipaddress.ip_address(node))
    except ValueError:
        return x509.DNSName(node)
