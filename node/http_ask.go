package node

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"reflect"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node/api"
)

// asked is one request, as far as it is understood.
type asked struct {
	face    *face
	node    *Node
	route   api.Route
	http    *http.Request
	visitor visitor
	request fsm.RequestID // of a change
	view    *fsm.View     // the local state when it came
	fresh   bool          // view is linearizable
	age     time.Duration // of the state at another node that did it
}

// endpoint serves one route. request and response are zero values of the types
// that it takes and gives, for the test against the table.
type endpoint struct {
	route             api.Route
	request, response any
	secrets           int
	serve             func(ctx context.Context, w http.ResponseWriter, a *asked) (any, error)
}

// ask makes an endpoint that takes a query or a JSON body.
func ask[Q, A any](serve func(ctx context.Context, a *asked, q *Q) (A, error)) endpoint {
	return endpoint{request: *new(Q), response: *new(A), serve: func(ctx context.Context, w http.ResponseWriter, a *asked) (any, error) {
		q := new(Q)
		if err := a.read(w, q); err != nil {
			return nil, err
		}
		return serve(ctx, a, q)
	}}
}

// look makes an endpoint that takes nothing.
func look[A any](serve func(ctx context.Context, a *asked) (A, error)) endpoint {
	return endpoint{response: *new(A), serve: func(ctx context.Context, w http.ResponseWriter, a *asked) (any, error) {
		if len(a.http.URL.Query()) > 0 {
			return nil, malformed("%s takes no query", a.route.Path)
		}
		return serve(ctx, a)
	}}
}

// enter makes an endpoint that takes secrets, which are wiped when it is done.
func enter[A any](count int, serve func(ctx context.Context, a *asked, secrets []*secret.Bytes) (A, error)) endpoint {
	return endpoint{response: *new(A), secrets: count, serve: func(ctx context.Context, w http.ResponseWriter, a *asked) (any, error) {
		if err := a.wantType(api.TypeSecrets); err != nil {
			return nil, err
		}
		raw, err := api.ReadSecrets(http.MaxBytesReader(w, a.http.Body, api.MaxBody), count)
		var secrets []*secret.Bytes
		for _, b := range raw {
			s := secret.Take(b)
			defer s.Wipe()
			secrets = append(secrets, s)
		}
		if err != nil {
			return nil, malformed("%v", err)
		}
		return serve(ctx, a, secrets)
	}}
}

// text makes an endpoint whose answer is not JSON of our types.
func text(serve func(ctx context.Context, w http.ResponseWriter, a *asked) error) endpoint {
	return endpoint{serve: func(ctx context.Context, w http.ResponseWriter, a *asked) (any, error) {
		return nil, serve(ctx, w, a)
	}}
}

// read fills q from the query or the body, strictly.
func (a *asked) read(w http.ResponseWriter, q any) error {
	if a.route.Query != nil {
		if err := api.DecodeQuery(a.http.URL.Query(), q); err != nil {
			return malformed("%v", err)
		}
		return nil
	}
	if err := a.wantType(api.TypeJSON); err != nil {
		return err
	}
	content, err := io.ReadAll(http.MaxBytesReader(w, a.http.Body, api.MaxBody))
	if err == nil {
		err = decodeBody(content, q)
	}
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return &api.Error{Code: api.CodeTooLarge, Message: "the request is longer than 1 MiB", Hint: "send less at once"}
	}
	if err != nil {
		return malformed("the body is not what %s takes: %v", a.route.Path, err)
	}
	return nil
}

func decodeBody(content []byte, q any) error {
	body := json.NewDecoder(bytes.NewReader(content))
	body.DisallowUnknownFields()
	if err := body.Decode(q); err != nil {
		return err
	}
	if _, end := body.Token(); end != io.EOF {
		return errors.New("something follows the body")
	}
	return namedOnce(content, reflect.TypeOf(q))
}

// wantType keeps a page in somebody's browser from sending forms here under
// that person's key.
func (a *asked) wantType(want string) error {
	got, _, err := mime.ParseMediaType(a.http.Header.Get("Content-Type"))
	if err != nil || got != want {
		return malformed("the body of %s is of type %s", a.route.Path, want)
	}
	return nil
}

// requestID reads the ID that makes a repeated change harmless.
func (a *asked) requestID() error {
	given := a.http.Header.Get(api.HeaderRequest)
	if !a.route.Changes {
		return nil
	}
	raw, err := hex.DecodeString(given)
	if err != nil || len(raw) != len(a.request) || hex.EncodeToString(raw) != given {
		return &api.Error{Code: api.CodeBadRequest, Message: "a change carries the header " + api.HeaderRequest + " with a request ID of 32 hexadecimal digits",
			Hint: "draw 16 random bytes for each change, and send the same ones when you repeat it"}
	}
	copy(a.request[:], raw)
	if a.request == (fsm.RequestID{}) {
		return malformed("a request ID of zeros is nobody's")
	}
	return nil
}

// look brings the view up to date where a majority answers soon; else the
// answer comes from what this node has, and says how old that is.
func (a *asked) look(ctx context.Context) error {
	if a.node.cluster.Load() == nil {
		return a.node.outside()
	}
	a.view = a.node.view()
	if !a.node.hasQuorum() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	if view, err := a.node.consistent(ctx); err == nil {
		a.view, a.fresh = view, true
	}
	return nil
}

// change proposes in the caller's name, under the caller's request ID, and
// brings the view up to date.
func (a *asked) change(ctx context.Context, body fsm.Body) (fsm.Result, error) {
	result, err := a.node.propose(ctx, fsm.Command{
		Header: fsm.Header{Request: a.request, Actor: fsm.Actor{Who: a.visitor.fingerprint, Node: a.node.id}}, Body: body,
	})
	a.view = a.node.view()
	if err == nil {
		a.fresh = true // it contains the change, and everything before it
	}
	return result, err
}

// write sends an answer. Endpoints of text have written theirs.
func (f *face) write(w http.ResponseWriter, a *asked, reply any) {
	if reply == nil {
		return
	}
	content, err := json.Marshal(reply)
	if err != nil {
		f.fail(w, err)
		return
	}
	f.heads(w, a.ageOf())
	w.Header().Set("Content-Type", api.TypeJSON)
	if health, ok := reply.(api.Health); ok && a.route.Name == api.HealthReady && !health.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	// The client has gone if this fails, and there is nobody to tell.
	w.Write(append(content, '\n'))
}
