"""A small EST authority (RFC 7030), written for the tests of the client and sharing nothing with it.

est_server.py FOLDER: serves https on a free port of 127.0.0.1, prints "listening PORT", until it is killed.
The folder holds root.pem, issuing.pem, issuing.key, server.pem, server.key, issuing.crl, root.crl (DER) and
state.json, which is read again for each request:
  {"trust_domain": ..., "broker_port": ..., "tokens": {TOKEN: ID}, "lifetime": seconds,
   "mode": ""|"foreign-key"|"other-id"|"garbage"|"huge"|"expired"|"no-root"|"revoked"|"date", ...}
Requests that issued a certificate are appended to issued.txt: token or "renew", ID, serial number, key.
"""

import base64
import datetime
import hashlib
import http.server
import json
import ssl
import sys
import threading

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

folder = sys.argv[1]
lock = threading.Lock()
used = {}


def read(name):
    with open(f"{folder}/{name}", "rb") as file:
        return file.read()


root = x509.load_pem_x509_certificate(read("root.pem"))
issuing = x509.load_pem_x509_certificate(read("issuing.pem"))
issuing_key = serialization.load_pem_private_key(read("issuing.key"), None)


def issue(state, identity, key):
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    lifetime = datetime.timedelta(seconds=state.get("lifetime", 86_400))
    begin = now - datetime.timedelta(seconds=state.get("backdating", 600))
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity)]))
        .issuer_name(issuing.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(begin, issuing.not_valid_before_utc))
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(False, None), True)
        .add_extension(x509.KeyUsage(True, False, False, False, False, False, False, False, False), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier(f"spiffe://{state['trust_domain']}/auditor/{identity}")]
            ),
            False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                issuing.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            False,
        )
        .sign(issuing_key, hashes.SHA256())
    )


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def date_time_string(self, timestamp=None):
        offset = json.loads(read("state.json")).get("date_offset", 0)
        now = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=offset)
        return now.strftime("%a, %d %b %Y %H:%M:%S GMT")

    def answer(self, status, kind, body):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status, line):
        self.answer(status, "text/plain", line.encode())

    def certificates(self, certificates):
        der = pkcs7.serialize_certificates(certificates, serialization.Encoding.DER)
        self.answer(200, "application/pkcs7-mime; smime-type=certs-only", base64.encodebytes(der))

    def do_GET(self):
        state = json.loads(read("state.json"))
        mode = state.get("mode", "")
        if self.path == "/.well-known/est/cacerts":
            if mode == "garbage":
                return self.answer(200, "application/pkcs7-mime", b"MIIB\x1b[31m not base64 at all")
            if mode == "huge":
                return self.answer(200, "application/pkcs7-mime", base64.encodebytes(bytes(70_000)))
            return self.certificates([issuing] if mode == "no-root" else [issuing, root])
        if self.path == "/installation":
            installation = {
                "trust_domain": state["trust_domain"],
                "broker_host": "127.0.0.1",
                "broker_port": state.get("broker_port", 8883),
                "control_centers": ["center-1"],
            }
            return self.answer(200, "application/json", json.dumps(installation).encode())
        if self.path in ("/crl/issuing.crl", "/crl/root.crl"):
            return self.answer(200, "application/pkix-crl", read(self.path.split("/")[-1]))
        self.refuse(404, "not-found: there is nothing here")

    def do_POST(self):
        state = json.loads(read("state.json"))
        mode = state.get("mode", "")
        length = int(self.headers.get("Content-Length", 0))
        if length > 65_536:
            return self.refuse(400, "too-large: a request is smaller")
        body = self.rfile.read(length)
        try:
            request = x509.load_der_x509_csr(base64.b64decode(body))
        except ValueError:
            return self.refuse(400, "request: that is not PKCS#10")
        if not request.is_signature_valid:
            return self.refuse(400, "request: not signed by its key")
        point = request.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        key_name = hashlib.sha256(point).hexdigest()
        if mode == "busy":
            return self.refuse(429, "busy: come again in a minute")
        if self.path == "/.well-known/est/simpleenroll":
            scheme, _, value = self.headers.get("Authorization", "").partition(" ")
            if scheme.lower() != "basic":
                return self.refuse(401, "token: give ID and token")
            identity, _, token = base64.b64decode(value).decode().partition(":")
            owner = state.get("tokens", {}).get(token)
            if owner is None:
                return self.refuse(401, "token-unknown: this token was never given out, or has expired")
            if owner != identity:
                return self.refuse(403, "token-other: this token is another's")
            with lock:
                if used.setdefault(token, key_name) != key_name:
                    return self.refuse(409, "token-used: this token was used by another key")
            what = token
        elif self.path == "/.well-known/est/simplereenroll":
            der = self.connection.getpeercert(binary_form=True)
            if not der:
                return self.refuse(401, "certificate: show the present one")
            identity = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
            if mode == "revoked":
                return self.refuse(403, "revoked: this certificate was revoked")
            if mode == "down":
                return self.refuse(500, "internal: no")
            what = "renew"
        else:
            return self.refuse(404, "not-found: there is nothing here")
        key = request.public_key()
        if mode == "foreign-key":
            key = ec.generate_private_key(ec.SECP256R1()).public_key()
        certificate = issue(state, "other" if mode == "other-id" else identity, key)
        with lock, open(f"{folder}/issued.txt", "a") as file:
            file.write(f"{what} {identity} {certificate.serial_number:x} {key_name}\n")
        self.certificates([issuing, certificate])


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.minimum_version = ssl.TLSVersion.TLSv1_3
context.load_cert_chain(f"{folder}/server.pem", f"{folder}/server.key")
context.load_verify_locations(f"{folder}/root.pem")
context.verify_mode = ssl.CERT_OPTIONAL


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def finish_request(self, request, client_address):
        # The handshake belongs to the connection's own thread.
        request.settimeout(10)
        request = context.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, request, client_address):
        pass


server = Server(("127.0.0.1", int(sys.argv[2]) if len(sys.argv) > 2 else 0), Handler)
print(f"listening {server.server_address[1]}", flush=True)
server.serve_forever()
