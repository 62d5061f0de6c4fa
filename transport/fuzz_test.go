package transport

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"testing"
)

// Every parser of a peer's bytes: it never panics, never takes more than its
// limit, and what it accepts it writes back the same.

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{0, 0, 0, 3, 'a', 'b', 'c'})
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		payload, err := readFrame(bytes.NewReader(data), 1024)
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := writeFrame(&out, payload); err != nil || len(payload) > 1024 || !bytes.HasPrefix(data, out.Bytes()) {
			t.Fatalf("%d bytes do not come back: %v", len(payload), err)
		}
	})
}

func FuzzReadPacket(f *testing.F) {
	f.Add([]byte{0, 1, 'a'})
	f.Add([]byte{0, 0})
	f.Add([]byte{0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		packet, err := readPacket(bytes.NewReader(data))
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := writePacket(&out, packet); err != nil || len(packet) == 0 || !bytes.HasPrefix(data, out.Bytes()) {
			t.Fatalf("%d bytes do not come back: %v", len(packet), err)
		}
	})
}

func FuzzDecodeError(f *testing.F) {
	good, err := encodeError(&RemoteError{"no-share", "no share of epoch 3"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{0xa0})
	f.Add([]byte{0xbf, 0x01, 0x61, 'a', 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		remote, err := decodeError(data)
		if err != nil {
			return
		}
		again, err := encodeError(remote)
		if err != nil || len(again) > maxErrorFrame {
			t.Fatalf("%+v: %d bytes, %v", remote, len(again), err)
		}
		if back, err := decodeError(again); err != nil || *back != *remote {
			t.Fatalf("%+v came back as %+v: %v", remote, back, err)
		}
	})
}

func FuzzJoinAnswer(f *testing.F) {
	for _, answer := range []joinAnswer{{Body: []byte("welcome")}, {Code: CodeBadProof, Message: "no"}} {
		data, err := encode(answer)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		body, err := parseJoinAnswer(data)
		if len(body) > MaxBody || err != nil && body != nil {
			t.Fatalf("%d bytes and %v", len(body), err)
		}
	})
}

func FuzzJoinRequest(f *testing.F) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	exported, joiner := make([]byte, 32), Fingerprint{7}
	data, err := encode(joinRequest{
		Token: key.Public().(ed25519.PublicKey), Signature: ed25519.Sign(key, joinProof(exported, joiner, []byte("x"))), Body: []byte("x"),
	})
	if err != nil {
		f.Fatal(err)
	}
	if _, err := parseJoinRequest(data, exported, joiner); err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte{0xa3, 1, 0x40, 2, 0x40, 3, 0x40})
	f.Fuzz(func(t *testing.T, data []byte) {
		request, err := parseJoinRequest(data, exported, joiner)
		if err == nil && (request.Peer != joiner || request.Token.IsZero() || len(request.Body) > MaxBody) {
			t.Fatalf("accepted %+v", request)
		}
		if err != nil && remoteError(err).Code == CodeInternal {
			t.Fatalf("the joiner's fault is called ours: %v", err)
		}
	})
}

func FuzzParseFingerprint(f *testing.F) {
	f.Add(Fingerprint{1, 2, 3}.String())
	f.Add("ABCDEF")
	f.Fuzz(func(t *testing.T, text string) {
		if parsed, err := ParseFingerprint(text); err == nil && parsed.String() != text {
			t.Fatalf("%q came back as %q", text, parsed)
		}
	})
}
