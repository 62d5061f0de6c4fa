"""Builds and reads SmartCard-HSM key blobs from the published layout alone.

Reads one JSON list of requests on stdin and writes one JSON list of answers.
AES and CMAC are the openssl command's, curves too; numbers are hexadecimal.

  {"op": "build", "dkek", "type", "bits", "algorithms", "numbers": {...},
   "lean": bool}                                       -> {"blob"}
  {"op": "read", "dkek", "blob"}                       -> {"type", "bits", "algorithms", "oid", "numbers"}
  {"op": "share", "password", "salt", "share", "rounds"} -> {"file"}

lean is the other way to write that readers must take: A left out, no leading
zeros, no padding where the fields end with a block, an AES identifier of
another length.
"""
import hashlib
import json
import os
import subprocess
import sys

OID = {5: "04007F00070202020102", 6: "04007F00070202020102",
       12: "04007F00070202020203", 15: "6086480165030401", 0xED: "2B6570"}
FIELDS = {5: ["d", "n", "e"], 6: ["dP", "dQ", "p", "qInv", "q", "n", "e"],
          12: ["A", "B", "P", "order", "G", "d", "Q"], 0xED: ["seed", "public"]}


def openssl(*args, data=b""):
    return subprocess.run(["openssl", *args], input=data, stdout=subprocess.PIPE, check=True).stdout


def cbc(key, data, direction, iv="00" * 16):
    return openssl("enc", direction, "-aes-256-cbc", "-K", key.hex(), "-iv", iv, "-nopad", data=data)


def cmac(key, data):
    out = openssl("mac", "-cipher", "AES-256-CBC", "-macopt", "hexkey:" + key.hex(), "-in", "/dev/stdin", "CMAC", data=data)
    return bytes.fromhex(out.decode().strip())


def derive(dkek):
    sha = lambda b: hashlib.sha256(b).digest()
    return sha(dkek)[:8], sha(dkek + b"\0\0\0\1"), sha(dkek + b"\0\0\0\2")


def lv(b):
    return len(b).to_bytes(2, "big") + b


def der(b):
    """The elements of a DER body, as (tag, body)."""
    out = []
    while b:
        n, at = b[1], 2
        if n & 0x80:
            at = 2 + (n & 0x7F)
            n = int.from_bytes(b[2:at], "big")
        out.append((b[0], b[at:at + n]))
        b = b[at + n:]
    return out


def curve(name):
    body = der(openssl("ecparam", "-name", name, "-param_enc", "explicit", "-outform", "DER"))[0][1]
    _, field, ab, g, order = der(body)[:5]
    p = der(field[1])[1][1].lstrip(b"\0")
    a, b = (x[1].rjust(len(p), b"\0") for x in der(ab[1])[:2])
    return {"A": a, "B": b, "P": p, "order": order[1].lstrip(b"\0").rjust(len(p), b"\0"), "G": g[1]}


def width(kind, name, bits):
    if kind == 12:
        return (bits + 7) // 8
    if name == "e":
        return 0
    return (bits + 7) // 8 if name in ("d", "n") else (bits + 15) // 16


def build(q):
    kind, bits, lean = q["type"], q["bits"], q.get("lean", False)
    kcv, enc, mac = derive(bytes.fromhex(q["dkek"]))
    numbers = {k: bytes.fromhex(v) for k, v in q["numbers"].items()}
    plain = os.urandom(8) + bits.to_bytes(2, "big")
    if kind == 15:
        plain += numbers["key"]
    else:
        if kind == 12:
            numbers.update(curve(q["curve"]))
            if lean:
                numbers["A"] = b""
        if kind == 6:
            n, e, p, r = (int.from_bytes(numbers[k], "big") for k in ("n", "e", "p", "q"))
            d = pow(e, -1, (p - 1) * (r - 1))
            for k, v in (("dP", d % (p - 1)), ("dQ", d % (r - 1)), ("qInv", pow(r, -1, p))):
                numbers[k] = v.to_bytes((bits + 15) // 16, "big")
        numbers.update({k: bytes.fromhex(v) for k, v in q.get("replace", {}).items()})
        for name in FIELDS[kind]:
            value = numbers[name]
            if name not in ("G", "Q", "seed", "public", "A"):
                value = value.lstrip(b"\0")
                if not lean:
                    value = value.rjust(width(kind, name, bits), b"\0")
            plain += lv(value)
    if len(plain) % 16 or not lean:
        plain += b"\x80"
        plain += bytes(-len(plain) % 16)
    oid = bytes.fromhex(OID[kind] + ("07" if lean and kind == 15 else ""))
    blob = kcv + bytes([kind]) + lv(oid) + lv(bytes.fromhex(q["algorithms"])) + lv(b"") + lv(b"")
    blob += cbc(enc, plain, "-e")
    return {"blob": (blob + cmac(mac, blob)).hex()}


def read(q):
    kcv, enc, mac = derive(bytes.fromhex(q["dkek"]))
    blob = bytes.fromhex(q["blob"])
    assert blob[:8] == kcv and blob[-16:] == cmac(mac, blob[:-16])
    kind, rest, head = blob[8], blob[9:-16], []
    for _ in range(4):
        n = int.from_bytes(rest[:2], "big")
        head.append(rest[2:2 + n])
        rest = rest[2 + n:]
    assert head[0].hex().upper() == OID[kind] and head[2] == head[3] == b""
    plain = cbc(enc, rest, "-d")[8:]
    bits, plain = int.from_bytes(plain[:2], "big"), plain[2:]
    numbers = {}
    if kind == 15:
        numbers["key"], plain = plain[:bits], plain[bits:]
    else:
        for name in FIELDS[kind]:
            n = int.from_bytes(plain[:2], "big")
            numbers[name] = plain[2:2 + n]
            plain = plain[2 + n:]
            if name in ("d", "n"):
                assert n == width(kind, name, bits), "not of full width"
    assert plain[0] == 0x80 and len(plain) <= 16 and not any(plain[1:])
    if kind == 12:
        known = curve(q["curve"])
        assert all(numbers[k] == known[k] for k in known)
    return {"type": kind, "bits": bits, "algorithms": head[1].hex(), "numbers": {k: v.hex() for k, v in numbers.items()}}


def share(q):
    password, salt = bytes.fromhex(q["password"]), bytes.fromhex(q["salt"])
    out = b""
    while len(out) < 48:
        block = out[-16:] + password + salt
        for _ in range(q["rounds"]):
            block = hashlib.md5(block).digest()
        out += block
    plain = bytes.fromhex(q["share"]) + bytes([16]) * 16
    return {"file": (b"Salted__" + salt + cbc(out[:32], plain, "-e", out[32:].hex())).hex()}


json.dump([{"build": build, "read": read, "share": share}[q["op"]](q) for q in json.load(sys.stdin)], sys.stdout)
