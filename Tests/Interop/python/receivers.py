"""Receives what a control center tells people, and prints it, one JSON object a line.

    receivers.py http PORT SECRET STATUS...   a webhook that answers with these statuses, the last one from then on
    receivers.py smtp PORT CERTIFICATE KEY MODE   a mail server: MODE is starttls, tls or plain; user energy, password pass

Says "listening" first.
"""

import email
import email.policy
import hashlib
import hmac
import json
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult


def say(value):
    print(value if isinstance(value, str) else json.dumps(value), flush=True)


def webhook(port, secret, *statuses):
    left = [int(status) for status in statuses]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            signed = f"{self.headers['x-secure-mqtt-timestamp']}.".encode() + body
            expected = "sha256=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
            status = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("location", "/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()
            say({"status": status, "delivery": self.headers["x-secure-mqtt-delivery"], "body": json.loads(body),
                 "signed": hmac.compare_digest(expected, self.headers["x-secure-mqtt-signature"] or "")})

        def do_GET(self):
            say("followed")
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", int(port)), Handler)
    say("listening")
    server.serve_forever()


class Mailbox:
    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        say({"from": envelope.mail_from, "to": envelope.rcpt_tos, "subject": str(message["subject"]),
             "text": message.get_content(), "tls": session.ssl is not None or server.transport.get_extra_info("sslcontext")
             is not None, "user": session.auth_data})
        return "250 OK"


def mail(port, certificate, key, mode):
    # Of both sides: the controller's probe at its start uses it as a client.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS)
    context.load_cert_chain(certificate, key)

    def check(server, session, envelope, mechanism, data):
        good = data.login == b"energy" and data.password == b"pass"
        return AuthResult(success=good, auth_data=data.login.decode() if good else None)

    more = {"starttls": {"tls_context": context, "require_starttls": True}, "tls": {"ssl_context": context}, "plain": {}}
    controller = Controller(
        Mailbox(), hostname="127.0.0.1", port=int(port), server_hostname="localhost", authenticator=check,
        auth_require_tls=mode != "tls", **more[mode])
    controller.start()
    say("listening")
    threading.Event().wait()


if __name__ == "__main__":
    {"http": webhook, "smtp": mail}[sys.argv[1]](*sys.argv[2:])
