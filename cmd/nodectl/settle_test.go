package main

import (
	"slices"
	"testing"

	"github.com/keycustodian/keycustodian/node/api"
)

// A ceremony is waited for until status would advise nothing that was just done: a
// second after a device was filled its node may still say that it is blank.
func TestSettled(t *testing.T) {
	const id = "0123"
	status := func(change func(*api.Status)) api.Status {
		st := api.Status{
			DKEK: api.DKEK{State: "proven", KCV: "k", Epoch: 2, Holders: []api.ShareHolder{
				{Name: "node-1", Reachable: true, Share: &api.ShareHealth{Epoch: 2, OK: true}}, {Name: "node-2"}}},
			Members: []api.Member{{ID: id, Name: "node-1", Reachable: true, State: api.StateOpen}},
			Devices: []api.Device{{Node: id, KCV: "k", Restored: &api.Restored{Total: 3}}}, Keys: api.KeyCounts{Versions: 3},
		}
		change(&st)
		return st
	}
	for _, test := range []struct {
		name   string
		change func(*api.Status)
		want   []string
	}{
		{"all is reported", func(*api.Status) {}, nil},
		{"no DKEK", func(st *api.Status) { st.DKEK = api.DKEK{State: "none"} }, nil},
		{"no share", func(st *api.Status) { st.DKEK.Holders[0].Share = nil }, []string{"the share of node-1"}},
		{"a share of before", func(st *api.Status) { st.DKEK.Holders[0].Share.Epoch = 1 }, []string{"the share of node-1"}},
		{"a blank device", func(st *api.Status) { st.Devices[0].KCV = "" }, []string{"the device of node-1"}},
		{"no device", func(st *api.Status) { st.Devices = nil }, []string{"the device of node-1"}},
		{"still unready", func(st *api.Status) { st.Members[0].State = api.StateUnready }, []string{"the device of node-1"}},
		{"no count of keys", func(st *api.Status) { st.Devices[0].Restored.Total = 0 }, []string{"the device of node-1"}},
		{"one that does not answer", func(st *api.Status) { st.Members[0].Reachable, st.Devices = false, nil }, nil},
	} {
		if got := unreported(status(test.change), []string{id}); !slices.Equal(got, test.want) {
			t.Errorf("%s: waits for %q, not %q", test.name, got, test.want)
		}
	}
}
