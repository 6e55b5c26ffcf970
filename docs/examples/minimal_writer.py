"""A writer for the directory argv[2], over the socket argv[1], with nothing but MessagePack."""

import socket
import sys

import msgpack

ID = "b1ef85a9-f82b-410e-8d48-d233a5618c2c"
if len(sys.argv) != 3:
    sys.exit("usage: minimal_writer.py SOCKET DIRECTORY")
coordinator = socket.socket(socket.AF_UNIX)
coordinator.connect(sys.argv[1])
stream = coordinator.makefile("rwb")


def send(message):
    body = msgpack.packb(message)
    stream.write(len(body).to_bytes(4, "big") + body)
    stream.flush()


send({"kind": "hello", "writer_id": ID, "name": "Minimal Writer"})
while 0 < (length := int.from_bytes(stream.read(4), "big")) < 1 << 24:
    message = msgpack.unpackb(stream.read(length))
    if message["kind"] == "welcome":
        instance = message["instance_id"]
    if message["kind"] == "event":
        print(message["event"], flush=True)  # freeze: stop writing; thaw and abort: go on
        reply = {"kind": "reply", "seq": message["seq"]}
        if message["event"] == "identify":
            files = {"path": sys.argv[2], "filespec": "*", "recursive": True}
            component = {"type": 2, "name": "files", "files": [files]}
            reply["metadata"] = {"writer_id": ID, "instance_id": instance, "name": "Minimal Writer"}
            reply["metadata"]["components"] = [component]
        send(reply)
