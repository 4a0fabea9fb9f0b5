"""A stand-in for the original's publisher: paho-mqtt 1.6, a clean session, readings of a long CSV file with QoS 0, and
SAMPLE_RATE set by its controller. It ends when it has sent everything and, if asked to, seen an update."""

import argparse
import csv
import os
import sys
import time

import paho.mqtt.client as mqtt

from licore_format import Party, split, verify

arguments = argparse.ArgumentParser()
arguments.add_argument("--folder", required=True)
arguments.add_argument("--ca", required=True)
arguments.add_argument("--name", required=True)
arguments.add_argument("--controller", required=True)
arguments.add_argument("--host", default="127.0.0.1")
arguments.add_argument("--port", type=int, required=True)
arguments.add_argument("--csv", required=True)
arguments.add_argument("--rate", type=float, default=1.0)
arguments.add_argument("--await-rate", type=float)
arguments.add_argument("--forge", action="store_true", help="begin with a message whose signature is wrong")
options = arguments.parse_args()

party = Party(options.folder, options.name)
rate = options.rate


def on_connect(client, userdata, flags, code):
    print(f"connected {code}", flush=True)
    client.subscribe(f"control_center/updates/{options.name}/#", qos=2)


def on_message(client, userdata, message):
    global rate
    controller = message.topic.split("/")[3]
    parameter = message.topic.split("/")[-1]
    text, signature = split(message.payload)
    if controller != options.controller:
        return
    verify(f"{options.folder}/{controller}.crt", text, signature)
    if parameter == "SAMPLE_RATE":
        rate = float(text)
        print(f"sample rate {rate}", flush=True)


client = mqtt.Client(options.name, clean_session=True)
client.tls_set(ca_certs=options.ca, certfile=party.certificate_file, keyfile=party.key_file)
client.on_connect = on_connect
client.on_message = on_message
client.connect(options.host, options.port, 120)
client.loop_start()

deadline = time.monotonic() + 60
while not client.is_connected():
    if time.monotonic() > deadline:
        sys.exit("not connected")
    time.sleep(0.01)

topic = f"audits/measures/{party.common_name}"
if options.forge:
    forged = party.sign(f"{options.name}/2011-07-01 00:00:00/0/1.0").replace("/0/1.0||", "/0/9.0||")
    client.publish(topic, forged, qos=0).wait_for_publish()
with open(options.csv, newline="") as file:
    for row in csv.DictReader(file):
        if row["id"] != options.name:
            continue
        text = f"{row['id']}/{row['datetime']}/{row['type']}/{row['value']}"
        client.publish(topic, party.sign(text), qos=0).wait_for_publish()
        time.sleep(rate)
print("all sent", flush=True)
deadline = time.monotonic() + 60
while options.await_rate is not None and rate != options.await_rate:
    if time.monotonic() > deadline:
        sys.exit(f"no update to {options.await_rate}: {rate}")
    time.sleep(0.01)
if client._thread is None or not client._thread.is_alive():
    sys.exit("the network thread died")
client.loop_stop()
client.disconnect()
print("done", flush=True)
