#!/usr/bin/env python3
"""Deals one small DKEK from docs/format.md alone and prints it as JSON.

Everything is derived from fixed labels, so that the output is always the same:
two holders of three, three dealers. Nothing here shares code with the product.
"""
import hashlib
import json


def fixed(label, size):
    return hashlib.sha256(b"vector " + label.encode()).digest()[:size]


# GF(2^8) with x^8+x^4+x^3+x+1, by tables of the generator 3.
EXP, LOG = [0] * 510, [0] * 256
value = 1
for power in range(255):
    EXP[power] = EXP[power + 255] = value
    LOG[value] = power
    value ^= (value << 1) ^ (0x11B if value & 0x80 else 0)


def mul(a, b):
    return EXP[LOG[a] + LOG[b]] if a and b else 0


def div(a, b):
    return EXP[LOG[a] + 255 - LOG[b]] if a else 0


def lagrange_at_0(x, i):
    c = 1
    for j in range(len(x)):
        if j != i:
            c = mul(c, div(x[j], x[j] ^ x[i]))
    return c


def xor(*parts):
    out = bytes(32)
    for part in parts:
        out = bytes(a ^ b for a, b in zip(out, part))
    return out


# CBOR, core deterministic: shortest heads, map keys ascending.
def head(major, n):
    for size, info in ((1, 24), (2, 25), (4, 26), (8, 27)):
        if n < 24:
            return bytes([major << 5 | n])
        if n < 1 << 8 * size:
            return bytes([major << 5 | info]) + n.to_bytes(size, "big")


def cbor(v):
    if isinstance(v, int):
        return head(0, v)
    if isinstance(v, bytes):
        return head(2, len(v)) + v
    if isinstance(v, str):
        return head(3, len(v)) + v.encode()
    if isinstance(v, list):
        return head(4, len(v)) + b"".join(map(cbor, v))
    return head(5, len(v)) + b"".join(cbor(k) + cbor(v[k]) for k in sorted(v))


cluster, epoch, attempt, threshold = fixed("cluster", 16), 7, 2, 2
nodes = sorted(fixed("node %d" % i, 16) for i in range(3))
holders = [{1: node, 2: hashlib.sha256(node).digest()} for node in nodes]
plan = {1: cluster, 2: epoch, 3: attempt, 4: threshold, 5: "dealt", 6: holders, 7: holders,
        8: bytes(32), 9: bytes(8)}

dealings, secrets, bundles = [], [], {node: b"" for node in nodes}
for d, dealer in enumerate(nodes):
    secret, slope = fixed("secret %d" % d, 32), fixed("slope %d" % d, 32)
    secrets.append(secret)
    xs, commitments = [], []
    for h, holder in enumerate(nodes):
        x = fixed("x %d %d" % (d, h), 1)[0] | 1 << h  # never 0
        while x in xs:
            x = x % 255 + 1
        y = bytes(s ^ mul(m, x) for s, m in zip(secret, slope))
        salt = fixed("salt %d %d" % (d, h), 16)
        xs.append(x)
        commitments.append(hashlib.sha256(
            b"keycustodian dkek commitment v1\0" + cluster + epoch.to_bytes(8, "big") + attempt.to_bytes(8, "big")
            + dealer + holder + bytes([x]) + y + salt).digest())
        bundles[holder] += y + bytes([x]) + salt
    dealings.append({1: dealer, 2: bytes(xs), 3: commitments})

sharing = cbor({1: plan, 2: dealings})
dkek = xor(*secrets)


def partial(quorum, me):
    parts = []
    for d in range(len(nodes)):
        x = [dealings[d][2][nodes.index(q)] for q in quorum]
        c = lagrange_at_0(x, quorum.index(me))
        y = bundles[me][49 * d:49 * d + 32]
        parts.append(bytes(mul(c, b) for b in y))
    return xor(*parts)


quorum = [nodes[0], nodes[2]]
assert xor(*(partial(quorum, q) for q in quorum)) == dkek

print(json.dumps({
    "plan_hash": hashlib.sha256(b"keycustodian dkek plan v1\0" + cbor(plan)).hexdigest(),
    "sharing": sharing.hex(),
    "sharing_hash": hashlib.sha256(b"keycustodian dkek sharing v1\0" + sharing).hexdigest(),
    "bundles": [bundles[node].hex() for node in nodes],
    "quorum": [q.hex() for q in quorum],
    "partials": [partial(quorum, q).hex() for q in quorum],
    "dkek": dkek.hex(),
    "kcv": hashlib.sha256(dkek).hexdigest()[:16].upper(),
}, indent=1))
