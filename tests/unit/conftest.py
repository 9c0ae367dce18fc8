"""A small site, a scheduler whose answers a test decides, and two authorities as the role internal_tls makes them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage
from cryptography.x509.oid import NameOID

from hpchub.hub.internal_tls import Labs
from hpchub.scheduler import JobState, Phase, Place, Project, Queue, Reservation, SchedulerUnavailable
from hpchub.scheduler.offers import Facts, Offer, OfferedReservation
from hpchub.settings import Cluster, Site, load

SITE = {
    "support_contact": "help@example.org",
    "users_group": "hpcusers",
    "hub": {"public_url": "https://hub.example.org/", "connect_host": "login1", "port": 8081},
    "clusters": [
        {
            "name": "demo",
            "scheduler": "slurm",
            "shared_prefix": "/opt/hpchub",
            "support_contact": "help@example.org",
            "queues": [
                {"name": "interactive", "description": "Short sessions", "default": True},
                {"name": "regular", "max_walltime_minutes": 600},
                {"name": "gpu"},
            ],
        }
    ],
}


class FakeScheduler:
    """Answers what a test put in; `down` makes it silent."""

    def __init__(self) -> None:
        self.down = False
        self.listed: dict[str, JobState] = {}
        self.accounted: dict[str, JobState] = {}
        self.tagged: dict[str, str] = {}
        self.asked: list[str] = []

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.down:
            raise SchedulerUnavailable("down")

    def put(self, job_id: str, phase: Phase, user: str = "alice", **more: object) -> None:
        self.listed[job_id] = JobState(job_id, user, phase, phase.name, **more)

    async def jobs(self, job_ids: Collection[str] | None = None) -> dict[str, JobState]:
        self._ask("jobs")
        return {job_id: job for job_id, job in self.listed.items() if job_ids is None or job_id in job_ids}

    async def ended(self, job_ids: list[str]) -> dict[str, JobState]:
        self._ask("ended")
        return {job_id: self.accounted[job_id] for job_id in job_ids if job_id in self.accounted}

    async def tags(self, user: str) -> dict[str, str]:
        self._ask("tags")
        return {job_id: tag for job_id, tag in self.tagged.items() if self.listed[job_id].user == user}

    async def own(self, user: str) -> dict[str, tuple[JobState, str]]:
        self._ask("own")
        mine = {job_id: job for job_id, job in self.listed.items() if job.user == user}
        return {job_id: (job, self.tagged.get(job_id, "")) for job_id, job in mine.items()}

    async def places(self) -> dict[str, Place]:
        self._ask("places")
        return {job_id: Place(3, 12) for job_id, job in self.listed.items() if job.phase is Phase.WAITING}

    async def queues(self) -> dict[str, Queue]:
        self._ask("queues")
        return {
            name: Queue(name, max_walltime_minutes=limit, max_cores=36, max_memory_mib=111616, max_gpus=gpus)
            for name, limit, gpus in (("interactive", 240, 0), ("regular", 720, 0), ("gpu", 720, 4))
        }

    async def projects(self, user: str, groups: frozenset[str]) -> list[Project]:
        self._ask("projects")
        return {"alice": [Project("climate"), Project("ocean")], "bob": [Project("climate")]}.get(user, [])

    async def reservations(self) -> list[Reservation]:
        self._ask("reservations")
        return [Reservation("tutorial", True, users=frozenset({"alice"}), queue="regular")]

    def explain(self, job: JobState) -> str:
        return f"words for {job.reason}" if job.reason else ""


@pytest.fixture
def scheduler() -> FakeScheduler:
    return FakeScheduler()


@pytest.fixture
def site_file(tmp_path: Path) -> Path:
    path = tmp_path / "site.yml"
    path.write_text(yaml.safe_dump(SITE))
    return path


@pytest.fixture
def site(site_file: Path) -> Site:
    return load(site_file)


@pytest.fixture
def cluster(site: Site) -> Cluster:
    return site.cluster


def offer(name: str, projects: tuple[str, ...] = ("climate", "ocean"), **more: object) -> Offer:
    limits = {"max_walltime_minutes": 240, "max_cores": 36, "max_memory_mib": 111616, "max_gpus": 0} | more
    return Offer(name=name, description="", default=name == "interactive", projects=projects, **limits)


@pytest.fixture
def facts() -> Facts:
    return Facts(
        user="alice",
        projects=("climate", "ocean"),
        offers=(offer("interactive"), offer("regular", max_walltime_minutes=720), offer("gpu", ("ocean",), max_gpus=4)),
        reservations=(OfferedReservation("tutorial", ("climate", "ocean"), "regular"),),
    )


@dataclass(frozen=True)
class Authority:
    """A private authority; `sign` gives key and certificate as PEM."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, name: str) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return cls(key, certificate(subject, subject, key, key, [x509.BasicConstraints(ca=True, path_length=0)]))

    def sign(self, host: str) -> tuple[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        extensions = [
            x509.SubjectAlternativeName([x509.DNSName(host)]),
            x509.ExtendedKeyUsage([Usage.SERVER_AUTH, Usage.CLIENT_AUTH]),
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
        ]
        return pem_key(key), pem(certificate(subject, self.certificate.subject, key, self.key, extensions))

    @property
    def pem(self) -> str:
        return pem(self.certificate)


def certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    extensions: list[x509.ExtensionType],
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=3650))
    for extension in [*extensions, x509.SubjectKeyIdentifier.from_public_key(key.public_key())]:
        builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
    return builder.sign(signer, hashes.SHA256())


def pem(signed: x509.Certificate) -> str:
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def pem_key(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


@pytest.fixture(scope="session")
def services() -> Authority:
    """Who vouches for hub, proxy and culler."""
    return Authority.make("hpchub services-ca")


@pytest.fixture(scope="session")
def labs(services: Authority) -> Labs:
    """Who vouches for Labs."""
    authority = Authority.make("hpchub labs-ca")
    return Labs(pem_key(authority.key), authority.pem, services.pem)
