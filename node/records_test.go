package node

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"log/slog"
	"slices"
	"testing"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// recordNode is as much of a node as its own records need.
func recordNode(t testing.TB) *Node {
	t.Helper()
	n := &Node{files: &memoryFiles{}, logger: slog.New(slog.DiscardHandler)}
	n.seal.Store(secret.Random(secret.KeySize))
	rand.Read(n.id[:])
	if err := n.files.append(releaseFile, nil); err != nil { // as with the identity
		t.Fatal(err)
	}
	return n
}

func operatorSet(t testing.TB, cluster dkek.ClusterID) (fsm.OperatorSet, ed25519.PrivateKey) {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return fsm.OperatorSet{Cluster: cluster, Number: 1, Approvals: 1, Operators: []fsm.Operator{{Name: "o", Public: der}}}, key
}

// govern is the record by which the key's owner puts the next set in force.
func govern(t testing.TB, from fsm.OperatorSet, key ed25519.PrivateKey, next fsm.OperatorSet) fsm.GovernRecord {
	t.Helper()
	open, err := fsm.EncodeOpen(&fsm.Open{
		Format: fsm.OpenFormat, Cluster: from.Cluster, Kind: fsm.CeremonyGovern, Govern: from.Ref(),
		Proposal: &fsm.Proposal{Operators: next.Operators, Approvals: next.Approvals},
	})
	if err != nil {
		t.Fatal(err)
	}
	signature, err := fsm.SignMessage(key, fsm.DomainApproval, open)
	if err != nil {
		t.Fatal(err)
	}
	next.Number = from.Number + 1
	approver := fsm.FingerprintOf(from.Operators[0].Public)
	return fsm.GovernRecord{Number: next.Number, Set: next, Open: open, Approvals: []fsm.Approval{{Operator: approver, Signature: signature}}}
}

// A joiner follows the chain from the set that its token names, by signatures
// alone.
func TestAdoptChain(t *testing.T) {
	cluster := dkek.ClusterID{1}
	first, firstKey := operatorSet(t, cluster)
	second, secondKey := operatorSet(t, cluster)
	third, _ := operatorSet(t, cluster)
	link1 := fsm.GovernRecord{Number: 1, Set: first}
	link2 := govern(t, first, firstKey, second)
	second.Number = 2
	link3 := govern(t, second, secondKey, third)
	forged := govern(t, second, firstKey, third) // by who is no operator any more
	for name, c := range map[string]struct {
		chain  []fsm.GovernRecord
		number uint64
		digest dkek.Hash
		want   uint64 // pinned number; 0: refused
	}{
		"the whole chain":            {[]fsm.GovernRecord{link1, link2, link3}, 1, first.Digest(), 3},
		"from the token's link":      {[]fsm.GovernRecord{link1, link2, link3}, 2, second.Digest(), 3},
		"another digest":             {[]fsm.GovernRecord{link1, link2, link3}, 1, second.Digest(), 0},
		"no such number":             {[]fsm.GovernRecord{link1}, 2, second.Digest(), 0},
		"a link signed by the wrong": {[]fsm.GovernRecord{link1, link2, forged}, 1, first.Digest(), 0},
		"a missing link":             {[]fsm.GovernRecord{link1, link3}, 1, first.Digest(), 0},
		"nothing":                    {nil, 1, first.Digest(), 0},
	} {
		t.Run(name, func(t *testing.T) {
			n := recordNode(t)
			p, err := newPinRoom(n)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.adopt(cluster, c.chain, c.number, c.digest); (err == nil) != (c.want != 0) {
				t.Errorf("adopt: %v", err)
			}
			again, err := newPinRoom(n)
			if err != nil || again.set().Number != c.want {
				t.Errorf("after a restart set %d is pinned, want %d: %v", again.set().Number, c.want, err)
			}
		})
	}
}

func TestDamagedPins(t *testing.T) {
	n := recordNode(t)
	p, err := newPinRoom(n)
	if err != nil {
		t.Fatal(err)
	}
	set, _ := operatorSet(t, dkek.ClusterID{1})
	if err := p.begin(set); err != nil {
		t.Fatal(err)
	}
	content, _ := n.files.read(pinFile)
	for at := range content {
		damaged := bytes.Clone(content)
		damaged[at] ^= 1
		n.files.write(pinFile, damaged)
		if _, err := newPinRoom(n); err == nil {
			t.Fatalf("byte %d changed: the pins are believed", at)
		}
	}
	n.files.write(pinFile, content)
	n.seal.Store(secret.Random(secret.KeySize))
	if _, err := newPinRoom(n); err == nil {
		t.Error("pins under another seal secret are believed")
	}
}

func note(i byte) ReleaseNote {
	return ReleaseNote{Ceremony: fsm.CeremonyID{i}, Purpose: fsm.ReleaseGather, Index: uint64(i)}
}

func recordReleases(t *testing.T, n *Node, count byte) []byte {
	t.Helper()
	r, err := newReleaseRoom(n)
	if err != nil {
		t.Fatal(err)
	}
	for i := range count {
		for range 2 { // the second time changes nothing
			if err := r.record(note(i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	content, err := n.files.read(releaseFile)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// A crash while a release is recorded leaves a torn end, at any byte: what was
// whole before stays, and the next record follows it.
func TestTornReleases(t *testing.T) {
	n := recordNode(t)
	content := recordReleases(t, n, 3)
	last := len(content) / 3 * 2
	for cut := last; cut < len(content); cut++ {
		n.files.write(releaseFile, content[:cut])
		r, err := newReleaseRoom(n)
		if err != nil || len(r.notes) != 2 || r.trouble != nil {
			t.Fatalf("cut at %d: %d records, %v, %v", cut, len(r.notes), r.trouble, err)
		}
		if err := r.record(note(9)); err != nil {
			t.Fatal(err)
		}
		again, err := newReleaseRoom(n)
		if err != nil || len(again.notes) != 3 || again.notes[2] != note(9) {
			t.Fatalf("cut at %d: the next record is lost: %v", cut, err)
		}
	}
}

// Damage before the end, a record taken out, two exchanged: found, reported, and
// kept aside.
func TestDamagedReleases(t *testing.T) {
	n := recordNode(t)
	content := recordReleases(t, n, 3)
	size := len(content) / 3
	a, b, c := content[:size], content[size:2*size], content[2*size:]
	changed := bytes.Clone(content)
	changed[size/2] ^= 1
	for name, damaged := range map[string][]byte{
		"a changed bit": changed, "the first is missing": slices.Concat(b, c), "two exchanged": slices.Concat(b, a, c),
	} {
		n.files.write(releaseFile, damaged)
		r, err := newReleaseRoom(n)
		if err != nil || r.trouble == nil {
			t.Errorf("%s: not reported: %v", name, err)
			continue
		}
		if aside, _ := n.files.read(releaseAside); !bytes.Equal(aside, damaged) {
			t.Errorf("%s: not kept aside", name)
		}
		if again, err := newReleaseRoom(n); err != nil || again.trouble == nil {
			t.Errorf("%s: forgotten at the next start: %v", name, err)
		}
		if err := r.record(note(9)); err != nil {
			t.Errorf("%s: nothing can be recorded any more: %v", name, err)
		}
	}
}

// An append that fails half way is mended before the next one.
func TestReleaseAppendFails(t *testing.T) {
	n := recordNode(t)
	content := recordReleases(t, n, 2)
	r, err := newReleaseRoom(n)
	if err != nil {
		t.Fatal(err)
	}
	n.files = &failingAppend{files: n.files}
	if err := r.record(note(7)); err == nil {
		t.Fatal("a failed append is no error")
	}
	if err := r.record(note(7)); err != nil {
		t.Fatal(err)
	}
	again, err := newReleaseRoom(n)
	if err != nil || len(again.notes) != 3 || again.trouble != nil {
		t.Errorf("%d records, %v, %v (of %d bytes before)", len(again.notes), again.trouble, err, len(content))
	}
}

// failingAppend writes half, once.
type failingAppend struct {
	files
	failed bool
}

func (f *failingAppend) append(name string, content []byte) error {
	if f.failed {
		return f.files.append(name, content)
	}
	f.failed = true
	f.files.append(name, content[:len(content)/2])
	return errors.New("disk full")
}

func TestSharingNames(t *testing.T) {
	for file, want := range map[string]bool{
		"shares/1-1": true, "shares/12-3": true, "shares/1": false, "shares/01-1": false, "shares/1-1.bak": false, "shares/-1-1": false, "1-1": false,
	} {
		if _, ok := parseSharingName(file); ok != want {
			t.Errorf("%q: %v, want %v", file, ok, want)
		}
	}
}

func FuzzPins(f *testing.F) {
	set, _ := operatorSet(f, dkek.ClusterID{1})
	seed, _ := wireEncoder.Marshal(pinRecord{Sets: []fsm.OperatorSet{set}})
	f.Add(seed)
	f.Fuzz(func(t *testing.T, plain []byte) {
		sets, err := parsePins(plain)
		if err == nil && len(sets) == 0 {
			t.Error("no set and no error")
		}
	})
}

func FuzzReleases(f *testing.F) {
	n := recordNode(f)
	r, err := newReleaseRoom(n)
	if err != nil {
		f.Fatal(err)
	}
	if err := r.record(note(1)); err != nil {
		f.Fatal(err)
	}
	seed, _ := n.files.read(releaseFile)
	f.Add(seed)
	f.Add([]byte{0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, content []byte) {
		if _, whole, _ := parseReleases(r.box, n.id, content); whole > len(content) {
			t.Error("more is whole than there is")
		}
	})
}

func FuzzProof(f *testing.F) {
	seed, _ := wireEncoder.Marshal(proofRecord{Format: 1, Reports: []fsm.Signed{{}}, Public: []proofKey{{}}})
	f.Add(seed)
	f.Fuzz(func(t *testing.T, content []byte) {
		if proof, err := parseProof(content); err == nil {
			proof.verify()
		}
	})
}
