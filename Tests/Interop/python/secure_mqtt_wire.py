"""The wire format of docs/wire-format.md, written again from that document, on cbor2 and cryptography.

Shares no code with the Swift implementation: that both understand each other is the point.
"""

import hashlib
from decimal import Decimal

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
CONTENT_TYPES = {"statement": 112, "heartbeat": 60, "result": 60, "hello": 60, "receipts": 60, "update": 60,
                 "alert": 60}


def message_id(message):
    """SHA-256 of a zero byte and the message: its leaf hash by RFC 9162."""
    return hashlib.sha256(b"\x00" + message).digest()


def number(text):
    """An integer, or tag 4 that keeps every digit behind the point."""
    sign, digits, exponent = Decimal(text).as_tuple()
    mantissa = int("".join(map(str, digits))) * (-1 if sign else 1)
    return mantissa if exponent == 0 else cbor2.CBORTag(4, [exponent, mantissa])


def pack(auditor, readings):
    """A SenML pack of readings: dicts with meter, name, unit, time and maybe value, interval, quality."""
    base = int(Decimal(str(readings[0]["time"])) // 1)
    records = []
    meter = None
    for index, reading in enumerate(readings):
        t = Decimal(str(reading["time"])) - base
        record = {0: reading["name"], 1: reading["unit"]}
        if "value" in reading:
            record[2] = number(reading["value"])
        if t != 0:
            record[6] = number(str(t.normalize() if t % 1 else int(t)))
        if index == 0:
            record[-1] = 26
        if reading["meter"] != meter:
            record[-2] = f"{auditor}/{reading['meter']}/"
            meter = reading["meter"]
        if index == 0:
            record[-3] = base
        if "quality" in reading:
            record["q"] = reading["quality"]
        if "interval" in reading:
            record["interval"] = number(str(reading["interval"]))
        records.append(record)
    return cbor2.dumps(records)


def header(kind, issuer, certificate, issued_at, stream=None, subject=None, chain=None, sequence=None,
           previous=None, clock=None, audience=None, expires=None):
    """The protected header as a dict in the order of its labels."""
    claims = {1: issuer}
    if stream is not None:
        claims[2] = f"{subject or issuer}/stream/{stream}"
    if kind == "update":
        claims[2] = f"{audience}/updates"
    if audience is not None:
        claims[3] = audience
    if expires is not None:
        claims[4] = expires
    claims[6] = issued_at
    labels = {1: -7, 3: CONTENT_TYPES[kind], 15: claims, 16: f"application/vnd.secure-mqtt.{kind}+cose"}
    if chain is not None:
        labels[33] = chain
    labels[34] = [-16, hashlib.sha256(certificate).digest()]
    if sequence is not None:
        labels["seq"] = sequence
        if previous is not None:
            labels["prev"] = previous
        if clock is not None:
            labels["clock"] = clock
    return labels


def raw_signature(key, protected, payload):
    """(r, s) over the Sig_structure of RFC 9052 with empty external data; the same each time (RFC 6979)."""
    structure = cbor2.dumps(["Signature1", protected, b"", payload])
    return decode_dss_signature(key.sign(structure, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))


def sign(key, protected, payload, high_s=False):
    """The one canonical form; with `high_s` the other of the two valid signatures."""
    protected = protected if isinstance(protected, bytes) else cbor2.dumps(protected)
    r, s = raw_signature(key, protected, payload)
    low = min(s, ORDER - s)
    s = ORDER - low if high_s else low
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return cbor2.dumps(cbor2.CBORTag(18, [protected, {}, payload, signature]))
