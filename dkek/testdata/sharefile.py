#!/usr/bin/env python3
"""Reads a share file from docs/format.md alone: sharefile.py FILE [SEAL-SECRET-HEX]

Prints its public half as JSON, and with the seal secret also its sub-shares,
each checked against its commitment. Standard library only.
"""
import hashlib
import hmac
import json
import struct
import sys


def cbor(b, i):
    """Decodes the item at b[i]: (value, index after it)."""
    major, n = b[i] >> 5, b[i] & 31
    i += 1
    if n >= 24:
        size = 1 << n - 24
        n, i = int.from_bytes(b[i:i + size], "big"), i + size
    if major == 0:
        return n, i
    if major == 2:
        return b[i:i + n], i + n
    if major == 3:
        return b[i:i + n].decode(), i + n
    out = [] if major == 4 else {}
    assert major in (4, 5), "unexpected CBOR"
    for _ in range(n):
        item, i = cbor(b, i)
        if major == 4:
            out.append(item)
        else:
            out[item], i = cbor(b, i)
    return out, i


def rotate(v, n):
    return (v << n | v >> 32 - n) & 0xFFFFFFFF


def rounds(state):
    def quarter(a, b, c, d):
        for x, y, z, n in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            s[x] = s[x] + s[y] & 0xFFFFFFFF
            s[z] = rotate(s[z] ^ s[x], n)
    s = list(state)
    for _ in range(10):
        for i in range(4):
            quarter(i, i + 4, i + 8, i + 12)
        for i in range(4):
            quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return s


SIGMA = struct.unpack("<4I", b"expand 32-byte k")


def chacha20(key, counter, nonce, size):
    out = b""
    while len(out) < size:
        state = SIGMA + struct.unpack("<8I", key) + (counter,) + struct.unpack("<3I", nonce)
        out += struct.pack("<16I", *(a + b & 0xFFFFFFFF for a, b in zip(state, rounds(state))))
        counter += 1
    return out[:size]


def xchacha20poly1305_open(key, nonce, ciphertext, context):
    s = rounds(SIGMA + struct.unpack("<8I", key) + struct.unpack("<4I", nonce[:16]))
    key, nonce = struct.pack("<8I", *(s[:4] + s[12:])), bytes(4) + nonce[16:]
    body, tag = ciphertext[:-16], ciphertext[-16:]
    one_time = chacha20(key, 0, nonce, 32)
    r = int.from_bytes(one_time[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    mac_data = b"".join(part + bytes(-len(part) % 16) for part in (context, body))
    mac_data += struct.pack("<QQ", len(context), len(body))
    total = 0
    for i in range(0, len(mac_data), 16):
        total = (total + int.from_bytes(mac_data[i:i + 16] + b"\1", "little")) * r % (2**130 - 5)
    total = total + int.from_bytes(one_time[16:], "little") & 2**128 - 1
    if total.to_bytes(16, "little") != tag:
        sys.exit("does not open under this seal secret")
    return bytes(a ^ b for a, b in zip(body, chacha20(key, 1, nonce, len(body))))


def main():
    content = open(sys.argv[1], "rb").read()
    magic, version, total, holder, size = struct.unpack(">8sHI16sI", content[:34])
    assert magic == b"KCSHARE\n" and version == 1 and total == len(content)
    assert hashlib.sha256(content[:-32]).digest() == content[-32:], "damaged"
    context, sealed = content[:34 + size], content[34 + size:-32]
    sharing, end = cbor(content, 34)
    assert end == 34 + size
    plan, dealings = sharing[1], sharing[2]
    out = {"holder": holder.hex(), "cluster": plan[1].hex(), "epoch": plan[2], "attempt": plan[3], "threshold": plan[4],
           "origin": plan[5], "holders": [h[1].hex() for h in plan[6]], "dealers": [d[1].hex() for d in plan[7]],
           "sharing_hash": hashlib.sha256(b"keycustodian dkek sharing v1\0" + content[34:34 + size]).hexdigest()}
    if len(sys.argv) > 2:
        extracted = hmac.digest(bytes(32), bytes.fromhex(sys.argv[2]), "sha256")
        key = hmac.digest(extracted, b"keycustodian v1 share\1", "sha256")
        data = xchacha20poly1305_open(key, sealed[:24], sealed[24:], context)
        place = [h[1] for h in plan[6]].index(holder)
        for i, dealing in enumerate(dealings):
            sub = data[49 * i:49 * i + 49]
            made = hashlib.sha256(b"keycustodian dkek commitment v1\0" + plan[1] + struct.pack(">QQ", plan[2], plan[3])
                                  + dealing[1] + holder + sub[32:33] + sub[:32] + sub[33:]).digest()
            assert made == dealing[3][place], "sub-share of dealer %s is forged" % dealing[1].hex()
        out["sub_shares"] = data.hex()
    print(json.dumps(out))


main()
