"""Signs a statement. Reads one JSON object from standard input, writes the message in hexadecimal.

    {"key": <P-256 private scalar in hex, or PEM>, "certificate": <DER in hex>, "issuer": "spiffe://...",
     "stream": <16 hex>, "sequence": 1, "previous": <64 hex>, "clock": "S", "issued_at": 1767225600,
     "readings": [{"meter": "m1", "name": "consumption", "unit": "kWh", "value": "0.48",
                   "time": 1767225600, "interval": 900}]}

`"high_s": true` makes the message that a verifier must refuse as not-canonical.
"""

import json
import sys

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

import secure_mqtt_wire as wire


def private_key(text):
    if "BEGIN" in text:
        return load_pem_private_key(text.encode(), password=None)
    return ec.derive_private_key(int(text, 16), ec.SECP256R1())


def main():
    order = json.load(sys.stdin)
    auditor = order["issuer"].rsplit("/", 1)[1]
    labels = wire.header(
        "statement", order["issuer"], bytes.fromhex(order["certificate"]), order["issued_at"],
        stream=order["stream"], sequence=order["sequence"], previous=bytes.fromhex(order["previous"]),
        clock=order.get("clock", "S"))
    payload = wire.pack(auditor, order["readings"])
    print(wire.sign(private_key(order["key"]), labels, payload, high_s=order.get("high_s", False)).hex())


if __name__ == "__main__":
    main()
