"""Reads a command and a snapshot as docs/format.md describes them.

    decode.py command FILE     prints what a command says, as JSON
    decode.py snapshot FILE    checks a snapshot whole, and prints what is in it

It needs nothing but the standard library and shares nothing with the product.
"""

import hashlib
import json
import sys


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        if self.at + n > len(self.data):
            sys.exit("truncated")
        self.at += n
        return self.data[self.at - n:self.at]

    def number(self, n):
        return int.from_bytes(self.take(n), "big")


def cbor(r):
    head = r.number(1)
    major, info = head >> 5, head & 31
    if info < 24:
        n = info
    elif info < 28:
        size = 1 << (info - 24)
        n = r.number(size)
        if n < (24 if size == 1 else 1 << (4 * size)):
            sys.exit("head is not the shortest")
    else:
        sys.exit("indefinite length")
    if major == 0:
        return n
    if major == 1:
        return -1 - n
    if major == 2:
        return r.take(n)
    if major == 3:
        return r.take(n).decode("utf-8")
    if major == 4:
        return [cbor(r) for _ in range(n)]
    if major == 5:
        out, last = {}, None
        for _ in range(n):
            key = cbor(r)
            if last is not None and key <= last:
                sys.exit("map keys are not ascending")
            last, out[key] = key, cbor(r)
        return out
    if major == 7 and info in (20, 21):
        return info == 21
    sys.exit("a tag, float or null")


def whole(data):
    r = Reader(data)
    value = cbor(r)
    if r.at != len(data):
        sys.exit("bytes behind the value")
    return value


def show(value):
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return [show(v) for v in value]
    if isinstance(value, dict):
        return {str(k): show(v) for k, v in value.items()}
    return value


def command(data):
    if data[0] != 1 or len(data) > 65536:
        sys.exit("not a command of format 1")
    return {"kind": data[1], "message": show(whole(data[2:]))}


def integer(n):
    return n.to_bytes(8, "big")


KEYS = {
    1: lambda r: b"", 2: lambda r: r[1], 3: lambda r: r[1], 4: lambda r: integer(r[1]), 5: lambda r: r[1], 6: lambda r: r[1],
    7: lambda r: integer(r[1]), 8: lambda r: integer(r[1][2]) + integer(r[1][3]), 9: lambda r: r[1], 10: lambda r: r[2].encode(),
    11: lambda r: r[1] + integer(r[2]), 12: lambda r: r[1] + integer(r[2]), 13: lambda r: r[1] + integer(r[2]), 14: lambda r: r[1],
    15: lambda r: r[1], 16: lambda r: integer(r[1]),
}


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def wordless(raw, row):
    """A request's bytes without field 5, its message, which has at most 256 bytes."""
    if 5 not in row:
        return raw
    text = row[5].encode()
    n = len(text)
    head = bytes([0x60 + n]) if n < 24 else b"\x78" + bytes([n]) if n < 256 else b"\x79" + n.to_bytes(2, "big")
    before, found, after = raw.rpartition(b"\x05" + head + text)
    if not found:
        sys.exit("a message is not where it should be")
    return bytes([before[0] - 1]) + before[1:] + after


def snapshot(data):
    if sha256(data[:-32]) != data[-32:]:
        sys.exit("trailer differs")
    r = Reader(data[:-32])
    if r.take(8) != b"KCSTATE\n":
        sys.exit("no magic")
    header = whole(r.take(r.number(4)))
    digest = b"keycustodian v1 state\0" + integer(header[6]) + integer(header[7]) + header[8]
    tables = {}
    for table, count in enumerate(header[9], 1):
        rows, total, last = [], 0, None
        for _ in range(count):
            raw = r.take(r.number(4))
            row = whole(raw)
            key = KEYS[table](row)
            if last is not None and key <= last:
                sys.exit("rows are not ascending")
            last = key
            hashed = wordless(raw, row) if table == 15 else raw
            total += int.from_bytes(sha256(b"keycustodian v1 row\0", bytes([table]), hashed), "little")
            rows.append((raw, row))
        digest += integer(count) + (total % (1 << 256)).to_bytes(32, "little")
        tables[table] = rows
    if r.at != len(r.data):
        sys.exit("bytes behind the rows")
    if sha256(digest) != header[10]:
        sys.exit("digest differs")
    previous = bytes(32)
    for raw, row in tables[16]:
        if row[8] != previous or sha256(b"keycustodian v1 audit\0", raw[:-32], bytes(32)) != row[9]:
            sys.exit("audit chain is broken at %d" % row[1])
        previous = row[9]
    if previous != header[8]:
        sys.exit("audit chain ends elsewhere")
    for raw, row in tables[9]:
        if sha256(b"keycustodian v1 open\0", row[3]) != row[4]:
            sys.exit("an Open has another hash")
    cluster = tables[1][0][1]
    return {
        "digest": header[10].hex(), "index": header[5], "counts": header[9], "cluster": cluster[2],
        "members": [row[2] for _, row in tables[2]], "keys": [row[2] for _, row in tables[10]],
        "opens": [whole(row[3])[5] for _, row in tables[9]],
    }


if __name__ == "__main__":
    with open(sys.argv[2], "rb") as f:
        content = f.read()
    print(json.dumps({"command": command, "snapshot": snapshot}[sys.argv[1]](content)))
