#!/usr/bin/env python3
"""A runner in another language, written from PROTOCOL.md alone: it inverts bytes."""
import json, mmap, os, socket, struct, sys, time

sock = socket.socket(fileno=3)
sessions = {}
TENSOR = {"name": "x", "type": "uint8", "shape": [1, 8], "bytes": 8}


def reply(kind, session, request, body=b""):
    sock.send(struct.pack("<HHIQII", kind, 0, session, request, len(body), 0) + body)


def answer(kind, session, body, fds):
    if kind == 1:
        return {"version": 1, "engine": "invert", "runtime": "python %d.%d" % sys.version_info[:2]}
    if kind == 2:
        return {"devices": [{"accelerator": "cpu", "name": "python", "runtime": "python"}]}
    if kind == 3:
        wanted = json.loads(body)
        if wanted["accelerator"] not in ("auto", "cpu"):
            raise KeyError("E_ACCEL", "only cpu")
        model = mmap.mmap(fds[0], wanted["size"], mmap.MAP_PRIVATE, mmap.PROT_READ)
        sessions[session] = {"model": model}
        return {"inputs": [TENSOR], "outputs": [TENSOR], "accelerator": "cpu", "threads": 1, "delegated": -1, "ops": -1}
    if kind == 4:
        layout = json.loads(body)
        sessions[session].update(layout, memory=mmap.mmap(fds[0], layout["size"]))
    if kind == 5:
        buffer, _ = struct.unpack("<II", body)
        s = sessions[session]
        span, out = (s["buffers"][buffer][k][0]["off"] for k in ("in", "out"))
        began = time.monotonic_ns()
        result = bytes(b ^ 255 for b in s["memory"][span:span + 8])
        took = time.monotonic_ns() - began
        s["memory"][out:out + 8] = result
        return struct.pack("<QII QII8i", took, 1, 0, 8, 2, 0, 1, 8, 0, 0, 0, 0, 0, 0)
    if kind == 7:
        del sessions[session]
    return b""


while True:
    packet, fds, _, _ = socket.recv_fds(sock, 65536, 4)
    if not packet:
        break
    kind, _, session, request, length, _ = struct.unpack_from("<HHIQII", packet)
    try:
        body = answer(kind, session, packet[24:24 + length], fds)
        reply(kind + 0x100, session, request, body if isinstance(body, bytes) else json.dumps(body).encode())
    except KeyError as refusal:
        code, text = refusal.args
        reply(0x201, session, request, json.dumps({"code": code, "text": text}).encode())
    for fd in fds:
        os.close(fd)
