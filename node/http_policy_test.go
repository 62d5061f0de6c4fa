package node_test

import (
	"encoding/hex"
	"net/http"
	"reflect"
	"testing"
	"testing/synctest"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// The policy changes by what operators signed, and holds from then on.
func TestPolicyIsGoverned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		b, m := browse(t, c, c.Operators[0].Key), c.Members[1]
		before := read[api.Policy](t, b.get(m, "/v1/policy"))
		if want := (api.Policy{Copies: 1, StaleForSeconds: 3600, DeleteAfterSeconds: 7 * 24 * 3600, Legacy: []string{}}); !reflect.DeepEqual(before, want) {
			t.Fatalf("at first %+v, want %+v", before, want)
		}
		// Whoever may delete keys must be able to see how long that waits.
		user := addClient(t, c, b, api.User)
		c.Eventually("a user reads it", func() bool { return reflect.DeepEqual(read[api.Policy](t, user.get(m, "/v1/policy")), before) })
		weak := api.KeyCreateRequest{Name: "old", Type: "rsa-1024", Legacy: true}
		wantCode(t, b.post(m, "/v1/keys", weak), api.CodeNotAllowed)

		after := api.Policy{Copies: 2, DeleteAfterSeconds: 60, Threshold: 3, Legacy: []string{"rsa-1024", "rsa-1024"}}
		change := api.GovernRequest{Number: 1, Policy: &after}
		for name, spoil := range map[string]func(*api.Policy){
			"copies": func(p *api.Policy) { p.Copies = 0 }, "many copies": func(p *api.Policy) { p.Copies = 1 << 40 },
			"stale": func(p *api.Policy) { p.StaleForSeconds = -1 }, "stale overflow": func(p *api.Policy) { p.StaleForSeconds = 1 << 60 },
			"wait": func(p *api.Policy) { p.DeleteAfterSeconds = 0 }, "wait overflow": func(p *api.Policy) { p.DeleteAfterSeconds = 1 << 60 },
			"threshold": func(p *api.Policy) { p.Threshold = -1 },
			"unknown":   func(p *api.Policy) { p.Legacy = []string{"rsa-512"} }, "not legacy": func(p *api.Policy) { p.Legacy = []string{"ed25519"} },
		} {
			bad := after
			spoil(&bad)
			if r := b.post(m, "/v1/operators/govern", api.GovernRequest{Number: 1, Policy: &bad}); r.status != http.StatusBadRequest || r.failure().Code != api.CodeBadRequest {
				t.Errorf("%s: %d %s", name, r.status, r.body)
			}
		}
		opened := read[api.Ceremony](t, b.post(m, "/v1/operators/govern", change))
		var id fsm.CeremonyID
		if _, err := hex.Decode(id[:], []byte(opened.ID)); err != nil {
			t.Fatal(err)
		}
		c.Approve(id, 1)
		c.Done(id)
		after.Legacy = after.Legacy[:1]
		c.Eventually("the policy is in force", func() bool { return reflect.DeepEqual(read[api.Policy](t, b.get(m, "/v1/policy")), after) })
		c.Eventually("every member has pinned the set", func() bool {
			return read[api.OperatorSet](t, b.get(m, "/v1/operators")).Number == 2
		})

		made := read[api.Key](t, b.post(m, "/v1/keys", weak))
		if made.Copies != 2 || len(made.Versions[0].HeldBy) < 2 {
			t.Errorf("made under the policy: %+v", made)
		}
		wantCode(t, b.post(m, "/v1/keys", api.KeyCreateRequest{Name: "weaker", Type: "ecdsa-p192", Legacy: true}), api.CodeNotAllowed)
		wantCode(t, b.post(m, "/v1/operators/govern", change), api.CodeConflict) // of set 1
	})
}
