"""The text format of the original LiCore system, written from the protocol: see docs/wire-format.md."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import BLAKE2b
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate
from cryptography.x509.oid import NameOID

ALGORITHM = ECDSA(BLAKE2b(64))


class Party:
    """A folder with <name>.crt and <name>.key."""

    def __init__(self, folder, name):
        self.certificate_file = f"{folder}/{name}.crt"
        self.key_file = f"{folder}/{name}.key"
        with open(self.certificate_file, "rb") as file:
            self.certificate = load_pem_x509_certificate(file.read())
        with open(self.key_file, "rb") as file:
            self.key = load_pem_private_key(file.read(), password=None)

    @property
    def common_name(self):
        return self.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value

    def sign(self, text):
        return text + "||" + self.key.sign(text.encode(), ALGORITHM).hex()


def split(payload):
    """Text and signature; raises on what is not this format, as the original does."""
    message = payload.decode("utf-8")
    parts = message.split("||")
    return parts[0], bytes.fromhex(parts[-1])


def verify(certificate_file, text, signature):
    """Raises InvalidSignature."""
    with open(certificate_file, "rb") as file:
        key = load_pem_x509_certificate(file.read()).public_key()
    key.verify(signature, text.encode(), ALGORITHM)


__all__ = ["ALGORITHM", "InvalidSignature", "Party", "split", "verify"]
