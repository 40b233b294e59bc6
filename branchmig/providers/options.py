"""Which options a URL may give to a driver: what stands behind its question mark.

Whoever may write a branch's URL need not be one who may read this host's files. Drivers know
options that let a server ask for a file, that send one server another's password, that write a
trace or load a library; so an option that is not named here does not get to a driver.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from sqlalchemy.engine import URL

from ..errors import BranchUnusable, UsageError
from ..masking import mask


@dataclass(frozen=True, slots=True)
class Options:
    """What the URLs of one engine may say.

    `values`: the pattern that an option's value has to match, where not every value will do.
    `drivers`: the only drivers that are taken; none: every driver.
    `spelt`: makes one of two spellings that are the same to the driver.
    """

    known: tuple[str, ...]
    values: Mapping[str, str] = field(default_factory=dict)
    drivers: tuple[str, ...] = ()
    spelt: Callable[[str], str] = str

    def check(self, address: URL) -> None:
        """Raise UsageError where a URL says what it may not."""
        for sentence, hint in self._complaints(address):
            raise UsageError(sentence, hint)

    def usable(self, address: URL) -> URL:
        """The URL to connect to. Raises BranchUnusable where it says what it may not, as one can
        that was never checked: written into HeadOffice by hand, or kept as a secret."""
        for sentence, hint in self._complaints(address):
            raise BranchUnusable(sentence, hint)
        return address

    def _complaints(self, address: URL) -> Iterator[tuple[str, str]]:
        """What is wrong, with a hint."""
        driver = address.get_driver_name()
        if self.drivers and driver not in self.drivers:
            yield (
                f"the driver {driver!r} in the URL is not one that can be told to send no file",
                f"name one of {', '.join(self.drivers)}, or none",
            )
        known = {self.spelt(key) for key in self.known}
        for key, given in address.query.items():
            if self.spelt(key) not in known:
                yield (
                    f"the option {mask(key)!r} of the URL is not one that a driver is given",
                    f"known: {', '.join(self.known)}",
                )
            for value in [given] if isinstance(given, str) else given:
                if not re.fullmatch(self.values.get(self.spelt(key), r"(?s:.*)"), value):
                    yield (
                        f"the option {key!r} of the URL may not be {mask(value)!r}",
                        "a driver goes by its name in odbcinst.ini, a key is a file of its own",
                    )


POSTGRESQL = Options(
    known=(
        *("host", "port", "user", "password", "connect_timeout", "application_name"),
        *("client_encoding", "target_session_attrs", "load_balance_hosts", "requirepeer"),
        *("sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl", "sslcrldir"),
        *("sslsni", "sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version"),
        *("gssencmode", "krbsrvname", "channel_binding", "require_auth"),
    ),
    # ENGINE:KEY would load a library of that name.
    values={"sslkey": "[^:]*"},
)
"""Not `passfile`, `service`, nor `hostaddr`, which has libpq look up the password of one host and
send it to another. The files that are allowed are used and not sent, but for certificates."""

MYSQL = Options(
    known=(
        *("user", "password", "unix_socket", "charset", "collation", "use_unicode", "sql_mode"),
        *("program_name", "connect_timeout", "read_timeout", "write_timeout"),
        *("ssl_ca", "ssl_capath", "ssl_cert", "ssl_key", "ssl_key_password", "ssl_cipher"),
        *("ssl_disabled", "ssl_verify_cert", "ssl_verify_identity", "ssl_check_hostname"),
        "ssl_mode",
    ),
    drivers=("pymysql", "mysqldb"),
)

SQLSERVER = Options(
    known=(
        *("driver", "port", "Encrypt", "Encryption", "TrustServerCertificate"),
        *("ServerCertificate", "HostNameInCertificate", "Trusted_Connection"),
        *("TDS_Version", "ClientCharset", "APP", "WSID", "ConnectRetryCount", "PacketSize"),
        *("ApplicationIntent", "MultiSubnetFailover", "MARS_Connection", "Language"),
    ),
    # By a path whatever library is there would be loaded.
    values={"driver": r"[^/\\{};]*"},
    spelt=str.lower,
)
"""Also what stands in an ODBC connection string; the names of the server, the database and the
login are parts of the URL then."""
