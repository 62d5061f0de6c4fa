package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/client"
)

// The server is known by its key alone, and knows the caller by its own.
func TestBothSidesAreKeys(t *testing.T) {
	f := start(t, map[string]answer{api.WhoAmI: func(w http.ResponseWriter, r *http.Request) {
		say(api.Identity{Role: api.User})(w, r)
	}})
	key := newKey(t)
	c := dial(t, client.Config{Addresses: []string{f.address()}, Members: []string{f.fingerprint}, Key: key})
	var who api.Identity
	got, err := c.Do(t.Context(), api.WhoAmI, nil, &who)
	if err != nil || who.Role != api.User || got.Node != "n1" || got.StateAge != 1500*time.Millisecond {
		t.Fatalf("%+v, %+v, %v", who, got, err)
	}
	if want, _ := client.KeyFingerprint(key.Public()); f.peers[0] != want {
		t.Error("the server saw another key")
	}
}

func TestStrangerIsNotAsked(t *testing.T) {
	f := start(t, map[string]answer{api.WhoAmI: say(api.Identity{})})
	c := dial(t, client.Config{Addresses: []string{f.address()}, Members: []string{strings.Repeat("0", 64)}})
	_, err := c.Do(t.Context(), api.WhoAmI, nil, nil)
	var pin *client.PinError
	if !errors.As(err, &pin) || pin.Fingerprint.String() != f.fingerprint {
		t.Errorf("%v", err)
	}
	if len(f.calls) != 0 {
		t.Error("a stranger got the request")
	}
}

// The next address is asked after silence, no quorum, and a seal; the request
// ID stays the same.
func TestNextAddress(t *testing.T) {
	for _, code := range []api.Code{api.CodeNoQuorum, api.CodeSealed, api.CodeStale, api.CodeUnavailable} {
		bad := start(t, map[string]answer{api.KeyRotate: refuse(code)})
		good := start(t, map[string]answer{api.KeyRotate: say(api.Key{Newest: 2})})
		c := dial(t, client.Config{Addresses: []string{closed(t), bad.address(), good.address()},
			Members: []string{bad.fingerprint, good.fingerprint}})
		var key api.Key
		if _, err := c.Do(t.Context(), api.KeyRotate, api.KeyRequest{Key: "a"}, &key); err != nil || key.Newest != 2 {
			t.Fatalf("%s: %+v, %v", code, key, err)
		}
		if bad.requests[0] != good.requests[0] || len(good.requests[0]) != 32 {
			t.Errorf("request IDs %v, %v", bad.requests, good.requests)
		}
		c.Do(t.Context(), api.KeyRotate, api.KeyRequest{Key: "a"}, &key)
		if len(bad.calls) != 1 || good.requests[1] == good.requests[0] {
			t.Error("it did not stay with the node that answered, or used an ID twice")
		}
	}
}

// A refusal with a reason is final.
func TestRefusalIsFinal(t *testing.T) {
	bad := start(t, map[string]answer{api.KeyRotate: refuse(api.CodeForbidden)})
	good := start(t, map[string]answer{api.KeyRotate: say(api.Key{})})
	c := dial(t, client.Config{Addresses: []string{bad.address(), good.address()}, Members: []string{bad.fingerprint, good.fingerprint}})
	_, err := c.Do(t.Context(), api.KeyRotate, api.KeyRequest{Key: "a"}, nil)
	if !errors.Is(err, &api.Error{Code: api.CodeForbidden, Message: "refused"}) && !isCode(err, api.CodeForbidden) {
		t.Errorf("%v", err)
	}
	if len(good.calls) != 0 {
		t.Error("another node was asked")
	}
}

func isCode(err error, code api.Code) bool { return errors.Is(err, &api.Error{Code: code}) }

// Where none can help, the reason of the one that answered is the error.
func TestNobodyCanHelp(t *testing.T) {
	bad := start(t, map[string]answer{api.KeyRotate: refuse(api.CodeNoQuorum)})
	c := dial(t, client.Config{Addresses: []string{closed(t), bad.address()}, Members: []string{bad.fingerprint}})
	if _, err := c.Do(t.Context(), api.KeyRotate, api.KeyRequest{}, nil); !isCode(err, api.CodeNoQuorum) {
		t.Errorf("%v", err)
	}
	c = dial(t, client.Config{Addresses: []string{closed(t), closed(t)}, Members: []string{bad.fingerprint}})
	_, err := c.Do(t.Context(), api.KeyRotate, api.KeyRequest{}, nil)
	var silent *client.UnreachableError
	if !errors.As(err, &silent) || len(silent.Tries) != 2 {
		t.Errorf("%v", err)
	}
}

// A caller gives a change its ID to try it again later.
func TestRequestIDOfTheCaller(t *testing.T) {
	f := start(t, map[string]answer{api.KeyRotate: say(api.Key{}), api.KeySign: say(api.SignResponse{})})
	c := dial(t, client.Config{Addresses: []string{f.address()}, Members: []string{f.fingerprint}})
	ctx := client.WithRequestID(t.Context(), [16]byte{0xAB})
	c.Do(ctx, api.KeyRotate, api.KeyRequest{Key: "a"}, nil)
	c.Do(ctx, api.KeySign, api.SignRequest{Key: "a"}, nil)
	if !slices.Equal(f.requests, []string{"ab000000000000000000000000000000", ""}) {
		t.Errorf("%q", f.requests)
	}
}

// A change that may have been made says so, and under which ID: also where the
// next address refuses. What reached nobody, or changes nothing, is no such case.
func TestOutcomeUnknown(t *testing.T) {
	cut := start(t, map[string]answer{api.KeyRotate: hangUp, api.KeyShow: hangUp})
	slow := start(t, map[string]answer{api.KeyRotate: refuse(api.CodeTimeout)})
	alone := start(t, map[string]answer{api.KeyRotate: refuse(api.CodeNoQuorum)})
	ask := func(name string, request any, addresses ...string) (id string, err error) {
		c := dial(t, client.Config{Addresses: addresses, Members: []string{cut.fingerprint, slow.fingerprint, alone.fingerprint}})
		_, err = c.Do(client.WithRequestID(t.Context(), [16]byte{0xAB}), name, request, nil)
		var unknown *client.OutcomeUnknownError
		if errors.As(err, &unknown) {
			return unknown.Request, err
		}
		return "", err
	}
	rotate := api.KeyRequest{Key: "a"}
	for _, c := range []struct {
		what, name string
		request    any
		addresses  []string
		unknown    bool
	}{
		{"cut off", api.KeyRotate, rotate, []string{cut.address()}, true},
		{"cut off, then refused", api.KeyRotate, rotate, []string{cut.address(), alone.address()}, true},
		{"the node does not know", api.KeyRotate, rotate, []string{slow.address()}, true},
		{"refused", api.KeyRotate, rotate, []string{alone.address()}, false},
		{"reached nobody", api.KeyRotate, rotate, []string{closed(t)}, false},
		{"a question", api.KeyShow, api.KeyQuery{Key: "a"}, []string{cut.address()}, false},
	} {
		id, err := ask(c.name, c.request, c.addresses...)
		if err == nil || (id == "ab000000000000000000000000000000") != c.unknown {
			t.Errorf("%s: %q, %v", c.what, id, err)
		}
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	for name, a := range map[string]answer{
		"html": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502); w.Write([]byte("<html>")) },
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/v1/whoami", http.StatusTemporaryRedirect)
		},
		"text":    func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("hello")) },
		"endless": func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 17<<20)) },
	} {
		f := start(t, map[string]answer{api.KeyShow: a, api.WhoAmI: say(api.Identity{})})
		c := dial(t, client.Config{Addresses: []string{f.address()}, Members: []string{f.fingerprint}})
		if _, err := c.Do(t.Context(), api.KeyShow, api.KeyQuery{Key: "a"}, &api.Key{}); err == nil || slices.Contains(f.calls, api.WhoAmI) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestContextEndsACall(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	release := make(chan struct{})
	f := start(t, map[string]answer{api.WhoAmI: func(http.ResponseWriter, *http.Request) { cancel(); <-release }})
	t.Cleanup(func() { close(release) })
	c := dial(t, client.Config{Addresses: []string{f.address()}, Members: []string{f.fingerprint}})
	if _, err := c.Do(ctx, api.WhoAmI, nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func hangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// standingStill takes requests, does what it is to do with the first of them, and
// answers when it is released.
func standingStill(t *testing.T, route string, first func()) (f *fake, release func()) {
	released := make(chan struct{})
	release = sync.OnceFunc(func() { close(released) })
	f = start(t, map[string]answer{
		api.HealthAlive: func(w http.ResponseWriter, r *http.Request) { <-released },
		route: func(w http.ResponseWriter, r *http.Request) {
			first()
			<-released
			say(api.SignResponse{Key: "late", Version: 3})(w, r)
		},
	})
	t.Cleanup(release)
	return f, release
}

// A node that stands still is given up for the next one; one that takes its time
// is not.
func TestSilence(t *testing.T) {
	asked := make(chan struct{})
	var once sync.Once
	still, release := standingStill(t, api.KeyRotate, func() {})
	refusing := start(t, map[string]answer{
		api.HealthAlive: hangUp,
		api.KeyRotate:   still.Config.Handler.ServeHTTP,
	})
	t.Cleanup(release)
	slow := start(t, map[string]answer{
		api.HealthAlive: func(w http.ResponseWriter, r *http.Request) {
			say(api.Health{})(w, r)
			once.Do(func() { close(asked) })
		},
		api.KeyRotate: func(w http.ResponseWriter, r *http.Request) {
			<-asked
			say(api.Key{Newest: 3})(w, r)
		},
	})
	c := dial(t, client.Config{Addresses: []string{still.address(), refusing.address(), slow.address()},
		Members: []string{still.fingerprint, refusing.fingerprint, slow.fingerprint}})
	c.SetPatience(10*time.Millisecond, time.Second) // which a machine that is busy may take for a handshake
	var key api.Key
	if _, err := c.Do(t.Context(), api.KeyRotate, api.KeyRequest{Key: "k"}, &key); err != nil || key.Newest != 3 {
		t.Fatalf("%+v, %v", key, err)
	}
}

// A node that refuses one more connection, as to a key that has all it may have, is
// not one that stands still.
func TestARefusedSignOfLifeIsAskedForAgain(t *testing.T) {
	for _, c := range []struct {
		name    string
		request any
	}{
		{api.KeySign, api.SignRequest{Key: "k"}},
		{api.KeyRotate, api.KeyRequest{Key: "k"}},
	} {
		var refused atomic.Int32
		often := make(chan struct{})
		enough := sync.OnceFunc(func() { close(often) })
		f := start(t, map[string]answer{
			api.HealthAlive: func(w http.ResponseWriter, r *http.Request) {
				if refused.Add(1) == 3 {
					enough()
				}
				hangUp(w, r)
			},
			c.name: func(w http.ResponseWriter, r *http.Request) {
				<-often
				say(struct{}{})(w, r)
			},
		})
		t.Cleanup(enough)
		asker := dial(t, client.Config{Addresses: []string{f.address()}, Members: []string{f.fingerprint}})
		asker.SetPatience(time.Millisecond, time.Hour)
		if _, err := asker.Do(t.Context(), c.name, c.request, nil); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// One question for a sign of life serves all who wait for the node.
func TestASignOfLifeIsShared(t *testing.T) {
	const requests = 16
	still, _ := standingStill(t, api.KeySign, func() {})
	var all sync.WaitGroup // requests that went on to the next node
	all.Add(requests)
	good := start(t, map[string]answer{api.KeySign: func(w http.ResponseWriter, r *http.Request) {
		all.Done()
		all.Wait()
		say(api.SignResponse{Key: "k"})(w, r)
	}})
	c := dial(t, client.Config{Addresses: []string{still.address(), good.address()}, Members: []string{still.fingerprint, good.fingerprint}})
	c.SetPatience(10*time.Millisecond, time.Hour)
	var done sync.WaitGroup
	for range requests {
		done.Go(func() {
			if _, err := c.Do(t.Context(), api.KeySign, api.SignRequest{Key: "k"}, nil); err != nil {
				t.Error(err)
			}
		})
	}
	done.Wait()
	still.mu.Lock()
	defer still.mu.Unlock()
	asked := 0
	for _, name := range still.calls {
		if name == api.HealthAlive {
			asked++
		}
	}
	if asked > 1 {
		t.Errorf("asked for a sign of life %d times", asked)
	}
}

// What changes nothing does not wait until a node that stands still is given up:
// the next one is asked as well, and then stayed with.
func TestAUseLeavesANodeThatIsQuiet(t *testing.T) {
	still, _ := standingStill(t, api.KeySign, func() {})
	good := start(t, map[string]answer{api.KeySign: say(api.SignResponse{Key: "k", Version: 3})})
	c := dial(t, client.Config{Addresses: []string{still.address(), good.address()}, Members: []string{still.fingerprint, good.fingerprint}})
	c.SetPatience(time.Millisecond, time.Hour)
	for range 2 {
		var signed api.SignResponse
		if _, err := c.Do(t.Context(), api.KeySign, api.SignRequest{Key: "k"}, &signed); err != nil || signed.Key != "k" {
			t.Fatalf("%+v, %v", signed, err)
		}
	}
	if n := slices.Index(c.Addresses(), good.address()); n != 0 {
		t.Errorf("the node that answered comes after %d others", n)
	}
}

// A node that was only slow still answers what it was asked.
func TestAQuietNodeMayAnswerYet(t *testing.T) {
	slow, answer := standingStill(t, api.KeySign, func() {})
	still, _ := standingStill(t, api.KeySign, answer)
	c := dial(t, client.Config{Addresses: []string{slow.address(), still.address()}, Members: []string{slow.fingerprint, still.fingerprint}})
	c.SetPatience(time.Millisecond, time.Hour)
	var signed api.SignResponse
	if _, err := c.Do(t.Context(), api.KeySign, api.SignRequest{Key: "k"}, &signed); err != nil || signed.Key != "late" {
		t.Errorf("%+v, %v", signed, err)
	}
}

// What is wrong at one node alone ends nothing while a slow one may still answer, and
// is the error where that does not. What is wrong with the request ends it.
func TestATroubledNodeDoesNotSpeakForASlowOne(t *testing.T) {
	for _, c := range []struct {
		what string
		bad  api.Code
		last answer // of the slow node
		want api.Code
	}{
		{"device", api.CodeDevice, say(api.SignResponse{Key: "late"}), ""},
		{"internal", api.CodeInternal, say(api.SignResponse{Key: "late"}), ""},
		{"no DKEK", api.CodeNoDKEK, say(api.SignResponse{Key: "late"}), ""},
		{"timeout", api.CodeTimeout, say(api.SignResponse{Key: "late"}), ""},
		{"nothing better", api.CodeDevice, hangUp, api.CodeDevice},
		{"nothing better than sealed", api.CodeDevice, refuse(api.CodeSealed), api.CodeDevice},
		{"something better", api.CodeDevice, refuse(api.CodeForbidden), api.CodeForbidden},
		{"the request's fault", api.CodeForbidden, hangUp, api.CodeForbidden},
	} {
		released := make(chan struct{})
		release := sync.OnceFunc(func() { close(released) })
		slow := start(t, map[string]answer{
			api.HealthAlive: func(http.ResponseWriter, *http.Request) { <-released },
			api.KeySign: func(w http.ResponseWriter, r *http.Request) {
				<-released
				c.last(w, r)
			},
		})
		t.Cleanup(release)
		asked := make(chan struct{})
		bad := start(t, map[string]answer{api.KeySign: func(w http.ResponseWriter, r *http.Request) {
			close(asked)
			refuse(c.bad)(w, r)
		}})
		// The next one is asked when the bad one's answer was looked at.
		next := start(t, map[string]answer{api.KeySign: func(w http.ResponseWriter, r *http.Request) {
			<-asked
			release()
			refuse(api.CodeNoQuorum)(w, r)
		}})
		asker := dial(t, client.Config{Addresses: []string{slow.address(), bad.address(), next.address()},
			Members: []string{slow.fingerprint, bad.fingerprint, next.fingerprint}})
		asker.SetPatience(50*time.Millisecond, time.Hour)
		var signed api.SignResponse
		_, err := asker.Do(t.Context(), api.KeySign, api.SignRequest{Key: "k"}, &signed)
		if c.want == "" && (err != nil || signed.Key != "late") || c.want != "" && !isCode(err, c.want) {
			t.Errorf("%s: %+v, %v", c.what, signed, err)
		}
		if first := asker.Addresses()[0]; c.bad != api.CodeForbidden && first != slow.address() {
			t.Errorf("%s: the next request does not begin at the slow node", c.what)
		}
	}
}

// A sign of life that came over a connection of its own does not make it doubtful what
// became of a change that never had one.
func TestASignOfLifeIsNoConnection(t *testing.T) {
	held := make(chan net.Conn, 1)
	f := start(t, map[string]answer{api.HealthAlive: func(http.ResponseWriter, *http.Request) {
		(<-held).Close()
	}})
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { front.Close() })
	go func() {
		conn, err := front.Accept()
		if err != nil {
			return
		}
		held <- conn // gets no handshake
		if conn, err = front.Accept(); err != nil {
			return
		}
		behind, err := net.Dial("tcp", f.address())
		if err != nil {
			conn.Close()
			return
		}
		go io.Copy(behind, conn)
		io.Copy(conn, behind)
	}()
	c := dial(t, client.Config{Addresses: []string{front.Addr().String()}, Members: []string{f.fingerprint}})
	c.SetPatience(time.Millisecond, time.Hour)
	var unknown *client.OutcomeUnknownError
	if _, err := c.Do(t.Context(), api.KeyRotate, api.KeyRequest{Key: "a"}, nil); err == nil || errors.As(err, &unknown) {
		t.Errorf("%v", err)
	}
}

// Refresh follows the cluster, and only the right one.
func TestRefresh(t *testing.T) {
	old := start(t, nil)
	next := start(t, map[string]answer{api.WhoAmI: say(api.Identity{Role: api.Auditor})})
	cluster := api.Cluster{ID: strings.Repeat("a", 32), Members: []api.Endpoint{{Address: next.address(), Fingerprint: next.fingerprint}}}
	old.Config.Handler = old.handler(map[string]answer{api.ClusterShow: say(cluster)})
	c := dial(t, client.Config{Addresses: []string{old.address()}, Members: []string{old.fingerprint}, Cluster: cluster.ID})
	if _, err := c.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Do(t.Context(), api.WhoAmI, nil, nil); err != nil || len(next.calls) != 1 {
		t.Errorf("the new member was not asked: %v", err)
	}
	c = dial(t, client.Config{Addresses: []string{old.address()}, Members: []string{old.fingerprint}, Cluster: strings.Repeat("b", 32)})
	if _, err := c.Refresh(t.Context()); err == nil {
		t.Error("another cluster was believed")
	}
}

func TestWrongTypesAreRefusedHere(t *testing.T) {
	c := dial(t, client.Config{Addresses: []string{closed(t)}, Members: []string{strings.Repeat("0", 64)}})
	for _, bad := range []func() error{
		func() error { _, err := c.Do(t.Context(), "no.such", nil, nil); return err },
		func() error { _, err := c.Do(t.Context(), api.KeySign, api.MACRequest{}, nil); return err },
		func() error { _, err := c.Do(t.Context(), api.KeySign, nil, nil); return err },
		func() error { _, err := c.Do(t.Context(), api.SecretPIN, nil, nil); return err },
		func() error { _, err := c.Enter(t.Context(), api.SecretPIN, nil, []byte("648219")); return err },
	} {
		var silent *client.UnreachableError
		if err := bad(); err == nil || errors.As(err, &silent) {
			t.Errorf("%v", err)
		}
	}
	for _, config := range []client.Config{
		{}, {Addresses: []string{"a:1"}}, {Addresses: []string{"nohost"}, Members: []string{strings.Repeat("0", 64)}},
		{Addresses: []string{"a:1"}, Members: []string{"abc"}}, {Addresses: []string{"unix:"}}, {Addresses: []string{"unix:/a", "b:1"}},
	} {
		if _, err := client.New(config); err == nil {
			t.Errorf("%+v was accepted", config)
		}
	}
}

// A PIN goes over the socket once, even where the connection breaks.
func TestPINIsSentOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex // over bodies and fail
	var bodies [][][]byte
	fail := true
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/secret/pin", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		secrets, err := api.ReadSecrets(r.Body, 1)
		if err != nil {
			t.Error(err)
		}
		bodies = append(bodies, secrets)
		if fail {
			panic(http.ErrAbortHandler)
		}
		json.NewEncoder(w).Encode(api.Health{Ready: true})
	})
	server := &http.Server{Handler: mux}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	c := dial(t, client.Config{Addresses: []string{"unix:" + path}})
	_, err = c.Enter(t.Context(), api.SecretPIN, nil, []byte("648219"))
	mu.Lock()
	if err == nil || len(bodies) != 1 {
		t.Errorf("%v, sent %d times", err, len(bodies))
	}
	fail = false
	mu.Unlock()
	var health api.Health
	_, err = c.Enter(t.Context(), api.SecretPIN, &health, []byte("648219"))
	mu.Lock()
	defer mu.Unlock()
	if err != nil || !health.Ready || !bytes.Equal(bodies[1][0], []byte("648219")) {
		t.Errorf("%v, %+v", err, health)
	}
}
