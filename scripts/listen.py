"""Subscribes to results and prints them; see scripts/listen."""

import argparse
import json
import ssl
import sys
from urllib.parse import urlsplit


def sentence(result):
    """One result as a person reads it."""
    if "lost" in result:
        lost = result["lost"]
        return "results %d to %d are lost: %s" % (lost["from"], lost["to"], lost["reason"])
    seen = ", ".join("%s %.2f" % (i["label"] or "#%d" % i["id"], i["score"]) for i in result["items"][:5])
    return "%s → %s, %.1f ms, %s" % (
        result.get("name") or result["pipe"], seen or "nothing", result["lat_ms"]["inv"], result["accel"])


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/listen", description="print results as they arrive")
    parser.add_argument("broker", help="mqtt://host[:1883] or mqtts://host[:8883]; - reads lines of JSON instead")
    parser.add_argument("topic", nargs="?", default="covey/home/+/+/result")
    parser.add_argument("--user")
    parser.add_argument("--password-file")
    parser.add_argument("--ca", help="PEM file of the broker's CA")
    parser.add_argument("--json", action="store_true", help="print the messages as they came")
    return parser.parse_args()


def listen(args):
    import paho.mqtt.client as mqtt  # only a broker needs it

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    url = urlsplit(args.broker)
    if args.user:
        password = open(args.password_file).read().strip() if args.password_file else None
        client.username_pw_set(args.user, password)
    if url.scheme == "mqtts":
        client.tls_set(ca_certs=args.ca, tls_version=ssl.PROTOCOL_TLS_CLIENT)

    def connected(client, _userdata, _flags, reason, _properties):
        if reason.is_failure:
            sys.exit("listen: the broker refuses: %s" % reason)
        client.subscribe(args.topic, qos=1)

    def message(_client, _userdata, message):
        text = message.payload.decode("utf-8", "replace")
        print(text if args.json else "  " + sentence(json.loads(text)))

    client.on_connect = connected
    client.on_message = message
    client.connect(url.hostname, url.port or (8883 if url.scheme == "mqtts" else 1883))
    client.loop_forever()


def main():
    args = arguments()
    if args.broker != "-":
        listen(args)
        return
    for line in sys.stdin:
        print("  " + sentence(json.loads(line)))


try:
    main()
except KeyboardInterrupt:
    pass
except OSError as err:
    sys.exit("listen: %s" % err)
