"""Other people's MQTT clients against the embedded broker: broker_clients.py PORT [-v]

The broker runs with --development. Paho (1.6 or 2.x, whichever is installed), aiomqtt and gmqtt.
"""

import asyncio
import queue
import sys
import threading
import time
import unittest

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

HOST = "127.0.0.1"
PORT = 1883
LIMIT = 10


def properties(kind, **values):
    made = Properties(kind)
    for name, value in values.items():
        setattr(made, name, value)
    return made


class Client:
    """A paho client with its own thread, that remembers what comes."""

    def __init__(self, name, protocol=paho.MQTTv5, clean=True, connect=None, will=None, keepalive=60):
        arguments = {"client_id": name, "protocol": protocol}
        if protocol != paho.MQTTv5:
            arguments["clean_session"] = clean
        if hasattr(paho, "CallbackAPIVersion"):
            arguments["callback_api_version"] = paho.CallbackAPIVersion.VERSION1
        self.protocol = protocol
        self.paho = paho.Client(**arguments)
        self.paho.on_connect = self._connected
        self.paho.on_disconnect = self._disconnected
        self.paho.on_message = lambda _, __, message: self.messages.put(message)
        self.paho.on_subscribe = lambda *given: self.subscribed.put(given[3])
        self.paho.on_unsubscribe = lambda *given: self.unsubscribed.put(given[2])
        self.messages = queue.Queue()
        self.subscribed = queue.Queue()
        self.unsubscribed = queue.Queue()
        self.connected = queue.Queue()
        self.disconnected = queue.Queue()
        if will:
            self.paho.will_set(*will[:4], **({"properties": will[4]} if len(will) > 4 else {}))
        if protocol == paho.MQTTv5:
            self.paho.connect(HOST, PORT, keepalive, clean_start=clean, properties=connect)
        else:
            self.paho.connect(HOST, PORT, keepalive)
        self.paho.loop_start()
        self.flags, self.code, self.connack = self.connected.get(timeout=LIMIT)

    def _connected(self, _, __, flags, code, given=None):
        self.connected.put((flags, code, given))

    def _disconnected(self, _, __, code, given=None):
        self.disconnected.put(code)

    def subscribe(self, topic, qos=0, options=None, given=None):
        if self.protocol == paho.MQTTv5:
            self.paho.subscribe(topic, options=options or SubscribeOptions(qos=qos), properties=given)
        else:
            self.paho.subscribe(topic, qos)
        return [getattr(code, "value", code) for code in self.subscribed.get(timeout=LIMIT)]

    def publish(self, topic, payload=None, qos=0, retain=False, given=None):
        extra = {"properties": given} if given else {}
        sent = self.paho.publish(topic, payload, qos, retain, **extra)
        sent.wait_for_publish(LIMIT)
        if not sent.is_published():
            raise TimeoutError(topic)

    def next(self):
        return self.messages.get(timeout=LIMIT)

    def close(self):
        self.paho.disconnect()
        self.paho.loop_stop()

    def drop(self):
        """Ends the connection without a word."""
        self.paho.on_disconnect = None
        self.paho._sock_close()
        self.paho.loop_stop()


class PahoTests(unittest.TestCase):
    def client(self, *arguments, **names):
        client = Client(*arguments, **names)
        self.addCleanup(client.close)
        return client

    def test_every_qos_in_both_versions(self):
        for protocol in (paho.MQTTv311, paho.MQTTv5):
            for published in (0, 1, 2):
                for granted in (0, 1, 2):
                    with self.subTest(protocol=protocol, published=published, granted=granted):
                        topic = f"qos/{protocol}/{published}/{granted}"
                        client = self.client("", protocol=protocol)
                        self.assertEqual(client.subscribe(topic, granted), [granted])
                        for number in range(20):
                            client.publish(topic, str(number), published)
                        for number in range(20):
                            message = client.next()
                            self.assertEqual(message.payload, str(number).encode())
                            self.assertEqual(message.qos, min(published, granted))
                            self.assertFalse(message.retain)

    def test_the_limits_are_announced(self):
        client = self.client("limits", connect=properties(PacketTypes.CONNECT, SessionExpiryInterval=5))
        said = client.connack
        self.assertEqual(said.ReceiveMaximum, 256)
        self.assertEqual(said.TopicAliasMaximum, 32)
        self.assertFalse(hasattr(said, "MaximumQoS"))
        self.assertFalse(hasattr(said, "SessionExpiryInterval"))

    def test_an_identifier_is_assigned(self):
        one, two = self.client(""), self.client("")
        self.assertNotEqual(one.connack.AssignedClientIdentifier, two.connack.AssignedClientIdentifier)

    def test_retained_messages(self):
        for protocol in (paho.MQTTv311, paho.MQTTv5):
            publisher = self.client("", protocol=protocol)
            for qos in (0, 1, 2):
                publisher.publish(f"kept/{protocol}/{qos}", str(qos), qos, retain=True)
            subscriber = self.client("", protocol=protocol)
            subscriber.subscribe(f"kept/{protocol}/+", 2)
            came = sorted((m.topic, m.payload, m.qos, m.retain) for m in (subscriber.next() for _ in range(3)))
            self.assertEqual(came, [(f"kept/{protocol}/{q}", str(q).encode(), q, 1) for q in (0, 1, 2)])
            for qos in (0, 1, 2):
                publisher.publish(f"kept/{protocol}/{qos}", b"", qos, retain=True)
            late = self.client("", protocol=protocol)
            late.subscribe([(f"kept/{protocol}/#", SubscribeOptions(qos=2))]
                           if protocol == paho.MQTTv5 else [(f"kept/{protocol}/#", 2)])
            publisher.publish(f"kept/{protocol}/end", "end", 1)
            self.assertEqual(late.next().payload, b"end")

    def test_a_session_is_kept(self):
        kept = properties(PacketTypes.CONNECT, SessionExpiryInterval=100)
        name = f"kept-{time.time_ns()}"
        first = Client(name, clean=False, connect=kept)
        self.assertEqual(first.flags["session present"], 0)
        first.subscribe("kept-session/#", 2)
        first.close()
        publisher = self.client("")
        for number in range(50):
            publisher.publish("kept-session/a", str(number), number % 2 + 1)
        second = self.client(name, clean=False, connect=kept)
        self.assertEqual(second.flags["session present"], 1)
        # Paho shows a message of QoS 2 when PUBREL has come, so later ones of QoS 1 overtake it there.
        came = [second.next() for _ in range(50)]
        for qos in (1, 2):
            self.assertEqual([int(m.payload) for m in came if m.qos == qos], list(range(qos - 1, 50, 2)))
        third = self.client(name, clean=True)
        self.assertEqual(third.flags["session present"], 0)
        code = second.disconnected.get(timeout=LIMIT)
        self.assertEqual(getattr(code, "value", code), 0x8E)

    def test_wills(self):
        watcher = self.client("")
        watcher.subscribe("will/#", 2)
        for protocol in (paho.MQTTv311, paho.MQTTv5):
            mortal = Client("mortal", protocol=protocol, will=(f"will/{protocol}", "gone", 2, False))
            mortal.drop()
            message = watcher.next()
            self.assertEqual((message.topic, message.payload, message.qos), (f"will/{protocol}", b"gone", 2))
        polite = Client("polite", will=("will/polite", "gone", 1, False))
        polite.close()
        delayed = Client(
            "delayed", connect=properties(PacketTypes.CONNECT, SessionExpiryInterval=100),
            will=("will/delayed", "late", 1, False, properties(PacketTypes.WILLMESSAGE, WillDelayInterval=1)))
        delayed.drop()
        self.assertEqual(watcher.next().payload, b"late")

    def test_properties_are_passed_on(self):
        client = self.client("")
        client.subscribe("props", 1, given=properties(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=77))
        given = properties(
            PacketTypes.PUBLISH, PayloadFormatIndicator=1, MessageExpiryInterval=60, ContentType="text",
            ResponseTopic="answer", CorrelationData=b"\0\1",
            UserProperty=[("a", "1"), ("b", "2"), ("a", "3")])
        client.publish("props", "x", 1, given=given)
        said = client.next().properties
        self.assertEqual(said.PayloadFormatIndicator, 1)
        self.assertEqual(said.ContentType, "text")
        self.assertEqual(said.ResponseTopic, "answer")
        self.assertEqual(said.CorrelationData, b"\0\1")
        self.assertEqual(said.UserProperty, [("a", "1"), ("b", "2"), ("a", "3")])
        self.assertEqual(said.SubscriptionIdentifier, [77])
        self.assertLessEqual(said.MessageExpiryInterval, 60)

    def test_messages_expire(self):
        kept = properties(PacketTypes.CONNECT, SessionExpiryInterval=100)
        away = Client("expiry", clean=True, connect=kept)
        away.subscribe("expiry", 1)
        away.close()
        publisher = self.client("")
        publisher.publish("expiry", "short", 1, given=properties(PacketTypes.PUBLISH, MessageExpiryInterval=1))
        publisher.publish("expiry", "long", 1, given=properties(PacketTypes.PUBLISH, MessageExpiryInterval=100))
        time.sleep(2.5)
        back = self.client("expiry", clean=False, connect=kept)
        message = back.next()
        self.assertEqual(message.payload, b"long")
        self.assertLess(message.properties.MessageExpiryInterval, 100)

    def test_subscription_options(self):
        client = self.client("")
        client.subscribe("options/a", options=SubscribeOptions(qos=1, noLocal=True))
        client.subscribe("options/b", options=SubscribeOptions(qos=1, retainAsPublished=True))
        client.publish("options/a", "own", 1)
        client.publish("options/b", "kept", 1, retain=True)
        message = client.next()
        self.assertEqual((message.payload, message.retain), (b"kept", 1))
        client.subscribe("options/b", options=SubscribeOptions(qos=1, retainHandling=1))
        client.subscribe("options/b", options=SubscribeOptions(qos=1, retainHandling=2))
        client.publish("options/b", "", 1, retain=True)
        self.assertEqual(client.next().payload, b"")

    def test_shared_subscriptions_are_fair(self):
        members = [self.client("") for _ in range(3)]
        for member in members:
            self.assertEqual(member.subscribe("$share/group/shared/#", 1), [1])
        publisher = self.client("")
        for number in range(30):
            publisher.publish("shared/a", str(number), 1)
        came = [[member.next().payload for _ in range(10)] for member in members]
        self.assertEqual(sorted(int(p) for own in came for p in own), list(range(30)))

    def test_topics_of_the_broker_are_not_written(self):
        client = self.client("")
        client.subscribe("$SYS/x", 1)
        client.publish("$SYS/x", "no", 1)
        client.subscribe("yes", 1)
        client.publish("yes", "yes", 1)
        self.assertEqual(client.next().payload, b"yes")

    def test_unsubscribe(self):
        client = self.client("")
        client.subscribe("gone", 1)
        client.paho.unsubscribe("gone")
        client.unsubscribed.get(timeout=LIMIT)
        client.publish("gone", "no", 1)
        client.subscribe("there", 1)
        client.publish("there", "yes", 1)
        self.assertEqual(client.next().payload, b"yes")

    def test_a_large_message(self):
        client = self.client("")
        client.subscribe("large", 2)
        client.publish("large", b"x" * 3_000_000, 2)
        self.assertEqual(len(client.next().payload), 3_000_000)


@unittest.skipUnless(hasattr(paho, "CallbackAPIVersion"), "aiomqtt needs paho 2")
class AiomqttTests(unittest.TestCase):
    def test_round_trip(self):
        import aiomqtt

        async def run(version):
            async with aiomqtt.Client(HOST, PORT, protocol=version) as client:
                await client.subscribe("aiomqtt/#", qos=2)
                for number in range(100):
                    await client.publish("aiomqtt/a", str(number), qos=number % 3)
                came = []
                async for message in client.messages:
                    came.append(int(message.payload))
                    if len(came) == 100:
                        return came

        for version in (aiomqtt.ProtocolVersion.V311, aiomqtt.ProtocolVersion.V5):
            self.assertEqual(asyncio.run(asyncio.wait_for(run(version), 3 * LIMIT)), list(range(100)))


class GmqttTests(unittest.TestCase):
    def test_round_trip(self):
        import gmqtt

        async def run(version):
            came = asyncio.Queue()
            subscribed = asyncio.Event()
            client = gmqtt.Client(f"gmqtt-{version}")

            async def on_message(_, topic, payload, qos, given):
                await came.put((topic, payload, qos, given.get("user_property")))
                return 0

            client.on_message = on_message
            client.on_subscribe = lambda *_: subscribed.set()
            await client.connect(HOST, PORT, version=version)
            client.subscribe("gmqtt/#", qos=2)
            await subscribed.wait()
            for qos in (0, 1, 2):
                client.publish("gmqtt/a", f"{qos}", qos=qos, **({"user_property": ("k", "v")} if version == 5 else {}))
            got = [await came.get() for _ in range(3)]
            await client.disconnect()
            return sorted((payload, qos, user) for _, payload, qos, user in got)

        for version in (gmqtt.constants.MQTTv311, gmqtt.constants.MQTTv50):
            user = [("k", "v")] if version == 5 else None
            came = asyncio.run(asyncio.wait_for(run(version), 3 * LIMIT))
            self.assertEqual(came, [(str(q).encode(), q, user) for q in (0, 1, 2)])


if __name__ == "__main__":
    PORT = int(sys.argv.pop(1))
    threading.excepthook = lambda given: sys.__excepthook__(*given[:3])
    unittest.main()
