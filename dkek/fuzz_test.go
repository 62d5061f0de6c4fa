package dkek_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// Whatever a parser accepts it writes again byte for byte: there is one form.

func FuzzParseSharing(f *testing.F) {
	data, err := deal(f, firstPlan(3, 2), nil).Encode()
	check(f, err)
	f.Add(data)
	f.Add([]byte{0xa0})
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := dkek.ParseSharing(data)
		if err != nil {
			return
		}
		again, err := s.Encode()
		check(t, err)
		if !bytes.Equal(again, data) {
			t.Fatalf("%x became %x", data, again)
		}
		check(t, s.Validate())
	})
}

func FuzzParseShareFile(f *testing.F) {
	s := deal(f, firstPlan(2, 2), nil)
	box := newBox(f, 1)
	content, err := s.bundles[id(1)].SealAtRest(box, s.Sharing)
	check(f, err)
	f.Add(content)
	f.Add([]byte("KCSHARE\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := dkek.ParseShareFile(data)
		if err != nil {
			return
		}
		if bundle, err := file.Open(box); err == nil {
			check(t, bundle.Check(file.Sharing))
			check(t, file.Is(file.Sharing, bundle.Holder()))
		}
	})
}

func FuzzOpenRelease(f *testing.F) {
	s := deal(f, firstPlan(2, 2), nil)
	key := newKey(f, dkek.X25519())
	sealed, err := s.bundles[id(1)].SealRelease(s.Sharing, key.Public(), transcript)
	check(f, err)
	wire, err := sealed.Encode()
	check(f, err)
	f.Add(wire)
	f.Fuzz(func(t *testing.T, data []byte) {
		parsed, err := dkek.ParseSealed(data)
		if err != nil {
			return
		}
		again, err := parsed.Encode()
		check(t, err)
		if !bytes.Equal(again, data) {
			t.Fatalf("%x became %x", data, again)
		}
		if _, err := dkek.OpenRelease(key, *parsed, transcript, s.Sharing, id(1)); err == nil && !bytes.Equal(data, wire) {
			t.Fatalf("a forged release opened")
		}
	})
}

// FuzzReleasePlaintext is what a lying holder can do: seal anything, correctly.
func FuzzReleasePlaintext(f *testing.F) {
	s := deal(f, firstPlan(2, 2), nil)
	key := newKey(f, dkek.X25519())
	truth := s.open(f, id(1))
	f.Add(truth)
	f.Add(truth[:49])
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 2048 {
			return
		}
		sealed := forge(t, release(s, id(1)), s.Hash(), key.Public(), data)
		if _, err := dkek.OpenRelease(key, sealed, transcript, s.Sharing, id(1)); (err == nil) != bytes.Equal(data, truth) {
			t.Fatalf("%x: %v", data, err)
		}
	})
}

// FuzzSubShare is what a lying dealer can do: seal anything, correctly. The fuzzer
// says in which bits it differs from the truth.
func FuzzSubShare(f *testing.F) {
	s := deal(f, firstPlan(3, 2), nil)
	key := newKey(f, dkek.X25519())
	dealer := s.Plan.Dealers[0].Node
	truth := s.open(f, id(1))[:49]
	f.Add(make([]byte, 49))
	f.Add(make([]byte, 48))
	f.Add(append(make([]byte, 48), 1))
	claimed := dkek.Sealed{
		Kind: dkek.KindSubShare, Cluster: s.Plan.Cluster, Epoch: s.Plan.Epoch, Attempt: s.Plan.Attempt, Dealer: dealer, Holder: id(1),
	}
	f.Fuzz(func(t *testing.T, lie []byte) {
		if len(lie) > 2048 {
			return
		}
		data := bytes.Clone(lie)
		for i := range min(len(data), len(truth)) {
			data[i] ^= truth[i]
		}
		sealed := forge(t, claimed, s.Plan.Hash(), key.Public(), data)
		_, err := dkek.OpenSubShare(key, sealed, transcript, &s.Plan, &s.Dealings[0], id(1))
		if (err == nil) != bytes.Equal(data, truth) {
			t.Fatalf("%x: %v", data, err)
		}
		var refused *dkek.ShareError
		if err != nil && (!errors.As(err, &refused) || refused.Dealer != dealer || refused.Holder != id(1)) {
			t.Fatalf("%x: it does not say who dealt what to whom: %v", data, err)
		}
	})
}

func FuzzParsePlainShare(f *testing.F) {
	shares, err := dkek.Split(secret.Random(dkek.Size), 3, 2)
	check(f, err)
	binary, err := shares[0].Binary()
	check(f, err)
	text, err := shares[0].Text()
	check(f, err)
	f.Add(reveal(binary))
	f.Add(reveal(text))
	f.Fuzz(func(t *testing.T, data []byte) {
		share, err := dkek.ParsePlainShare(secret.Take(bytes.Clone(data)))
		if err != nil {
			return
		}
		again, err := share.Binary()
		check(t, err)
		back, err := dkek.ParsePlainShare(again)
		check(t, err)
		if back.X() != share.X() || back.Set() != share.Set() || back.KCV() != share.KCV() {
			t.Fatalf("%x is read differently the second time", data)
		}
	})
}
