package node_test

import (
	"crypto/rand"
	"encoding/hex"
	"iter"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// Audit records are in a file long before the state forgets them, and the file
// alone is enough to compute the chain again.
func TestAuditOutlivesTheState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 1, nodetest.Options{Blank: true})
		m, who := c.Members[0], c.Operators[0].Public().Fingerprint()
		for head, _ := m.View().AuditHead(); head < 2010; head, _ = m.View().AuditHead() {
			var f dkek.Fingerprint
			rand.Read(f[:])
			for _, body := range []fsm.Body{
				&fsm.TokenCreate{Fingerprint: f, Name: "t", Expires: m.Now().Add(time.Hour).UnixMilli()}, &fsm.TokenRemove{Fingerprint: f},
			} {
				if err := m.ProposeAs(t.Context(), who, body); err != nil {
					t.Fatal(err)
				}
			}
		}
		c.Eventually("two files are written", func() bool { return len(m.WrittenAudit(5000, 0, 5000)) == 2000 })
		m.Restart()
		c.Leader()
		records := m.WrittenAudit(1501, 600, 5000)
		if len(records) != 900 || records[0].Seq != 601 || records[899].Seq != 1500 {
			t.Fatalf("%d records from %d on", len(records), records[0].Seq)
		}
		if page := m.WrittenAudit(1501, 990, 20); len(page) != 20 || page[19].Seq != 1010 {
			t.Errorf("a page over the end of a file: %v", page)
		}
		var last dkek.Hash
		for r := range m.View().Audit(1500) {
			last = r.Hash
			break
		}
		head, err := fsm.VerifyAudit(dkek.Hash{}, fromWire(t, m.WrittenAudit(1501, 0, 5000)))
		if err != nil || head != last {
			t.Errorf("the chain ends in %s, want %s: %v", head, last, err)
		}
	})
}

// fromWire makes the state's records of the API's.
func fromWire(t *testing.T, records []api.AuditRecord) iter.Seq[*fsm.AuditRecord] {
	return func(yield func(*fsm.AuditRecord) bool) {
		var previous dkek.Hash
		for _, r := range records {
			out := &fsm.AuditRecord{
				Seq: r.Seq, Index: r.Index, Time: r.At.UnixMilli(), Action: strings.ReplaceAll(r.Action, ".", " "),
				Target: r.Target, Detail: r.Detail, Previous: previous,
			}
			for text, to := range map[string][]byte{r.Actor: out.Actor.Who[:], r.Node: out.Actor.Node[:], r.Hash: out.Hash[:]} {
				raw, err := hex.DecodeString(text)
				if err != nil || copy(to, raw) != len(to) {
					t.Fatalf("%q: %v", text, err)
				}
			}
			previous = out.Hash
			if !yield(out) {
				return
			}
		}
	}
}
