package node

import (
	"bytes"
	"testing"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// A share opens only for what it was released for: each part of that changes the
// transcript that it is sealed with.
func TestTranscriptNamesAllOfIt(t *testing.T) {
	type release struct {
		approved
		purpose           fsm.ReleasePurpose
		holder, recipient dkek.NodeID
		about             dkek.Hash
	}
	transcript := func(change func(r *release)) []byte {
		r := &release{approved: approved{open: &fsm.Open{}}, purpose: fsm.ReleaseGather}
		change(r)
		b, err := r.transcript(r.purpose, r.holder, r.recipient, r.about)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	plain := transcript(func(*release) {})
	for name, change := range map[string]func(r *release){
		"cluster":     func(r *release) { r.open.Cluster[0]++ },
		"incarnation": func(r *release) { r.open.Incarnation++ },
		"ceremony":    func(r *release) { r.open.Ceremony[0]++ },
		"Open":        func(r *release) { r.hash[0]++ },
		"approvals":   func(r *release) { r.by[0]++ },
		"purpose":     func(r *release) { r.purpose = fsm.ReleaseDeal },
		"holder":      func(r *release) { r.holder[0]++ },
		"recipient":   func(r *release) { r.recipient[0]++ },
		"sharing":     func(r *release) { r.about[0]++ },
	} {
		if bytes.Equal(transcript(change), plain) {
			t.Errorf("another %s has the same transcript", name)
		}
	}
}
