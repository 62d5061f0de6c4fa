package dkek_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/internal/secret"
)

func TestPlanRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*dkek.Plan)
	}{
		{"no cluster", func(p *dkek.Plan) { p.Cluster = dkek.ClusterID{} }},
		{"epoch 0", func(p *dkek.Plan) { p.Epoch = 0 }},
		{"attempt 0", func(p *dkek.Plan) { p.Attempt = 0 }},
		{"threshold 0", func(p *dkek.Plan) { p.Threshold = 0 }},
		{"threshold below 0", func(p *dkek.Plan) { p.Threshold = -1 }},
		{"threshold over n", func(p *dkek.Plan) { p.Threshold = 4 }},
		{"threshold 1 that claims to be dealt", func(p *dkek.Plan) { p.Threshold = 1 }},
		{"single that was never one", func(p *dkek.Plan) { p.Origin = dkek.Single }},
		{"unknown origin", func(p *dkek.Plan) { p.Origin = "found" }},
		{"no holders", func(p *dkek.Plan) { p.Holders = nil }},
		{"too many holders", func(p *dkek.Plan) { p.Holders, p.Dealers = nodes(upTo(16)...), nodes(upTo(16)...) }},
		{"holder twice", func(p *dkek.Plan) { p.Holders = nodes(1, 2, 2) }},
		{"holders out of order", func(p *dkek.Plan) { p.Holders = nodes(2, 1, 3) }},
		{"holder without an ID", func(p *dkek.Plan) { p.Holders[0].Node = dkek.NodeID{} }},
		{"holder without a key", func(p *dkek.Plan) { p.Holders[1].Fingerprint = dkek.Fingerprint{} }},
		{"two nodes, one key", func(p *dkek.Plan) { p.Holders[1].Fingerprint = p.Holders[0].Fingerprint }},
		{"no dealers", func(p *dkek.Plan) { p.Dealers = nil }},
		{"a dealer short at the first dealing", func(p *dkek.Plan) { p.Dealers = p.Dealers[:2] }},
		{"one node, two keys", func(p *dkek.Plan) { p.Origin = dkek.Imported; p.Dealers[0].Fingerprint[0]++ }},
		{"reshare to an unknown DKEK", func(p *dkek.Plan) { p.Previous[0]++ }},
		{"check value of a DKEK to come", func(p *dkek.Plan) { p.KCV[0]++ }},
	} {
		t.Run(c.name, func(t *testing.T) {
			plan := firstPlan(3, 2)
			c.change(plan)
			if err := plan.Validate(); !errors.Is(err, dkek.ErrPlan) {
				t.Fatalf("accepted: %v", err)
			}
			if _, err := dkek.Deal(plan, id(1), nil); err == nil {
				t.Fatal("dealt for such a plan")
			}
		})
	}
}

func TestReshareMustFollow(t *testing.T) {
	s := deal(t, firstPlan(4, 2), nil)
	kcv := dkek.KCVOf(s.combine(t, ids(nodes(1, 2))))
	for _, c := range []struct {
		name   string
		change func(*dkek.Plan)
	}{
		{"other cluster", func(p *dkek.Plan) { p.Cluster[0]++ }},
		{"other sharing before", func(p *dkek.Plan) { p.Previous[0]++ }},
		{"same epoch", func(p *dkek.Plan) { p.Epoch = 1 }},
		{"other check value", func(p *dkek.Plan) { p.KCV[0]++ }},
		{"other origin", func(p *dkek.Plan) { p.Origin = dkek.Imported }},
		{"a dealer too few", func(p *dkek.Plan) { p.Dealers = nodes(1) }},
		{"a dealer too many", func(p *dkek.Plan) { p.Dealers = nodes(1, 2, 3) }},
		{"a dealer that was no holder", func(p *dkek.Plan) { p.Dealers = nodes(1, 9) }},
		{"a dealer in a holder's place", func(p *dkek.Plan) { p.Dealers, p.Holders = nodes(1, 4), nodes(1, 2, 3); p.Dealers[1].Node[15]++ }},
		{"a plan that contradicts itself", func(p *dkek.Plan) { p.Attempt = 0 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			plan, _ := s.resharePlan(t, nodes(1, 2), nodes(1, 2, 3, 5), 2)
			c.change(plan)
			if err := plan.Follows(s.Sharing, kcv); !errors.Is(err, dkek.ErrPlan) {
				t.Fatalf("accepted: %v", err)
			}
		})
	}
}

// A holder whose key was rotated since it got its share deals as before.
func TestDealerWithANewKey(t *testing.T) {
	s := deal(t, firstPlan(4, 2), nil)
	dealers := nodes(1, 4)
	dealers[1].Fingerprint[0]++
	next := s.reshare(t, dealers, nodes(1, 2, 3), 2)
	if !next.combine(t, ids(nodes(2, 3))).Equal(s.combine(t, ids(nodes(1, 2)))) {
		t.Error("another DKEK")
	}
}

// What is dealt is what the origin says: drawn by Deal itself at a create, and
// given by the caller at a reshare or import.
func TestDealRefusesTheWrongSecret(t *testing.T) {
	plan := firstPlan(3, 2)
	if _, err := dkek.Deal(plan, id(1), secret.Random(dkek.Size)); err == nil {
		t.Error("origin dealt, yet the secret was given")
	}
	_, err := dkek.Deal(plan, id(9), nil)
	refused(t, err, dkek.NotHolder, nobody, id(9))
	plan.Origin = dkek.Imported
	if _, err := dkek.Deal(plan, id(1), nil); err == nil {
		t.Error("an import of nothing")
	}
	_, err = dkek.Deal(plan, id(1), secret.Random(31))
	refused(t, err, dkek.BadLength, nobody, id(1))
	s := deal(t, firstPlan(3, 2), nil)
	next, _ := s.resharePlan(t, nodes(1, 2), nodes(1, 2, 3), 2)
	if _, err := dkek.Deal(next, id(1), nil); err == nil {
		t.Error("a reshare of nothing")
	}
}

// Two dealings for one plan share nothing: salts, polynomials, secrets.
func TestDealingsAreFresh(t *testing.T) {
	a, b := deal(t, firstPlan(2, 2), nil), deal(t, firstPlan(2, 2), nil)
	if a.combine(t, ids(nodes(1, 2))).Equal(b.combine(t, ids(nodes(1, 2)))) {
		t.Fatal("the same DKEK twice")
	}
	data := a.open(t, id(1))
	if bytes.Equal(data[33:49], data[82:98]) {
		t.Fatal("the same salt twice")
	}
}

func TestParseSharing(t *testing.T) {
	s := deal(t, firstPlan(15, 8), nil)
	data, err := s.Encode()
	check(t, err)
	parsed, err := dkek.ParseSharing(data)
	check(t, err)
	if parsed.Hash() != s.Hash() {
		t.Fatal("another hash after a round trip")
	}
	if len(data) > 16<<10 {
		t.Fatalf("the largest sharing has %d bytes", len(data))
	}
	for _, c := range []struct {
		name   string
		data   []byte
		reason dkek.Reason
	}{
		{"empty", nil, dkek.BadFormat},
		{"trailing byte", append(bytes.Clone(data), 0), dkek.BadFormat},
		{"cut", data[:len(data)-1], dkek.BadFormat},
		{"oversize", make([]byte, 1<<20), dkek.BadLength},
		{"unknown field", append([]byte{0xa3}, append(bytes.Clone(data[1:]), 0x03, 0x00)...), dkek.BadFormat},
		{"field twice", append([]byte{0xa3}, append(bytes.Clone(data[1:]), 0x02, 0x80)...), dkek.BadFormat},
		{"longer key than needed", append([]byte{0xa2, 0x18, 0x01}, data[2:]...), dkek.BadFormat},
		{"indefinite length", append(append([]byte{0xbf}, data[1:]...), 0xff), dkek.BadFormat},
		{"tagged", append([]byte{0xc1}, data...), dkek.BadFormat},
		{"short cluster", bytes.Replace(data, append([]byte{0x50}, s.Plan.Cluster[:]...), append([]byte{0x4f}, s.Plan.Cluster[:15]...), 1), dkek.BadFormat},
		{"null", []byte{0xf6}, dkek.BadFormat},
	} {
		if _, err := dkek.ParseSharing(c.data); !errors.Is(err, c.reason) {
			t.Errorf("%s: %v, want %q", c.name, err, c.reason)
		}
	}
	// What is well formed is still validated.
	bad := changed(s, func(p *dkek.Plan) { p.Epoch = 0 })
	data, err = bad.Encode()
	check(t, err)
	if _, err := dkek.ParseSharing(data); !errors.Is(err, dkek.ErrPlan) {
		t.Errorf("epoch 0: %v", err)
	}
}
