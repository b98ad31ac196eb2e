"""A throw-away certificate authority for tests over TLS. Needs the openssl command."""

import ssl
import subprocess
from pathlib import Path


class Authority:
    """A throw-away certificate authority in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                      "-days", "2", "-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem")  # fmt: skip

    def server(self, name: str, *, days: int = 2) -> ssl.SSLContext:
        """A server's context with a certificate for `name`; negative `days` make an expired one."""
        (self.folder / "ext").write_text(f"subjectAltName=DNS:{name},IP:127.0.0.1\n")
        self._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                      "-subj", f"/CN={name}", "-keyout", "key.pem", "-out", "csr.pem")  # fmt: skip
        self._openssl("x509", "-req", "-in", "csr.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                      "-days", str(days), "-extfile", "ext", "-out", "cert.pem")  # fmt: skip
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "cert.pem", self.folder / "key.pem")
        return context

    def trusted(self) -> ssl.SSLContext:
        """A client's context that trusts this authority and nobody else."""
        return ssl.create_default_context(cafile=str(self.folder / "ca.pem"))

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)
