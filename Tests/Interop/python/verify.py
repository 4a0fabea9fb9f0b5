"""Verifies messages with nothing but certificates, by pycose.

    verify.py --trust ROOT [--trust ...] [--certificate FILE ...] MESSAGE...

Certificates are PEM or DER files; MESSAGE is a file of raw bytes, a file of hexadecimal digits, or the digits
themselves. The signer's certificate is the one that the message's x5t names; it must chain to a trusted root
through the certificates given. A hello brings its own chain.

Prints one JSON object a line and message: valid, and what it says or why not. Exit code 1 if any is not valid.
"""

import argparse
import hashlib
import json
import os
import sys
from decimal import Decimal

import cbor2
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from pycose.keys import EC2Key
from pycose.keys.curves import P256
from pycose.messages import CoseMessage

import secure_mqtt_wire as wire


class Invalid(Exception):
    pass


def load_certificates(path):
    data = open(path, "rb").read()
    if b"-----BEGIN CERTIFICATE" in data:
        return x509.load_pem_x509_certificates(data)
    return [x509.load_der_x509_certificate(data)]


def load_message(text):
    if not os.path.exists(text):
        return bytes.fromhex(text)
    data = open(text, "rb").read()
    try:
        return bytes.fromhex(data.decode("ascii"))
    except ValueError:
        return data


def fingerprint(certificate):
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()


def check_chain(certificate, known, roots):
    for _ in range(4):
        if certificate in roots:
            return
        issuers = [c for c in known + roots if c.subject == certificate.issuer]
        for issuer in issuers:
            try:
                certificate.verify_directly_issued_by(issuer)
                certificate = issuer
                break
            except Exception:
                continue
        else:
            raise Invalid("no issuer among the certificates given")
    raise Invalid("the chain does not end in a trusted root")


def plain(item):
    """CBOR as JSON: bytes as hex, decimals as text with their digits."""
    if isinstance(item, bytes):
        return item.hex()
    if isinstance(item, Decimal):
        return format(item, "f")
    if isinstance(item, (list, tuple)):
        return [plain(i) for i in item]
    if isinstance(item, dict):
        return {str(k): plain(v) for k, v in item.items()}
    return item


def verify(message, known, roots):
    outer = cbor2.loads(message)
    if not isinstance(outer, cbor2.CBORTag) or outer.tag != 18 or len(outer.value) != 4:
        raise Invalid("not a COSE_Sign1")
    protected, _, content, signature = outer.value
    labels = cbor2.loads(protected)
    algorithm, digest = labels[34]
    if algorithm != -16:
        raise Invalid("x5t is not by SHA-256")
    chain = [x509.load_der_x509_certificate(c) for c in labels.get(33, [])]
    signers = [c for c in known + chain if fingerprint(c) == digest]
    if not signers:
        raise Invalid("the certificate that x5t names is not among those given")
    certificate = signers[0]
    check_chain(certificate, known + chain[1:], roots)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    issuer = labels[15][1]
    if names.get_values_for_type(x509.UniformResourceIdentifier) != [issuer]:
        raise Invalid("iss is not the name in the certificate")
    numbers = certificate.public_key().public_numbers()
    if not isinstance(numbers.curve, ec.SECP256R1):
        raise Invalid("the certificate's key is not on P-256")
    if labels[1] == -9:
        # ESP256 says the same as ES256 on P-256, but pycose 1.1 does not know it yet.
        structure = cbor2.dumps(["Signature1", protected, b"", content])
        r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
        try:
            certificate.public_key().verify(encode_dss_signature(r, s), structure, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature as error:
            raise Invalid("the signature does not verify") from error
    else:
        cose = CoseMessage.decode(message)
        cose.key = EC2Key(crv=P256, x=numbers.x.to_bytes(32, "big"), y=numbers.y.to_bytes(32, "big"))
        if not cose.verify_signature():
            raise Invalid("the signature does not verify")
    kind = labels[16].removeprefix("application/vnd.secure-mqtt.").removesuffix("+cose")
    payload = cbor2.loads(content)
    result = {"valid": True, "kind": kind, "issuer": issuer, "id": wire.message_id(message).hex(),
              "payload": plain(payload)}
    if 2 in labels[15]:
        result["subject"] = labels[15][2]
    if "seq" in labels:
        result.update(sequence=labels["seq"], previous=labels["prev"].hex(), clock=labels["clock"])
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--trust", action="append", default=[], required=True)
    parser.add_argument("--certificate", action="append", default=[])
    parser.add_argument("messages", nargs="+")
    arguments = parser.parse_args()
    roots = [c for path in arguments.trust for c in load_certificates(path)]
    known = [c for path in arguments.certificate for c in load_certificates(path)]
    failed = False
    for text in arguments.messages:
        try:
            result = verify(load_message(text), known, roots)
        except Invalid as error:
            result = {"valid": False, "why": str(error)}
        except Exception as error:  # whatever a hostile message makes the libraries do
            result = {"valid": False, "why": f"{type(error).__name__}: {error}"}
        failed = failed or not result["valid"]
        print(json.dumps(result))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
