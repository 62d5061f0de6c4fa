package node_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/nodetest"
	"github.com/keycustodian/keycustodian/transport"
)

// callTime bounds a request of a fuzzer, also one that waits for something.
const callTime = time.Second

// fuzzed is a cluster with two keys.
func fuzzed(f *testing.F, members int) *nodetest.Cluster {
	c := nodetest.Start(f, members)
	for name, kind := range map[string]hsm.KeyType{"k": hsm.ECDSAP256, "a": hsm.AES128} {
		if _, err := c.Leader().CreateKey(f.Context(), node.KeySpec{Name: name, Type: kind}); err != nil {
			f.Fatal(err)
		}
	}
	return c
}

// FuzzPeerCalls: whatever one member, or somebody who joins, sends to another one's
// methods, it gets an answer or a refusal with a code: no connection is cut, and
// the other goes on. The last method is to join.
func FuzzPeerCalls(f *testing.F) {
	c := fuzzed(f, 2)
	from, to := c.Follower(), c.Leader()
	all := node.PeerMethods()
	methods := slices.Sorted(maps.Keys(all))
	for i, method := range methods {
		for _, seed := range all[method] {
			f.Add(i, node.Encoded(seed))
		}
	}
	f.Add(len(methods), to.JoinSeed())
	f.Add(0, []byte{0x9f, 0xff})
	f.Fuzz(func(t *testing.T, i int, body []byte) {
		if i < 0 || i > len(methods) {
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), callTime)
		defer cancel()
		var answer []byte
		var err error
		if i == len(methods) {
			if answer, err = to.AnswerJoin(ctx, body); err == nil {
				t.Fatalf("%x: a joiner without a token was let in", body)
			}
		} else {
			answer, err = from.CallWith(ctx, to.Node, methods[i], body)
		}
		if len(answer) > transport.MaxBody {
			t.Fatalf("an answer of %d bytes", len(answer))
		}
		var remote *transport.RemoteError
		if i < len(methods) && err != nil && ctx.Err() == nil && (!errors.As(err, &remote) || remote.Code == "") {
			t.Fatalf("%s of %x: %v", methods[i], body, err)
		}
		if remote != nil && remote.Code == transport.CodeUnknownMethod {
			t.Fatalf("%s is not answered: %v", methods[i], err)
		}
	})
}

// FuzzAPI: whatever is sent to any route, by one whom it lets in, is answered by
// what the document says or refused with a code that is a caller's fault.
func FuzzAPI(f *testing.F) {
	c := fuzzed(f, 1)
	m, operator := c.Members[0], c.Operators[0].Public().Fingerprint()
	routes := api.Routes()
	for i, route := range routes {
		switch {
		case route.Request != nil:
			seed, err := json.Marshal(route.Request)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(i, "", seed)
			f.Add(i, "", []byte(`{"key":"k","name":"k","node":"node-0","id":"00000000000000000000000000000001","inputs":[null]}`))
		case route.Query != nil:
			f.Add(i, api.EncodeQuery(route.Query).Encode(), []byte{})
			f.Add(i, "key=k&id=00&limit=1&after=18446744073709551615&bytes=1&wait=1", []byte{})
		default:
			f.Add(i, "", []byte{0, 1, '1', 0, 1, '2'})
		}
	}
	f.Add(slices.IndexFunc(routes, func(r api.Route) bool { return r.Name == api.KeySign }), "", []byte(`{"key":"k@1","hash":"sha256","inputs":["AA=="]}`))
	f.Add(slices.IndexFunc(routes, func(r api.Route) bool { return r.Name == api.KeyDecrypt }), "", []byte(`{"key":"a","ciphertext":"AA==","scheme":"x"}`))
	f.Fuzz(func(t *testing.T, i int, query string, body []byte) {
		if i < 0 || i >= len(routes) {
			return
		}
		route := routes[i]
		if route.Name == api.MemberLeave || route.Name == api.ClusterRotate || len(route.Who) == 0 {
			return // the one would end what is tested, the other is not repeated
		}
		ctx, cancel := context.WithTimeout(t.Context(), callTime)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, route.Method, "https://"+m.Addr()+route.Path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.URL.RawQuery = query
		r.Header.Set("Content-Type", api.TypeJSON)
		if route.Secrets != nil {
			r.Header.Set("Content-Type", api.TypeSecrets)
		}
		r.Header.Set(api.HeaderRequest, newRequest())
		w := httptest.NewRecorder()
		m.AnswerAPI(w, r, route.Who[0], operator)
		if w.Code/100 != 2 && w.Code != http.StatusServiceUnavailable {
			said := reply{body: w.Body.Bytes()}.failure()
			if said.Code == "" || said.Code.Status() != w.Code || said.Code == api.CodeInternal {
				t.Fatalf("%s?%s %q: %d %s", route.Name, query, body, w.Code, w.Body)
			}
			return
		}
		if route.Response == nil || w.Code/100 != 2 {
			return
		}
		decoder := json.NewDecoder(w.Body)
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(reflect.New(reflect.TypeOf(route.Response)).Interface()); err != nil {
			t.Fatalf("%s?%s %q: %v", route.Name, query, body, err)
		}
	})
}
