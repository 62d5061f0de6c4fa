package dkek_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"github.com/keycustodian/keycustodian/dkek"
)

// refile builds a share file by hand, with a checksum that fits.
func refile(header, public, sealed []byte) []byte {
	b := append(append(bytes.Clone(header), public...), sealed...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// Whoever fixes the checksum of a changed file still has no share: neither
// without the seal secret, nor (a lying holder) with it.
func TestForgedShareFiles(t *testing.T) {
	s := deal(t, firstPlan(2, 2), nil)
	box := newBox(t, 1)
	content, err := s.bundles[id(1)].SealAtRest(box, s.Sharing)
	check(t, err)
	public, err := s.Encode()
	check(t, err)
	header, sealed := content[:34], content[34+len(public):len(content)-32]
	if !bytes.Equal(refile(header, public, sealed), content) {
		t.Fatal("a share file is not laid out as documented")
	}
	with := func(at int, value ...byte) []byte {
		h := bytes.Clone(header)
		copy(h[at:], value)
		return h
	}
	truth := s.open(t, id(1))
	lie := bytes.Clone(truth)
	lie[49] ^= 1
	context := content[:34+len(public)]
	for _, c := range []struct {
		name    string
		content []byte
		reason  dkek.Reason
		holder  dkek.NodeID
		dealer  dkek.NodeID
	}{
		{name: "other magic", content: refile(with(0, 'X'), public, sealed), reason: dkek.BadFormat},
		{name: "version of the future", content: refile(with(8, 0, 2), public, sealed), reason: dkek.BadFormat},
		{name: "length that lies", content: refile(with(13, 0), public, sealed), reason: dkek.BadFormat},
		{name: "sharing longer than the file", content: refile(with(30, 0xff, 0xff, 0xff, 0xff), public, sealed), reason: dkek.BadFormat},
		{name: "sharing cut", content: refile(with(30, binary.BigEndian.AppendUint32(nil, uint32(len(public)-1))...), public, sealed), reason: dkek.BadFormat},
		{name: "other holder", content: refile(with(14, bytes.Repeat([]byte{9}, 16)...), public, sealed), reason: dkek.WrongSeal, holder: dkek.NodeID(bytes.Repeat([]byte{9}, 16))},
		{name: "changed seal", content: refile(header, public, append(bytes.Clone(sealed[1:]), 0)), reason: dkek.WrongSeal, holder: id(1)},
		{name: "a lie, well sealed", content: refile(header, public, box.Seal(lie, context)), reason: dkek.Forged, holder: id(1), dealer: id(2)},
		{name: "the truth, for another context", content: refile(header, public, box.Seal(truth, context[1:])), reason: dkek.WrongSeal, holder: id(1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			file, err := dkek.ParseShareFile(c.content)
			if err == nil {
				_, err = file.Open(box)
			}
			refused(t, err, c.reason, c.holder, c.dealer)
		})
	}
	file, err := dkek.ParseShareFile(refile(header, public, box.Seal(truth, context)))
	check(t, err)
	_, err = file.Open(box)
	check(t, err)
}
