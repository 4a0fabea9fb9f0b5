"""A stand-in for the original's database client: paho-mqtt 1.6, a clean session, every reading into one SQLite table,
and one parameter update on a second connection with the same certificate and an empty client id. Like the original it
ends, by an exception that nobody catches, on a payload that is not its text or whose signature is wrong."""

import argparse
import os
import sqlite3
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.publish import single

from licore_format import Party, split, verify

arguments = argparse.ArgumentParser()
arguments.add_argument("--folder", required=True)
arguments.add_argument("--ca", required=True)
arguments.add_argument("--name", default="database_licore")
arguments.add_argument("--host", default="127.0.0.1")
arguments.add_argument("--port", type=int, required=True)
arguments.add_argument("--database", required=True)
arguments.add_argument("--target", help="whose SAMPLE_RATE to set")
arguments.add_argument("--value", default="0.01")
arguments.add_argument("--qos", type=int, default=2)
options = arguments.parse_args()

party = Party(options.folder, options.name)
connection = sqlite3.connect(options.database, isolation_level=None)
connection.execute(
    "CREATE TABLE IF NOT EXISTS measures (aud_id TEXT, measured_timestamp TEXT, measure_type INTEGER, measure REAL)"
)


def on_connect(client, userdata, flags, code):
    client.subscribe("audits/measures/#", qos=0)


def on_subscribe(client, userdata, message_id, granted):
    print(f"subscribed {list(granted)}", flush=True)


def on_message(client, userdata, message):
    text, signature = split(message.payload)
    sender = message.topic.split("/")[2]
    certificate = f"{options.folder}/{sender}.crt"
    if not os.path.exists(certificate):
        return
    verify(certificate, text, signature)
    connection.execute(
        "INSERT INTO measures (aud_id, measured_timestamp, measure_type, measure) VALUES (?, ?, ?, ?)",
        text.split("/"),
    )
    print(f"stored {text}", flush=True)


client = mqtt.Client(party.common_name, clean_session=True)
client.tls_set(ca_certs=options.ca, certfile=party.certificate_file, keyfile=party.key_file)
client.on_connect = on_connect
client.on_subscribe = on_subscribe
client.on_message = on_message
client.connect(options.host, options.port, 60)
if options.target:
    tls = {"ca_certs": options.ca, "certfile": party.certificate_file, "keyfile": party.key_file}
    single(
        topic=f"control_center/updates/{options.target}/{options.name}/SAMPLE_RATE",
        payload=party.sign(options.value),
        qos=options.qos,
        retain=True,
        hostname=options.host,
        port=options.port,
        tls=tls,
    )
    print("update sent", flush=True)
try:
    client.loop_forever()
except Exception as error:
    print(f"died: {error!r}", file=sys.stderr, flush=True)
    raise
