package fsm_test

import (
	"fmt"
	"testing"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// A new holder that reports again and again, each time of another device or another
// quorum, keeps nobody else from reporting: not in its ceremony, and not about the
// sharing later.
func TestOneNodeCannotFillTheReports(t *testing.T) {
	l := ready(t, 7)
	a, b, liar := l.nodes[0], l.nodes[1], l.nodes[2]
	o := l.reshareOpen(4)
	l.addRecipients(o, l.nodes...)
	l.openApproved(o)
	l.deal(o)
	s, _ := l.machine.State().Sharing(o.Plan.Epoch, o.Plan.Attempt)
	quorums := dkek.ProofQuorums(o.Plan)
	report := func(quorum []dkek.NodeID, serial string) {
		signed := l.sign(liar, fsm.DomainReport, &fsm.ReportStatement{Cluster: cluster, Ceremony: o.Ceremony, Sharing: s.Hash, Node: liar.id,
			Quorum: quorum, KCV: labKCV, DeviceKind: "soft", DeviceSerial: serial})
		l.apply(l.as(liar, liar, &fsm.DeviceProof{Signed: signed}))
	}
	for i := range fsm.MaxProofs + 1 {
		report(quorums[0], fmt.Sprint(i))
	}
	var all []dkek.NodeID
	for _, h := range o.Plan.Holders {
		all = append(all, h.Node)
	}
	for first := range 4 { // every quorum of four of seven
		for second := first + 1; second < 5; second++ {
			for third := second + 1; third < 6; third++ {
				for fourth := third + 1; fourth < 7; fourth++ {
					report([]dkek.NodeID{all[first], all[second], all[third], all[fourth]}, "one")
				}
			}
		}
	}
	if c, _ := l.machine.State().Ceremony(o.Ceremony); len(c.Reports) > fsm.MaxReports {
		t.Errorf("one node has %d reports", len(c.Reports))
	}
	for _, p := range l.nodes {
		for _, q := range quorums {
			if p.id != liar.id {
				l.self(p, l.proof(o, s, p, q, labKCV))
			}
		}
	}
	l.self(a, l.close(o, a, fsm.OutcomeSuccess))
	now, _ := l.machine.State().Proven()
	p := l.open(fsm.CeremonyProvision, a)
	l.addRecipients(p, b)
	l.openApproved(p)
	l.self(b, l.proof(p, now, b, quorums[0], labKCV))
}
