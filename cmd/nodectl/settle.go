package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
)

// reportTime is how long a ceremony that has ended well is waited for once more,
// until the nodes concerned have reported what they have now.
const reportTime = 5 * time.Second

// settle waits until a node's status shows what a ceremony has brought: nodes look
// at their devices and shares, and report them, a moment after it has ended. Until
// then status would advise what was just done. That it takes longer is no failure.
func (s *session) settle(ctx context.Context, c api.Ceremony) {
	targets := filledBy(c)
	done := s.app.busy("waiting for the nodes' reports")
	var missing []string
	for began := time.Now(); ; {
		var st api.Status
		if _, err := s.Do(ctx, api.ClusterStatus, nil, &st); err != nil {
			break
		}
		if missing = unreported(st, targets); len(missing) == 0 || time.Since(began) > reportTime {
			break
		}
		if pause(ctx, 100*time.Millisecond) != nil {
			break
		}
	}
	done()
	if len(missing) > 0 {
		s.app.say("note: not reported yet: %s; nodectl cluster status says when they are", strings.Join(missing, ", "))
	}
}

// filledBy are the IDs of the nodes whose own devices a ceremony fills.
func filledBy(c api.Ceremony) []string {
	open, err := fsm.ParseOpen(c.Open)
	if err != nil || open.Kind != fsm.CeremonyCreate && open.Kind != fsm.CeremonyProvision {
		return nil
	}
	recipients, err := recipientsOf(open)
	if err != nil {
		return nil
	}
	var ids []string
	for _, r := range recipients {
		ids = append(ids, r.Node.Node.String())
	}
	return ids
}

// unreported names what the nodes that answer have yet to report: their shares of
// the sharing in force, and the devices that were filled.
func unreported(st api.Status, targets []string) []string {
	if st.DKEK.State != "proven" {
		return nil // this node has yet to hear of it, or it is over
	}
	var missing []string
	for _, h := range st.DKEK.Holders {
		if h.Reachable && (h.Share == nil || h.Share.Epoch != st.DKEK.Epoch) {
			missing = append(missing, "the share of "+h.Name)
		}
	}
	for _, id := range targets {
		m := slices.IndexFunc(st.Members, func(m api.Member) bool { return m.ID == id && m.Reachable })
		d := slices.IndexFunc(st.Devices, func(d api.Device) bool { return d.Node == id })
		if m >= 0 && (d < 0 || !filled(st, st.Members[m], st.Devices[d])) {
			missing = append(missing, "the device of "+st.Members[m].Name)
		}
	}
	return missing
}

// filled reports whether a member says of its device that it has the DKEK, and how
// many keys go into it.
func filled(st api.Status, m api.Member, d api.Device) bool {
	counted := st.Keys.Versions == 0 || d.Restored != nil && d.Restored.Total > 0
	return d.KCV == st.DKEK.KCV && m.State != api.StateUnready && counted
}
