"""Makes Vectors/*.json: messages with fixed keys, taken or refused, each with its reason.

    make_vectors.py FOLDER

Everything is deterministic (RFC 6979), so running it again writes the same files. The keys are published here:
never trust them.
"""

import hashlib
import json
import os
import sys
from datetime import datetime, timezone

import cbor2
from cbor2 import CBORTag
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import secure_mqtt_wire as wire

DOMAIN = "energy.example"
NOW = 1767225600  # 2026-01-01T00:00:00Z
ZERO = bytes(32)


def scalar(name):
    seed = hashlib.sha256(f"secure-mqtt test vectors: {name}".encode()).digest()
    return int.from_bytes(seed, "big") % (wire.ORDER - 1) + 1


class Party:
    def __init__(self, name, role=None, issuer=None, begin=2025, end=2049, key_name=None):
        self.name = name
        self.role = role
        self.scalar = scalar(key_name or name)
        self.key = ec.derive_private_key(self.scalar, ec.SECP256R1())
        self.spiffe = f"spiffe://{DOMAIN}/{role}/{name}" if role else None
        self.issuer = issuer or self
        self.certificate = self.issue(begin, end)
        self.der = self.certificate.public_bytes(Encoding.DER)

    def issue(self, begin, end):
        public = self.key.public_key()
        is_authority = self.role is None
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        issuer = subject if self.issuer is self else self.issuer.certificate.subject
        serial = int.from_bytes(hashlib.sha256(f"serial {self.name} {begin}".encode()).digest()[:19], "big")
        builder = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
            .serial_number(serial)
            .not_valid_before(datetime(begin, 1, 1, tzinfo=timezone.utc))
            .not_valid_after(datetime(end, 12, 31, 23, 59, 59, tzinfo=timezone.utc))
            .add_extension(
                x509.BasicConstraints(is_authority, 0 if is_authority and self.issuer is not self else None), True)
            .add_extension(
                x509.KeyUsage(not is_authority, False, False, False, False, is_authority, is_authority, False, False),
                True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.issuer.key.public_key()), False))
        if not is_authority:
            builder = builder.add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False,
            ).add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(self.spiffe)]), False)
        return builder.sign(self.issuer.key, hashes.SHA256(), ecdsa_deterministic=True)

    def json(self):
        public = self.key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        fields = {"name": self.name, "role": self.role or "authority", "private_key": f"{self.scalar:064x}",
                  "public_key": public.hex(), "certificate": self.der.hex(),
                  "certificate_hash": hashlib.sha256(self.der).hexdigest()}
        if self.spiffe:
            fields["spiffe_id"] = self.spiffe
        return fields


ROOT = Party("vector-root")
INTERMEDIATE = Party("vector-intermediate", issuer=ROOT)
HOME_1 = Party("home-1", "auditor", INTERMEDIATE)
HOME_2 = Party("home-2", "auditor", INTERMEDIATE)
CENTER = Party("center-1", "control-center", INTERMEDIATE)
OPERATOR = Party("operator-1", "operator", INTERMEDIATE)
UNKNOWN = Party("home-1", "auditor", INTERMEDIATE, begin=2024, key_name="a key that nobody knows")
CHAIN = [HOME_1.der, INTERMEDIATE.der]
STREAM = "0123456789abcdef"
OTHER_STREAM = "fedcba9876543210"
NONCE = bytes(range(16))

HALF_HOUR = [
    {"meter": "m1", "name": "consumption", "unit": "kWh", "value": "0.48200000000000004", "time": NOW,
     "interval": 900},
    {"meter": "m1", "name": "production", "unit": "kWh", "value": "0.098", "time": NOW, "interval": 900},
]
EVERYTHING = [
    {"meter": "m1", "name": "consumption_total", "unit": "kWh", "value": "12345678.123456789", "time": NOW},
    {"meter": "m1", "name": "consumption_total/t1", "unit": "Wh", "value": "100", "time": NOW},
    {"meter": "m1", "name": "production_total/t12", "unit": "kWh", "value": "0.0", "time": NOW, "quality": "r"},
    {"meter": "inverter.2", "name": "power_produced/l1", "unit": "W", "value": "-0.5", "time": NOW + 1},
    {"meter": "inverter.2", "name": "power_produced/l2", "unit": "kW", "value": "1.50", "time": "1767225601.25",
     "interval": 60, "quality": "e"},
    {"meter": "m1", "name": "power", "unit": "W", "value": "-9223372036854775807", "time": "1767225602.000000001"},
    {"meter": "m1", "name": "power_consumed", "unit": "W", "time": NOW + 3, "quality": "m"},
    {"meter": "m1", "name": "voltage/l3", "unit": "V", "value": "231.4", "time": NOW + 3, "interval": "0.5"},
    {"meter": "m1", "name": "current", "unit": "A", "value": "9.223372036854775807", "time": NOW + 4},
    {"meter": "m1", "name": "power_factor", "unit": "/", "value": "0.000000000000000001", "time": NOW + 5},
    {"meter": "m1", "name": "frequency", "unit": "Hz", "value": "50.02", "time": NOW + 6, "quality": "x"},
]


def stream_labels(kind="statement", party=HOME_1, stream=STREAM, sequence=1, previous=ZERO, clock="S", **more):
    certificate = more.pop("certificate", party).der
    return wire.header(kind, party.spiffe, certificate, NOW, stream=stream, sequence=sequence, previous=previous,
                       clock=clock, **more)


def statement(readings=None, sequence=1, previous=ZERO, party=HOME_1, key=None, **more):
    return wire.sign(
        key or party.key, stream_labels(party=party, sequence=sequence, previous=previous, **more),
        wire.pack(party.name, readings or HALF_HOUR))


def hello_labels(party=HOME_1, chain=None, **more):
    return wire.header("hello", party.spiffe, party.der, NOW, chain=chain or CHAIN, **more)


HELLO = {1: bytes.fromhex(STREAM), 2: 1, 3: bytes(range(32)), 4: NONCE, 6: "S"}


def receipts_labels(party=CENTER, **more):
    return wire.header("receipts", party.spiffe, party.der, NOW, stream=STREAM, subject=HOME_1.spiffe, **more)


MEASURES = "audits/measures/home-1"
HELLO_TOPIC = "audits/hello/home-1"
RECEIPTS = "control_center/receipts/home-1"
UPDATES = "control_center/updates/home-1/center-1/SAMPLE_RATE"
ALERTS = "control_center/alerts/home-1"
ALERTS_TO_ALL = "control_center/alerts/all"
AUDITOR_ALERTS = "audits/alerts/home-1"
CENTER_CHAIN = [CENTER.der, INTERMEDIATE.der]
UPDATE = {1: "SAMPLE_RATE", 2: CBORTag(4, [-1, 2]), 3: "s", 4: NONCE, 5: bytes(range(16, 32))}
ALERT = {1: "maintenance", 2: "the grid is switched off at 10:00", 3: True}


def update_labels(party=CENTER, target=HOME_1, chain=None, sequence=7, **more):
    return wire.header("update", party.spiffe, party.der, NOW, audience=target.spiffe, expires=NOW + 3600,
                       chain=chain or CENTER_CHAIN, sequence=sequence, **more)


def alert_labels(party=CENTER, target=None, sequence=8, **more):
    return wire.header("alert", party.spiffe, party.der, NOW, audience=target.spiffe if target else None,
                       expires=NOW + 86400, sequence=sequence, **more)


def update(data=None, party=CENTER, key=None, **more):
    return wire.sign(key or party.key, update_labels(party, **more), cbor2.dumps(data or UPDATE))


def alert(data=None, party=CENTER, key=None, **more):
    return wire.sign(key or party.key, alert_labels(party, **more), cbor2.dumps(data or ALERT))


def accepted():
    first = statement()
    heartbeat = {1: 3, 2: NOW - 60, 3: 0, 4: [["m1", NOW, 0], ["m2", None, 7]]}
    result = {1: bytes(range(32)), 2: True, 3: "applied", 4: CBORTag(4, [-2, 150])}
    receipts = {1: [[1, 2, wire.message_id(first)], [5, 9, bytes(range(32))]],
                2: [[3, bytes(range(32)), "signature"]], 3: [9, bytes(range(32))], 5: NONCE}
    remembered = dict(HELLO)
    remembered.pop(6)
    remembered.update({5: ["log.energy.example", 7, bytes(range(32))], 6: "R"})
    unknown = stream_labels(sequence=2, previous=wire.message_id(first))
    unknown[4] = b"key"
    unknown[33333] = {1: [True, None]}
    unknown["trace"] = "abc"
    ordered = sorted(unknown.items(), key=lambda pair: cbor2.dumps(pair[0]))
    esp256 = stream_labels()
    esp256[1] = -9
    rows = [
        ("statement", MEASURES, "the first statement of an auditor: two readings over 15 minutes", first),
        ("statement-everything", MEASURES, "every quantity, unit, part and quality; two meters; digits kept",
         statement(EVERYTHING, 2, wire.message_id(first), clock="I")),
        ("statement-unknown-labels", MEASURES, "protected labels that nobody knows are kept and ignored",
         wire.sign(HOME_1.key, dict(ordered), wire.pack("home-1", HALF_HOUR))),
        ("statement-esp256", MEASURES, "alg -9 (ESP256) says the same as -7",
         wire.sign(HOME_1.key, esp256, wire.pack("home-1", HALF_HOUR))),
        ("statement-last", MEASURES, "the highest sequence number",
         statement(HALF_HOUR, 2**53 - 1, bytes(range(32)), clock="U")),
        ("heartbeat", MEASURES, "outbox, dead letters, state of two meters",
         wire.sign(HOME_1.key, stream_labels("heartbeat", sequence=3, previous=bytes(range(32)), clock="R"),
                   cbor2.dumps(heartbeat))),
        ("heartbeat-small", MEASURES, "nothing unsent, no meters",
         wire.sign(HOME_1.key, stream_labels("heartbeat", sequence=3, previous=bytes(range(32))),
                   cbor2.dumps({1: 0, 3: 0}))),
        ("result", MEASURES, "an update applied",
         wire.sign(HOME_1.key, stream_labels("result", sequence=4, previous=bytes(range(32))),
                   cbor2.dumps(result))),
        ("hello", HELLO_TOPIC, "leaf and intermediate in x5chain",
         wire.sign(HOME_1.key, hello_labels(), cbor2.dumps(HELLO))),
        ("hello-new", HELLO_TOPIC, "nothing signed yet: number 0, and the prev to come",
         wire.sign(HOME_1.key, hello_labels(), cbor2.dumps({**HELLO, 2: 0, 3: ZERO}))),
        ("hello-remembered", HELLO_TOPIC, "with the state of a log",
         wire.sign(HOME_1.key, hello_labels(), cbor2.dumps(remembered))),
        ("receipts", RECEIPTS, "stored, refused, newest, nonce",
         wire.sign(CENTER.key, receipts_labels(), cbor2.dumps(receipts))),
        ("receipts-nothing-held", RECEIPTS, "the answer to a first hello",
         wire.sign(CENTER.key, receipts_labels(), cbor2.dumps({5: NONCE}))),
        ("receipts-log-proof", RECEIPTS, "label 4 is read over",
         wire.sign(CENTER.key, receipts_labels(), cbor2.dumps({3: [1, wire.message_id(first)], 4: [b"x", None]}))),
        ("update", UPDATES, "a reading every 0.2 s from now on", update()),
        ("update-texts", "control_center/updates/home-1/center-1/METERS_ENABLED", "a list of texts, no unit, no batch",
         update({1: "METERS_ENABLED", 2: ["m1", "inverter.2"], 4: NONCE}, sequence=2**53 - 1)),
        ("alert", ALERTS, "of the control center, to one auditor", alert(target=HOME_1)),
        ("alert-to-all", ALERTS_TO_ALL, "of the control center, to every auditor", alert()),
        ("alert-of-auditor", AUDITOR_ALERTS, "of an auditor: what it raised is over",
         alert({1: "meter-silent", 2: "m1 is read again", 3: False}, HOME_1)),
    ]
    return [{"name": name, "topic": topic, "what": what, "message": message.hex(),
             "id": wire.message_id(message).hex()} for name, topic, what, message in rows]


def altered_payload(change, readings=None):
    """A signed statement whose records were changed as Python data."""
    records = cbor2.loads(wire.pack("home-1", readings or HALF_HOUR), tag_hook=lambda _, tag: tag)
    change(records)
    return raw_payload(cbor2.dumps([canonical(r) for r in records]))


def canonical(record):
    if not isinstance(record, dict):
        return record
    return dict(sorted(record.items(), key=lambda pair: cbor2.dumps(pair[0])))


def raw_payload(payload):
    return wire.sign(HOME_1.key, stream_labels(), payload)


def with_labels(payload=None, **changes):
    """A signed statement with labels changed; None removes one. Names as in the table below."""
    names = {"alg": 1, "crit": 2, "content_type": 3, "claims": 15, "typ": 16, "x5chain": 33, "x5t": 34}
    labels = stream_labels()
    for name, value in changes.items():
        label = names.get(name, name)
        if value is None:
            labels.pop(label, None)
        else:
            labels[label] = value
    return wire.sign(HOME_1.key, canonical(labels), payload or wire.pack("home-1", HALF_HOUR))


def refused():
    good = statement()
    message = cbor2.loads(good)
    protected, _, payload, signature = message.value
    flat = [cbor2.dumps(protected), b"\xa0", cbor2.dumps(payload), cbor2.dumps(signature)]
    claims = {1: HOME_1.spiffe, 2: f"{HOME_1.spiffe}/stream/{STREAM}", 6: NOW}
    hello = cbor2.dumps(HELLO)
    rows = []

    def add(reason, name, what, message, topic=MEASURES, **more):
        rows.append({"name": name, "reason": reason, "what": what, "topic": topic,
                     **({"message": message.hex()} if isinstance(message, bytes) else {"repeat": message}), **more})

    def record(name, what, change, readings=None):
        add("format", name, what, altered_payload(change, readings))

    add("too-large", "too-large", "65,536 bytes", ["d2", 65536])

    # format
    add("format", "empty", "no bytes", b"")
    add("format", "licore-text", "the original's text format, unless it is allowed", b"home-1/2026-01-01/0.5/0||3045")
    add("format", "sealed", "first byte of a sealed message", bytes.fromhex("d8608440a0f640"))
    add("format", "untagged", "COSE_Sign1 without its tag", good[1:])
    add("format", "truncated", "the last byte is missing", good[:-1])
    add("format", "array-of-three", "no signature", b"\xd2\x83" + flat[0] + flat[1] + flat[2])
    add("format", "mac-tag", "another COSE message", bytes.fromhex("d1") + good[1:])
    add("format", "typ-unknown", "typ of another protocol", with_labels(typ="application/x+cose"))
    add("format", "typ-missing", "no typ", with_labels(typ=None))
    add("format", "typ-newer", "a later version of a kind", with_labels(
        typ="application/vnd.secure-mqtt.statement.v2+cose"))
    add("format", "protected-not-a-map", "protected header is an array",
        wire.sign(HOME_1.key, cbor2.dumps([1, -7]), payload))
    add("format", "protected-double-label", "alg twice",
        wire.sign(HOME_1.key, b"\xaa\x01\x26" + protected[1:], payload))
    add("format", "payload-empty", "payload of no bytes", raw_payload(b""))
    add("format", "payload-no-records", "an empty pack", raw_payload(b"\x80"))
    add("format", "payload-trailing", "a byte behind the pack", raw_payload(payload + b"\x00"))
    add("format", "payload-too-many-records", "1,025 records", raw_payload(
        wire.pack("home-1", [{"meter": "m", "name": "power", "unit": "W", "value": "1", "time": NOW}] * 1025)))
    add("format", "payload-heartbeat-in-statement", "another kind's payload", raw_payload(cbor2.dumps({1: 0, 3: 0})))
    record("bver-missing", "no bver", lambda r: r[0].pop(-1))
    record("bver-other", "bver 10", lambda r: r[0].update({-1: 10}))
    record("bver-later", "bver in a later record", lambda r: r[1].update({-1: 26}))
    record("bn-missing", "no bn", lambda r: r[0].pop(-2))
    record("bn-other-auditor", "bn of another auditor than the issuer", lambda r: r[0].update({-2: "home-2/m1/"}))
    record("bn-no-slash", "bn that does not end in a slash", lambda r: r[0].update({-2: "home-1/m1"}))
    record("bn-long-meter", "33 characters", lambda r: r[0].update({-2: "home-1/" + "m" * 33 + "/"}))
    record("bn-repeated", "bn again for the same meter", lambda r: r[1].update({-2: "home-1/m1/"}))
    record("bt-missing", "no bt", lambda r: r[0].pop(-3))
    record("bt-small", "bt below 2^28 would be a relative time", lambda r: [
        r[0].update({-3: 2**28 - 1, 6: 1}), r[1].update({6: 1})])
    record("bt-later", "bt in a later record", lambda r: r[1].update({-3: NOW}))
    record("bt-decimal", "bt with digits behind the point", lambda r: r[0].update({-3: CBORTag(4, [-1, NOW * 10])}))
    record("time-backwards", "records out of the order of time", lambda r: r[0].update({6: 1}))
    record("time-too-fine", "finer than a nanosecond", lambda r: r[1].update({6: CBORTag(4, [-10, 1])}))
    record("time-far", "beyond 2^33 s", lambda r: r[1].update({6: 2**33}))
    record("name-missing", "no n", lambda r: r[0].pop(0))
    record("name-unknown", "an unknown quantity", lambda r: r[0].update({0: "consumed"}))
    record("name-part-unknown", "an unknown part", lambda r: r[0].update({0: "consumption/l4"}))
    record("name-part-empty", "a slash and nothing", lambda r: r[0].update({0: "consumption/"}))
    record("name-tariff-zero", "tariffs count from 1", lambda r: r[0].update({0: "consumption/t0"}))
    record("name-tariff-of-voltage", "only energies have tariffs", lambda r: r[1].update(
        {0: "voltage/t1", 1: "V"}))
    record("unit-missing", "no u", lambda r: r[0].pop(1))
    record("unit-unknown", "an unknown unit", lambda r: r[0].update({1: "MWh"}))
    record("unit-of-another", "a unit of another quantity", lambda r: r[0].update({1: "kW"}))
    record("value-missing", "no value though the quality is good", lambda r: r[0].pop(2))
    record("value-with-missing", "a value though it is missing", lambda r: r[0].update({"q": "m"}))
    record("value-float", "floating point", lambda r: r[0].update({2: 0.5}))
    record("value-bignum", "tag 2", lambda r: r[0].update({2: 2**64}))
    record("value-too-large", "2^63", lambda r: r[0].update({2: 2**63}))
    record("value-mantissa-too-small", "-2^63", lambda r: r[0].update({2: CBORTag(4, [-1, -2**63])}))
    record("value-exponent-zero", "tag 4 for an integer", lambda r: r[0].update({2: CBORTag(4, [0, 5])}))
    record("value-exponent-positive", "tag 4 with a positive exponent", lambda r: r[0].update(
        {2: CBORTag(4, [3, 5])}))
    record("value-exponent-small", "exponent -19", lambda r: r[0].update({2: CBORTag(4, [-19, 5])}))
    record("value-bigfloat", "tag 5", lambda r: r[0].update({2: CBORTag(5, [-1, 5])}))
    record("value-text", "a text", lambda r: r[0].update({2: "0.5"}))
    record("interval-missing", "energy over an unsaid interval", lambda r: r[0].pop("interval"))
    record("interval-of-register", "a register has none", lambda r: r[0].update({0: "consumption_total"}))
    record("interval-zero", "an interval of nothing", lambda r: r[0].update({"interval": 0}))
    record("interval-negative", "an interval that ends before it begins", lambda r: r[0].update({"interval": -900}))
    record("interval-long", "above 2^28 s", lambda r: r[0].update({"interval": 2**28 + 1}))
    record("quality-unknown", "an unknown letter", lambda r: r[0].update({"q": "g"}))
    record("quality-empty", "no letter", lambda r: r[0].update({"q": ""}))
    record("label-s", "SenML sums are not used", lambda r: r[0].update({5: 1}))
    record("label-ut", "ut is not used", lambda r: r[0].update({7: 1}))
    record("label-unknown", "an unknown extension", lambda r: r[0].update({"x": 1}))
    for name, data in [
        ("heartbeat-empty", {}), ("heartbeat-unknown-label", {1: 0, 3: 0, 5: 1}),
        ("heartbeat-negative", {1: -1, 3: 0}), ("heartbeat-no-meters", {1: 0, 3: 0, 4: []}),
        ("heartbeat-meter-name", {1: 0, 3: 0, 4: [["", 1, 0]]}),
    ]:
        add("format", name, "a heartbeat that breaks its rules",
            wire.sign(HOME_1.key, stream_labels("heartbeat"), cbor2.dumps(data)))
    for name, data in [
        ("result-short-id", {1: bytes(31), 2: True}), ("result-no-verdict", {1: bytes(32)}),
        ("result-float", {1: bytes(32), 2: True, 4: 0.5}), ("result-long-reason", {1: bytes(32), 2: True, 3: "x" * 201}),
    ]:
        add("format", name, "a result that breaks its rules",
            wire.sign(HOME_1.key, stream_labels("result"), cbor2.dumps(data)))
    for name, data in [
        ("hello-short-nonce", {**HELLO, 4: bytes(15)}), ("hello-short-stream", {**HELLO, 1: bytes(7)}),
        ("hello-no-clock", {k: v for k, v in HELLO.items() if k != 6}), ("hello-clock", {**HELLO, 6: "X"}),
    ]:
        add("format", name, "a hello that breaks its rules",
            wire.sign(HOME_1.key, hello_labels(), cbor2.dumps(data)), HELLO_TOPIC)
    for name, data in [
        ("receipts-range-backwards", {1: [[2, 1, bytes(32)]]}), ("receipts-range-zero", {1: [[0, 1, bytes(32)]]}),
        ("receipts-empty-list", {1: []}), ("receipts-reason", {2: [[1, bytes(32), "No Good"]]}),
        ("receipts-too-many", {1: [[i, i, bytes(32)] for i in range(1, 514)]}),
        ("receipts-log-proof-not-an-array", {4: "x"}),
    ]:
        add("format", name, "receipts that break their rules",
            wire.sign(CENTER.key, receipts_labels(), cbor2.dumps(data)), RECEIPTS)

    for name, data in [
        ("update-float", {**UPDATE, 2: 0.2}), ("update-nan", {**UPDATE, 2: float("nan")}),
        ("update-huge", {**UPDATE, 2: 1e300}), ("update-parameter-name", {**UPDATE, 1: "sample_rate"}),
        ("update-no-nonce", {k: v for k, v in UPDATE.items() if k != 4}), ("update-short-nonce", {**UPDATE, 4: bytes(15)}),
        ("update-long-unit", {**UPDATE, 3: "s" * 17}), ("update-short-batch", {**UPDATE, 5: bytes(15)}),
        ("update-unknown-label", {**UPDATE, 6: 1}),
    ]:
        add("format", name, "an update that breaks its rules", update(data), UPDATES)
    for name, data in [
        ("alert-word", {**ALERT, 1: "No Word"}), ("alert-long-text", {**ALERT, 2: "x" * 1025}),
        ("alert-control-character", {**ALERT, 2: "\x1b[31mred"}),
        ("alert-no-state", {k: v for k, v in ALERT.items() if k != 3}), ("alert-unknown-label", {**ALERT, 4: 1}),
    ]:
        add("format", name, "an alert that breaks its rules", alert(data), ALERTS_TO_ALL)

    # not-canonical
    add("not-canonical", "high-s", "the other valid signature, n-s",
        wire.sign(HOME_1.key, stream_labels(), payload, high_s=True))
    add("not-canonical", "r-zero", "r is 0", b"\xd2\x84" + b"".join(flat[:3]) + b"\x58\x40" + bytes(32) + signature[32:])
    add("not-canonical", "r-order", "r is n", b"\xd2\x84" + b"".join(flat[:3]) + b"\x58\x40"
        + wire.ORDER.to_bytes(32, "big") + signature[32:])
    add("not-canonical", "s-zero", "s is 0",
        b"\xd2\x84" + b"".join(flat[:3]) + b"\x58\x40" + signature[:32] + bytes(32))
    add("not-canonical", "trailing", "a byte behind the message", good + b"\x00")
    add("not-canonical", "unprotected", "a label in the unprotected header",
        b"\xd2\x84" + flat[0] + b"\xa1\x04\x41\x31" + flat[2] + flat[3])
    add("not-canonical", "detached", "the payload is detached", b"\xd2\x84" + flat[0] + flat[1] + b"\xf6" + flat[3])
    add("not-canonical", "der-signature", "a signature in DER",
        b"\xd2\x84" + b"".join(flat[:3]) + b"\x58\x46\x30\x44\x02\x20" + signature[:32] + b"\x02\x20" + signature[32:]
        + b"\x00\x00")
    add("not-canonical", "long-array", "the array's length in two bytes", b"\xd2\x98\x04" + b"".join(flat))
    add("not-canonical", "indefinite-array", "an array of indefinite length", b"\xd2\x9f" + b"".join(flat) + b"\xff")
    add("not-canonical", "long-payload-length", "the payload's length in four bytes",
        b"\xd2\x84" + flat[0] + flat[1] + b"\x5a" + len(payload).to_bytes(4, "big") + payload + flat[3])
    add("not-canonical", "chunked-payload", "the payload in chunks",
        b"\xd2\x84" + flat[0] + flat[1] + b"\x5f" + flat[2] + b"\xff" + flat[3])
    add("not-canonical", "indefinite-unprotected", "an empty map of indefinite length",
        b"\xd2\x84" + flat[0] + b"\xbf\xff" + flat[2] + flat[3])
    order = stream_labels()
    add("not-canonical", "protected-order", "labels out of order",
        wire.sign(HOME_1.key, dict(reversed(list(order.items()))), payload))
    add("not-canonical", "protected-long-number", "a label in two bytes",
        wire.sign(HOME_1.key, b"\xa8\x18\x01" + protected[2:], payload))
    add("not-canonical", "protected-indefinite", "a map of indefinite length",
        wire.sign(HOME_1.key, b"\xbf" + protected[1:] + b"\xff", payload))
    add("not-canonical", "payload-long-number", "a value in more bytes than needed",
        raw_payload(payload.replace(b"\x19\x03\x84", b"\x1a\x00\x00\x03\x84")))
    add("not-canonical", "payload-order", "labels of a record out of order",
        raw_payload(cbor2.dumps([dict(reversed(list(r.items()))) for r in
                                 cbor2.loads(payload, tag_hook=lambda _, tag: tag)])))
    add("not-canonical", "payload-indefinite", "an array of indefinite length",
        raw_payload(b"\x9f" + payload[1:] + b"\xff"))

    # header
    for name, what, changes in [
        ("alg-missing", "no alg", {"alg": None}), ("alg-other", "ES384", {"alg": -35}), ("alg-text", "a text", {"alg": "ES256"}),
        ("crit", "crit", {"crit": ["seq"]}),
        ("content-type-missing", "no content type", {"content_type": None}),
        ("content-type-other", "60 for a statement", {"content_type": 60}),
        ("claims-missing", "no claims", {"claims": None}),
        ("iss-missing", "no iss", {"claims": {k: v for k, v in claims.items() if k != 1}}),
        ("iss-not-spiffe", "iss of another form", {"claims": {**claims, 1: "home-1"}}),
        ("iss-role", "iss of an unknown role", {"claims": {**claims, 1: f"spiffe://{DOMAIN}/meter/home-1"}}),
        ("iss-domain", "a trust domain of one label", {"claims": {**claims, 1: "spiffe://example/auditor/home-1"}}),
        ("iss-all", "the reserved ID", {"claims": {**claims, 1: f"spiffe://{DOMAIN}/auditor/ALL"}}),
        ("sub-missing", "no sub", {"claims": {k: v for k, v in claims.items() if k != 2}}),
        ("sub-other", "sub of another auditor", {"claims": {**claims, 2: f"{HOME_2.spiffe}/stream/{STREAM}"}}),
        ("sub-upper", "stream in capitals", {"claims": {**claims, 2: f"{HOME_1.spiffe}/stream/{STREAM.upper()}"}}),
        ("sub-short", "stream of 15 digits", {"claims": {**claims, 2: f"{HOME_1.spiffe}/stream/{STREAM[1:]}"}}),
        ("iat-missing", "no iat", {"claims": {k: v for k, v in claims.items() if k != 6}}),
        ("iat-negative", "before 1970", {"claims": {**claims, 6: -1}}),
        ("iat-far", "2^33", {"claims": {**claims, 6: 2**33}}),
        ("aud", "an audience", {"claims": {k: {**claims, 3: "x"}[k] for k in (1, 2, 3, 6)}}),
        ("exp", "an expiry", {"claims": {k: {**claims, 4: NOW}[k] for k in (1, 2, 4, 6)}}),
        ("x5t-missing", "no x5t", {"x5t": None}), ("x5t-sha1", "x5t by SHA-1", {"x5t": [-14, bytes(20)]}),
        ("x5t-other-hash", "x5t by SHA-512/256", {"x5t": [-17, hashlib.sha256(HOME_1.der).digest()]}),
        ("x5t-short", "31 bytes", {"x5t": [-16, bytes(31)]}),
        ("x5chain", "x5chain where it does not belong", {"x5chain": CHAIN}),
        ("seq-missing", "no seq", {"seq": None}), ("seq-zero", "0", {"seq": 0}), ("seq-large", "2^53", {"seq": 2**53}),
        ("prev-missing", "no prev", {"prev": None}), ("prev-short", "31 bytes", {"prev": bytes(31)}),
        ("prev-zero", "zero behind the first", {"seq": 2}),
        ("clock-missing", "no clock", {"clock": None}), ("clock-other", "an unknown letter", {"clock": "X"}),
    ]:
        add("header", name, what, with_labels(**changes))
    add("header", "hello-without-chain", "a hello without x5chain", wire.sign(
        HOME_1.key, {k: v for k, v in hello_labels().items() if k != 33}, hello), HELLO_TOPIC)
    add("header", "hello-leaf-only", "x5chain of one certificate", wire.sign(
        HOME_1.key, hello_labels(chain=[HOME_1.der]), hello), HELLO_TOPIC)
    add("header", "hello-chain-of-another", "x5t is not that of the leaf", wire.sign(
        HOME_1.key, hello_labels(chain=[HOME_2.der, INTERMEDIATE.der]), hello), HELLO_TOPIC)
    add("header", "hello-with-seq", "a hello with a number", wire.sign(
        HOME_1.key, hello_labels(sequence=1, previous=ZERO, clock="S"), hello), HELLO_TOPIC)
    add("header", "hello-with-sub", "a hello with a subject", wire.sign(
        HOME_1.key, wire.header("hello", HOME_1.spiffe, HOME_1.der, NOW, stream=STREAM, chain=CHAIN), hello), HELLO_TOPIC)
    add("header", "receipts-without-sub", "receipts about no stream", wire.sign(
        CENTER.key, wire.header("receipts", CENTER.spiffe, CENTER.der, NOW), cbor2.dumps({5: NONCE})), RECEIPTS)

    def update_with(claims=None, **changes):
        labels = update_labels()
        for claim, value in (claims or {}).items():
            if value is None:
                labels[15].pop(claim)
            else:
                labels[15][claim] = value
        labels[15] = canonical(labels[15])
        for label, value in changes.items():
            label = {"x5chain": 33}.get(label, label)
            if value is None:
                labels.pop(label)
            else:
                labels[label] = value
        return wire.sign(CENTER.key, canonical(labels), cbor2.dumps(UPDATE))

    for name, what, message in [
        ("update-without-aud", "an update for nobody", update_with({3: None})),
        ("update-aud-other", "aud of another auditor than sub", update_with({3: HOME_2.spiffe})),
        ("update-aud-center", "an update for a control center",
         update_with({2: f"{CENTER.spiffe}/updates", 3: CENTER.spiffe})),
        ("update-without-exp", "an update without an end", update_with({4: None})),
        ("update-nbf", "a claim that would have to be heeded", update_with({5: NOW})),
        ("update-sub-stream", "sub is a stream", update_with({2: f"{HOME_1.spiffe}/stream/{STREAM}"})),
        ("update-without-sub", "no sub", update_with({2: None})),
        ("update-without-seq", "no number", update_with(seq=None)),
        ("update-with-prev", "an update is in no stream", update_with(prev=bytes(range(32)))),
        ("update-without-chain", "no x5chain", update_with(x5chain=None)),
    ]:
        add("header", name, what, message, UPDATES)
    add("header", "alert-with-chain", "x5chain where it does not belong", wire.sign(
        CENTER.key, alert_labels(chain=CENTER_CHAIN), cbor2.dumps(ALERT)), ALERTS_TO_ALL)
    add("header", "alert-without-seq", "no number", wire.sign(
        CENTER.key, {k: v for k, v in alert_labels().items() if k != "seq"}, cbor2.dumps(ALERT)), ALERTS_TO_ALL)
    add("header", "alert-of-auditor-with-aud", "an auditor's alert names nobody", alert(
        party=HOME_1, target=HOME_2), AUDITOR_ALERTS)

    # names and signature
    add("topic", "other-auditors-update", "an update on another auditor's topic", update(),
        UPDATES.replace("home-1", "home-2"))
    add("topic", "other-controllers-update", "an update on another controller's topic", update(),
        UPDATES.replace("center-1", "center-2"))
    add("topic", "other-parameter", "an update on another parameter's topic", update(),
        UPDATES.replace("SAMPLE_RATE", "LOG_LEVEL"))
    add("topic", "update-as-statement", "an update on a topic of statements", update(), MEASURES)
    add("topic", "alert-to-one-for-all", "an alert for one auditor on the topic of all", alert(target=HOME_1),
        ALERTS_TO_ALL)
    add("topic", "alert-to-all-for-one", "an alert for all on the topic of one", alert(), ALERTS)
    add("topic", "alert-of-center-as-auditors", "a control center's alert on an auditor's topic", alert(),
        AUDITOR_ALERTS)
    add("retained", "update-retained", "an update published as retained", update(), UPDATES, retained=True)
    add("role", "auditor-signs-update", "an auditor signs an update", wire.sign(
        HOME_2.key, update_labels(HOME_2, chain=[HOME_2.der, INTERMEDIATE.der]), cbor2.dumps(UPDATE)),
        UPDATES.replace("center-1", "home-2"))
    add("role", "operator-signs-alert", "an operator signs an alert", alert(party=OPERATOR), ALERTS_TO_ALL)
    add("signature", "update-key-of-another", "names the control center's certificate, signed by another key",
        update(key=HOME_2.key), UPDATES)
    add("topic", "other-auditors-topic", "a valid statement on another auditor's topic", good, "audits/measures/home-2")
    add("topic", "wrong-kind", "a statement on the topic of hellos", good, HELLO_TOPIC)
    add("topic", "other-case", "the ID in other case", good, "audits/measures/HOME-1")
    add("retained", "retained", "published as retained", good, retained=True)
    add("sender", "other-sender", "the TLS session belongs to another auditor", good, sender=HOME_2.spiffe)
    add("certificate-unknown", "unknown-certificate", "x5t names a certificate that no hello brought",
        statement(key=UNKNOWN.key, certificate=UNKNOWN))
    add("issuer", "certificate-of-another", "signed with, and naming, another auditor's certificate",
        statement(key=HOME_2.key, certificate=HOME_2))
    add("role", "operator", "an operator signs a statement",
        wire.sign(OPERATOR.key, stream_labels(party=OPERATOR), wire.pack("operator-1", HALF_HOUR)),
        "audits/measures/operator-1")
    add("role", "auditor-signs-receipts", "an auditor signs receipts", wire.sign(
        HOME_2.key, receipts_labels(party=HOME_2), cbor2.dumps({5: NONCE})), RECEIPTS)
    add("signature", "key-of-another", "names the right certificate, signed by another key", statement(key=HOME_2.key))
    tampered = good.replace(b"\x22\x18\x62", b"\x22\x18\x63")
    assert tampered != good
    add("signature", "tampered-value", "0.098 became 0.099", tampered)
    return rows


def streams():
    """What happens to messages in this order, by one control center that knows the certificates."""
    def at(minute):
        return [{**reading, "time": NOW + 60 * minute} for reading in HALF_HOUR]

    one = statement(at(0))
    two = statement(at(1), 2, wire.message_id(one))
    three = statement(at(2), 3, wire.message_id(two))
    forked = statement(at(3), 2, wire.message_id(one))
    stranger = statement(at(3), 4, bytes(range(32)))
    reopened = statement(at(4), 1, wire.message_id(three), stream=OTHER_STREAM)
    four = statement(at(5), 4, wire.message_id(three))
    steps = [
        (one, "stored", "opens the stream"), (one, "duplicate", "the same bytes again"),
        (three, "stored", "beyond a gap: kept, linked when it fills"), (two, "stored", "fills the gap"),
        (forked, "fork", "another message with number 2"), (stranger, "fork", "prev is not the id of number 3"),
        (reopened, "stored", "opens a new stream and closes the former"),
        (four, "stream-closed", "the former stream is closed"), (two, "duplicate", "what is stored stays so"),
    ]
    return [{"message": message.hex(), "id": wire.message_id(message).hex(), "outcome": outcome, "what": what}
            for message, outcome, what in steps]


def main():
    folder = sys.argv[1]
    parties = [ROOT, INTERMEDIATE, HOME_1, HOME_2, CENTER, OPERATOR]
    files = {"parties": [p.json() for p in parties], "accepted": accepted(), "refused": refused(),
             "streams": streams()}
    for name, content in files.items():
        with open(os.path.join(folder, f"{name}.json"), "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.write("\n")
        print(f"{name}.json: {len(content)}")
    names = [row["name"] for rows in (files["accepted"], files["refused"]) for row in rows]
    assert len(names) == len(set(names)), [n for n in names if names.count(n) > 1]


if __name__ == "__main__":
    main()
